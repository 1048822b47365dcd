"""Run the guides of the documentation, and write the outputs of their commands into the pages.

    python -m scripts.record_guides [PAGE...]

A `text` block directly after a block of commands is replaced by what the commands print. Run it with
the Python of an environment that has the packages that the guides install, and no others: the
packages of the tests add lines to the outputs.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.support.guides import GUIDES, ROOT, read_blocks, run_guide

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def record(page: str) -> None:
    """Run a page and update its outputs."""
    path = ROOT / page
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    blocks = read_blocks("".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        outputs = run_guide(page, Path(folder))
    # From the end, so that the line numbers of earlier blocks stay right.
    for number in sorted(outputs, reverse=True):
        following = blocks[number + 1] if number + 1 < len(blocks) else None
        if following is not None and following.language == "text":
            output = _ESCAPES.sub("", outputs[number])
            shown = [line.rstrip() + "\n" for line in output.strip("\n").splitlines()]
            lines[slice(*following.lines)] = shown
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Record the pages in the arguments, or all."""
    for page in sys.argv[1:] or GUIDES:
        record(page)


if __name__ == "__main__":
    main()
