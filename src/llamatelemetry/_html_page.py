"""A page as one HTML file, rendered from a package's template. It needs no network."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import required_by

if TYPE_CHECKING:
    from jinja2 import Environment


def fill_page(package: str, template: str, *, feature: str, **values: Any) -> str:
    """Render a template of a package's directory `templates`. All values are escaped.

    The template can include the drawing scripts in `llamatelemetry/templates`. It also receives
    `version`, and `nonce`, which its scripts need to run.

    Args:
        package: Package of the template.
        template: File name of the template.
        feature: Description of the page, for the error message.
        values: Other values of the template.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    from llamatelemetry import __version__

    return (
        _environment(package, feature)
        .get_template(template)
        .render(nonce=secrets.token_urlsafe(16), version=__version__, **values)
    )


def check_installed(feature: str) -> None:
    """Raise before the work, not after it, if pages cannot be rendered.

    Raises:
        ImportError: Jinja2 is not installed.
    """
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
