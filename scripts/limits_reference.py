#!/usr/bin/env python3
"""Write the table of limits in docs/reference/limits.md from the limits in the code.

    scripts/limits_reference.py            update the page
    scripts/limits_reference.py --check    exit with 1 if the page is out of date

The text around the table is written by hand.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from _page_tables import write_tables

from llamatelemetry._limits import LIMITS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/limits.md"


def table() -> str:
    """Return the table of all limits, by name."""
    for path in sorted((ROOT / "src").rglob("*.py")):
        if " Limit(" in (text := path.read_text(encoding="utf-8")) or "@Limit(" in text:
            importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    rows = [
        f"| `{name}` | {limit.entries} | {limit.most:,} | {limit.rule} |"
        for name, limit in sorted(LIMITS.items())
    ]
    return "\n".join(("| Name | Entries | Limit | When full |", "|---|---|---|---|", *rows))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(write_tables(PAGE, "scripts/limits_reference.py", {"limits": table}, arguments))
