#!/usr/bin/env python3
"""Write the commands and options in docs/reference/cli.md, with typer's own generator.

    scripts/cli_reference.py            update the page
    scripts/cli_reference.py --check    exit with 1 if the page is out of date

The text around the commands is written by hand.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

from _page_tables import write_tables

OPTIONS = ("utils", "docs", "--name", "llamatelemetry")
PAGE = Path(__file__).parents[1] / "docs/reference/cli.md"
# Every command has these, and the page describes them.
COMMON = re.compile(r"^\* `--help`.*\n|^\*\*Options\*\*:\n\n(?=\n|Example)", re.MULTILINE)


def commands() -> str:
    """Return a section for each command, in the order of the help."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "llamatelemetry.cli._app", *OPTIONS],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # The part before the first command lists the commands with shortened descriptions.
    _, begin, rest = html.unescape(made).partition("\n## ")
    text = COMMON.sub("", f"{begin.strip()} {rest}").strip()
    return re.sub(r"^Example: (.+)", r"Example: `\1`", text, flags=re.MULTILINE)


if __name__ == "__main__":
    raise SystemExit(
        write_tables(PAGE, "scripts/cli_reference.py", {"commands": commands}, sys.argv[1:])
    )
