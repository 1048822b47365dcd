#!/usr/bin/env python3
"""Writes the table of options in docs/configuration.md from their declarations.

    scripts/config_reference.py            writes it
    scripts/config_reference.py --check    says whether it is current

The text around the table is written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llamatelemetry.config import OPTIONS, Option

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
BEGIN = "<!-- options: written by scripts/config_reference.py -->\n"
END = "<!-- end of options -->\n"


def table() -> str:
    """A row for each option, in the order in which they are declared."""
    rows = ["| option | variable | accepts | default | |", "|---|---|---|---|---|"]
    rows += [row(name, option) for name, option in OPTIONS.items()]
    return "\n".join(rows) + "\n"


def row(name: str, option: Option) -> str:
    """One line of the table."""
    variables = [each for each in (option.variable, *option.otel_variables) if each]
    shown = [f"`{name}`", "<br>".join(f"`{each}`" for each in variables) or "in code only"]
    shown += [option.reader.accepts, option.default_doc, f"{option.doc}."]
    return "| " + " | ".join(text.replace("|", "\\|") for text in shown) + " |"


def with_table(page: str) -> str:
    """The page with the table of today."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"{PAGE.name} lacks the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Gives the exit status: 1 when the check finds the table out of date."""
    page = PAGE.read_text()
    current = with_table(page)
    if arguments != ["--check"]:
        PAGE.write_text(current)
        return 0
    if page != current:
        print("docs/configuration.md is out of date: run scripts/config_reference.py")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
