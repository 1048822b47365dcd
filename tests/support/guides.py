"""Run a whole page of the documentation as a reader does: in one directory and one shell.

`test_docs.py` runs each block of the other pages by itself. In a guide, later commands need what
earlier ones have left: files, variables, a server in the background. A fence with a title is a file
that the reader saves. Other Python is a cell of a notebook, and all cells are one program, which
runs after the commands. A `text` block after commands is their output;
`scripts/record_guides.py` writes it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
GUIDES = (
    "docs/get-started/quick-start.md",
    "docs/get-started/golden-path.md",
    "docs/get-started/kaggle.md",
)
# Ports of the guides. Each run gets free ones instead.
_PORTS = ("8080", "9464")
_SHELLS = frozenset({"sh", "bash"})
_SKIP = re.compile(r"<!-- test: skip \(.+\) -->")
_MARK = "@@@ block "
# A terminal of this width shows all columns of the tables.
_COLUMNS = "100"


class Block(NamedTuple):
    """A fenced block: its language, title, code, and the lines of the code in the page."""

    language: str
    title: str | None
    code: str
    lines: tuple[int, int]
    is_skipped: bool


def read_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    blocks: list[Block] = []
    before = ""
    for token in MarkdownIt().parse(text):
        if token.type == "fence" and token.map:
            title = re.search(r'title="([^"]+)"', token.info)
            blocks.append(
                Block(
                    language=(token.info.split() or [""])[0],
                    title=title[1] if title else None,
                    code=token.content,
                    lines=(token.map[0] + 1, token.map[1] - 1),
                    is_skipped=bool(_SKIP.search(before)),
                )
            )
        before = token.content if token.type == "html_block" else ""
    return blocks


def run_guide(page: str, folder: Path, *, timeout_s: float = 570.0) -> dict[int, str]:
    """Run the blocks of a page in order, and return the output of each by its number.

    Raises:
        AssertionError: A command failed; the message has the output.
    """
    blocks = read_blocks((ROOT / page).read_text(encoding="utf-8"))
    ports = {shown: str(free_port()) for shown in _PORTS}
    script = "\n".join(_commands(blocks, folder, ports))
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        finally:
            # A failed run can leave a server in the background.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{page}\n{output}"
    for shown, port in ports.items():
        output = output.replace(port, shown)
    parts = output.replace(f"{folder}/", "").split(_MARK)[1:]
    return {int(number): text for number, _, text in (part.partition("\n") for part in parts)}


def _commands(blocks: list[Block], folder: Path, ports: dict[str, str]) -> list[str]:
    commands: list[str] = []
    cells: list[str] = []
    for number, block in enumerate(blocks):
        code = block.code
        for shown, port in ports.items():
            code = code.replace(shown, port)
        if block.is_skipped:
            continue
        if block.title is not None:
            (folder / block.title).write_text(code)
        elif block.language in _SHELLS:
            commands += [f"echo '{_MARK}{number}'", code]
        elif block.language == "python":
            cells += [f"print('{_MARK}{number}', flush=True)", code]
    if cells:
        (folder / "cells.py").write_text("\n".join(cells))
        commands.append("python cells.py")
    return commands


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_", "OPENAI_"))
    }
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # opentelemetry-distro is installed for other tests, too.
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "COLUMNS": _COLUMNS,
    }
