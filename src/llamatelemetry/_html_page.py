"""A page as one HTML file, rendered from a package's template. It needs no network."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import required_by

if TYPE_CHECKING:
    from jinja2 import Environment


def fill_page(package: str, template: str, *, feature: str, **values: Any) -> str:
    """Render a template of a package's directory `templates`. All values are escaped.

    Characters that cannot be encoded are replaced.

    The template can include the drawing scripts in `llamatelemetry/templates`. Besides `values`,
    it receives `version`, and `nonce`, which its scripts need to run. `feature` names the page in
    the error message.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    from llamatelemetry import __version__

    page = (
        _environment(package, feature)
        .get_template(template)
        .render(nonce=secrets.token_urlsafe(16), version=__version__, **values)
    )
    # Half of a surrogate pair, as in the text of a truncated emoji, cannot be encoded.
    return page.encode(errors="replace").decode()


def check_installed(feature: str) -> None:
    """Raise `ImportError` before the work, instead of after it, if Jinja2 is not installed."""
    _environment("llamatelemetry", feature)


def _environment(package: str, feature: str) -> Environment:
    with required_by(feature, "llamatelemetry-core[report]"):
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("llamatelemetry")]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
