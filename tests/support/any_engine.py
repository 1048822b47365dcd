"""Run `examples/any_engine.py` under `llamatelemetry run`, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = "examples/any_engine.py"


def run_any_engine(*urls: str) -> subprocess.CompletedProcess[str]:
    """Run the program for these servers. The table is in standard error."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "llamatelemetry.cli", "run", "--no-report"]
        return subprocess.run(
            [
                *(*command, "--output", f"{folder}/run.db", "--"),
                *(sys.executable, ROOT / PROGRAM, *urls),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "COLUMNS": "140", "OTEL_PYTHON_DISTRO": "llamatelemetry"},
        )


def table_rows(output: str) -> dict[tuple[str, str], list[str]]:
    """Return the cells of each row of the table, by operation and model."""
    lines = [line.split() for line in output.splitlines()]
    return {
        (words[0], words[2] if words[1] == "»" else words[1]): words
        for words in lines
        if len(words) > 2 and words[0] in {"chat", "text_completion"}
    }
