"""`scripts/instruction_counts.py`: what counts as a regression, and machines that cannot count."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.instruction_counts import RECORD, TOLERANCE, regressions

SCRIPT = Path(__file__).parents[1] / "scripts" / "instruction_counts.py"
RECORDED = {"call": 0.1, "chunk": 0.02, "start": 0.15}


@pytest.mark.parametrize("name", RECORDED)
def test_only_a_clear_increase_is_a_regression(name):
    above, below = (RECORDED[name] * (1 + TOLERANCE + by) for by in (0.01, -0.01))
    assert regressions({**RECORDED, name: below}, RECORDED) == []
    [message] = regressions({**RECORDED, name: above}, RECORDED)
    assert message == f"{name}: {above:.4f}, recorded {RECORDED[name]:.4f}"


def test_record_has_every_ratio():
    for ratios in json.loads(RECORD.read_text()).values():
        assert list(ratios) == list(RECORDED)


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({}, "valgrind is not installed"),
        ({"valgrind": 0, "cc": 1}, "there is no C compiler, or valgrind's headers are missing"),
        ({"valgrind": 1, "cc": 0}, "valgrind cannot run this Python"),
    ],
)
def test_machine_that_cannot_count_skips(tmp_path, programs, reason):
    for name, status in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"Skipped: {reason}.\n"
