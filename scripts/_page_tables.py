"""Tables of a documentation page that a script writes, between two comments in the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


def write_tables(
    page: Path, script: str, tables: Mapping[str, Callable[[], str]], arguments: list[str]
) -> int:
    """Update the tables of a page. With the argument `--check`, only compare them.

    Args:
        page: The page.
        script: Path of the calling script, as it stands in the page.
        tables: Functions that return the tables, by the names that stand in the page.
        arguments: Arguments of the script.

    Returns:
        The exit status: 1 if the page is out of date.
    """
    present = page.read_text(encoding="utf-8")
    current = present
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by {script} -->\n", f"<!-- end of {name} -->\n"
        before, found, rest = current.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise SystemExit(
                f"{page.name} must contain the lines {begin.strip()} and {end.strip()}"
            )
        current = f"{before}{begin}\n{table()}\n\n{end}{after}"
    if arguments != ["--check"]:
        page.write_text(current, encoding="utf-8")
        return 0
    if present != current:
        print(f"{page.name} is out of date. Run {script}")
        return 1
    return 0
