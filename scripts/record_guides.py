"""Run the guides of the documentation, and write the outputs of their commands into the pages.

    python -m scripts.record_guides [PAGE...]

A `text` block directly after a block of commands is replaced by what the commands print. Run it with
the Python of an environment that has the packages that the guides install, and no others: the
packages of the tests add lines to the outputs. README.md shows pictures and outputs of the golden
path.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from scripts._guide_pictures import take_pictures
from scripts._page_tables import write_tables
from tests.support.guides import GUIDES, ROOT, read_blocks, run_guide

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def record(page: str) -> None:
    """Run a page and update its outputs."""
    path = ROOT / page
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    blocks = read_blocks("".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        outputs = {
            number: _plain(output) for number, output in run_guide(page, Path(folder)).items()
        }
        if (report := Path(folder, "before.html")).is_file():
            take_pictures(report, ROOT / "docs/images")
            write_readme("\n".join(outputs.values()))
    # From the end, so that the line numbers of earlier blocks stay right.
    for number in sorted(outputs, reverse=True):
        following = blocks[number + 1] if number + 1 < len(blocks) else None
        if following is not None and following.language == "text":
            lines[slice(*following.lines)] = [outputs[number]]
    path.write_text("".join(lines), encoding="utf-8")


def _plain(output: str) -> str:
    """Return an output without colors, spaces at line ends, and blank lines around it."""
    lines = _ESCAPES.sub("", output).strip("\n").splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def write_readme(output: str) -> None:
    """Quote the golden path in README.md: the table of calls, and one call as `why` explains it.

    Args:
        output: Output of the whole page.
    """
    table = re.search(r"^Calls\n(?:.+\n){4}", output, re.MULTILINE)
    explained = re.findall(r"^[0-9a-f]{6}  .+\n(?: +\d.*\n)+", output, re.MULTILINE)
    call = next((each for each in explained if "system changed" in each), None)
    if table is None or call is None:
        raise SystemExit("The output has no table of calls, or no call whose prompt has changed")
    quoted = f"{table[0]}\n{call}".strip()
    write_tables(
        ROOT / "README.md",
        "scripts/record_guides.py",
        {"run": lambda: f"```text\n{quoted}\n```"},
        [],
    )


def main() -> None:
    """Record the pages in the arguments, or all."""
    for page in sys.argv[1:] or GUIDES:
        record(page)


if __name__ == "__main__":
    main()
