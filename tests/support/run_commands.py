"""`llamatelemetry run` as a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.children import with_signals

RUN = [sys.executable, "-m", "llamatelemetry.cli", "run"]
SPAN = """
from opentelemetry import trace
trace.get_tracer("program").start_span("by the program").end()
"""


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        with_signals([*RUN, *arguments]),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"COLUMNS": "150"} | environment,
    )
