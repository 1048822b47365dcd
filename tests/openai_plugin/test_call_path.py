"""Limits of the modules that a plain call passes through; `benchmarks/call_path.py` lists them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "call_path.py"
MODULES = 12
MOVES = 30


def test_plain_call_stays_within_its_limits_of_modules_and_moves():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--verbose"], capture_output=True, text=True, check=True
    )
    summary, *details = done.stdout.splitlines()
    modules, moves = (int(part.split()[1]) for part in summary.split(", "))
    assert (modules <= MODULES, moves <= MOVES) == (True, True), done.stdout
    assert len(details) == modules + moves
