"""A page as one HTML file, made of a package's template: it needs no network to be looked at."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from llamatelemetry._optional import required_by

if TYPE_CHECKING:
    from jinja2 import Environment


def fill_page(package: str, template: str, *, feature: str, **values: Any) -> str:
    """Fill a template of a package's folder `templates`; no value is taken for markup.

    The template can include the drawing scripts in `llamatelemetry/templates`. It also gets
    `nonce`, by which alone scripts are to run, and `version`.

    Args:
        package: Package whose template it is.
        template: File name of the template.
        feature: What the page is, for the error.
        values: The other values that the template names.

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
    """Raise before the work rather than after it if pages cannot be made.

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
