"""No thread can be started: a process limit, or the end of the interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("way", ["read", "closed", "left with", "closed over HTTP"])
def test_stream_without_threads_is_closed_and_recorded(way):
    program = [sys.executable, "-m", "tests.processes.streams_without_threads", way]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"closed": True, "spans": ["chat smol"]}
