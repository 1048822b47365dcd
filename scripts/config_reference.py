#!/usr/bin/env python3
"""Write the table of options in docs/reference/configuration.md from their declarations.

    scripts/config_reference.py            update the page
    scripts/config_reference.py --check    exit with 1 if the page is out of date

The text around the table is written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from _page_tables import write_tables

from llamatelemetry.config import OPTIONS, Option

PAGE = Path(__file__).parents[1] / "docs/reference/configuration.md"
HEADER = "| Option | Description | Default | Environment variable | Values |"


def table() -> str:
    """Return the table, with a row for each option in order of declaration."""
    rows = [HEADER, "|---|---|---|---|---|"]
    rows += [row(name, option) for name, option in OPTIONS.items()]
    return "\n".join(rows)


def row(name: str, option: Option) -> str:
    """Return the row of one option."""
    variables = [each for each in (option.variable, *option.otel_variables) if each]
    cells = [f"`{name}`", f"{option.doc}.", option.default_doc]
    cells += ["<br>".join(f"`{each}`" for each in variables) or "in code only"]
    cells += [option.parser.accepts]
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


if __name__ == "__main__":
    raise SystemExit(
        write_tables(PAGE, "scripts/config_reference.py", {"options": table}, sys.argv[1:])
    )
