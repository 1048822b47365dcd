"""Programs under a fault see the same with and without llamatelemetry, and losses are counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALL = "exports of metrics: 1, spans: 50"
LOST = f"| 0 spans of calls | Lost telemetry ({ALL}) |"


def spans(count: int) -> str:
    return f"| {count} spans of calls | nothing |"


FAULTS = {
    "absent": LOST,
    "slow": spans(10),
    "hanging": LOST,
    "503": LOST,
    "429": LOST,
    "400": LOST,
    "reset": LOST,
    "queue": "| Dropped ",
    "dns": LOST,
    "server-dns": spans(10),
    "killed": spans(3),
    "frozen": spans(3),
    "dripping": spans(10),
    "disk": f"| Cannot write telemetry; Lost telemetry ({ALL}) |",
    "run-disk": "; Telemetry is incomplete |",
    "clock": spans(2),
    "alarm": "| nothing |",
    "sigterm": spans(11),
    "end": spans(2),
    "fork": spans(2),
    "threads": spans(40),
    "recursion": "frames left",
    "many": spans(300),
    "closed-loop": spans(11),
    "nested": spans(10),
    "uvloop": spans(10),
    "trio": spans(10),
    "gevent": spans(10),
    "eventlet": spans(10),
}
NEEDS = {
    "killed": "xllamacpp",
    "frozen": "xllamacpp",
    "clock": "cc",
    "nested": "nest_asyncio",
    **{name: name for name in ("uvloop", "trio", "gevent", "eventlet")},
}
# Two of them run with the fast tests. Each starts two programs.
FAST = {"queue", "disk"}


def _parameters():
    for name, expected in FAULTS.items():
        marks = [] if name in FAST else [pytest.mark.slow]
        if name in NEEDS:
            marks.append(pytest.mark.needs(NEEDS[name]))
        yield pytest.param(name, expected, id=name, marks=marks)


@pytest.mark.parametrize(("name", "expected"), [*_parameters()])
def test_application_sees_the_same_under_a_fault(name, expected):
    command = [sys.executable, "scripts/fault_table.py", "--untimed", name]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "CONCURRENT": "300"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout


def test_every_fault_of_the_table_is_tested():
    shown = subprocess.run(
        [sys.executable, "scripts/fault_table.py", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == list(FAULTS)
