"""A page as one HTML file, made of a package's template: it needs no network to be looked at."""

from __future__ import annotations

import importlib
import secrets
from typing import Any


def fill_page(package: str, template: str, *, of: str, extra: str, **values: Any) -> str:
    """Fill a template of a package's folder ``templates``; no value is taken for markup.

    It also gets ``plotly``, the script that draws, ``nonce``, by which alone scripts are to run,
    and ``version``.

    Args:
        package: whose template it is.
        template: its file.
        of: what the page is, for the error.
        extra: what to install when something is missing.
        values: what else the template names.

    Raises:
        ImportError: Jinja2 or plotly is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        plotly: Any = importlib.import_module("plotly.offline")
    except ImportError as error:
        raise ImportError(f"{of} needs {error.name}: pip install '{extra}'") from error
    from llamatelemetry import __version__

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        plotly=plotly.get_plotlyjs(),
        nonce=secrets.token_urlsafe(16),
        version=__version__,
        **values,
    )
