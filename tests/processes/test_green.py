"""Programs with greenlets: gevent and eventlet replace threads and locks while they run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from tests.processes.test_workers import (
    HERE,
    IN_CODE,
    INSTRUMENT,
    Seen,
    environment,
)
from tests.support.components import require
from tests.support.model_server import model_server
from tests.support.otlp_receiver import http_receiver
from tests.support.selection import slow_except

PATCH = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"
# The library, when it replaces threads, and further variables.
PROGRAMS = {
    "gevent in the program": ("gevent", "first", {}),
    "gevent after a stream": ("gevent", "after a stream", {}),
    "gevent by OpenTelemetry's variable": ("gevent", "elsewhere", {PATCH: "patch_all"}),
    "gevent before init in code": ("gevent", "first", IN_CODE),
    "gevent after init in code": ("gevent", "after init", IN_CODE),
    "eventlet in the program": ("eventlet", "first", {}),
    "eventlet before init in code": ("eventlet", "first", IN_CODE),
    "eventlet after init in code": ("eventlet", "after init", IN_CODE),
}
FAST = {"gevent in the program", "eventlet in the program"}


@pytest.mark.parametrize("program", slow_except(FAST, PROGRAMS))
def test_program_with_greenlets_exports_all_calls(program):
    library, when, variables = PROGRAMS[program]
    require(library)
    command = [sys.executable, "green.py", library, when]
    with model_server() as model, http_receiver() as received:
        done = subprocess.run(
            command if variables is IN_CODE else [INSTRUMENT, *command],
            cwd=HERE,
            env=environment(received, model, **variables),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        made = Counter({int(pid): n for pid, n in json.loads(done.stdout).items()})
        assert made.total() == 5 + (when == "after a stream")
        Seen(received).check(made)
