#!/usr/bin/env python3
"""Write the table of options in docs/configuration.md from their declarations.

    scripts/config_reference.py            update the page
    scripts/config_reference.py --check    exit with 1 if the page is out of date

The text around the table is written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llamatelemetry.config import OPTIONS, Option

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
BEGIN = "<!-- options: written by scripts/config_reference.py -->\n"
END = "<!-- end of options -->\n"
HEADER = "| Option | Environment variable | Values | Default | Description |"


def table() -> str:
    """Return the table, with a row for each option in order of declaration."""
    rows = [HEADER, "|---|---|---|---|---|"]
    rows += [row(name, option) for name, option in OPTIONS.items()]
    return "\n".join(rows) + "\n"


def row(name: str, option: Option) -> str:
    """Return the row of one option."""
    variables = [each for each in (option.variable, *option.otel_variables) if each]
    cells = [f"`{name}`", "<br>".join(f"`{each}`" for each in variables) or "in code only"]
    cells += [option.parser.accepts, option.default_doc, f"{option.doc}."]
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def with_table(page: str) -> str:
    """Return the page with the current table."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{PAGE.name} must contain the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Update or check the page. Return the exit status."""
    page = PAGE.read_text()
    current = with_table(page)
    if arguments != ["--check"]:
        PAGE.write_text(current)
        return 0
    if page != current:
        print(f"{PAGE.name} is out of date. Run scripts/config_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
