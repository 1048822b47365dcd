"""A process that a signal ends exports its last calls, and ends as it does without llamatelemetry.

The signal follows the last call at once, long before the SDK's threads export it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes.observed_processes import (
    GUNICORN,
    HERE,
    IN_CODE,
    INSTRUMENT,
    SCRIPTS,
    Seen,
    ask,
    environment,
    extra_calls,
    receiver,
    serving,
)
from tests.support.children import with_signals
from tests.support.otlp_receiver import Received
from tests.support.selection import slow_except

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

TIMES = 5  # as in `signaled.py`
MODES = {"instrument": {}, "init": IN_CODE}


def run_program(
    program: str, number: int, mode: str, received: Received, model: str, **variables: str
) -> tuple[list[int], int]:
    """Run a program, send it a signal, and return the processes with calls and the exit status."""
    command = [sys.executable, "signaled.py", program]
    process = subprocess.Popen(
        with_signals([INSTRUMENT, *command] if mode == "instrument" else command),
        cwd=HERE,
        env=environment(received, model, **MODES.get(mode, {}), **variables),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            pids = [int(pid) for pid in process.stdout.readline().split()]
            for pid in pids or [process.pid]:
                subprocess.run(["kill", f"-{number}", str(pid)], check=False)
            return pids, process.wait(60)
        finally:
            process.kill()


PROGRAMS = {
    "plain program, SIGTERM": ("wait", signal.SIGTERM, -signal.SIGTERM),
    "plain program, SIGHUP": ("wait", signal.SIGHUP, -signal.SIGHUP),
    "native code, SIGTERM": ("run_native_code", signal.SIGTERM, -signal.SIGTERM),
    "native code, SIGHUP": ("run_native_code", signal.SIGHUP, -signal.SIGHUP),
    "own handler": ("exit_in_own_handler", signal.SIGTERM, 7),
    "own handler for a while": ("clean_up_after_own_handler", signal.SIGTERM, 8),
    "SIGHUP ignored": ("ignore_hangup", signal.SIGHUP, 9),
    "forked child": ("wait_in_child", signal.SIGTERM, signal.SIGTERM),
}


FAST = {"plain program, SIGTERM", "native code, SIGTERM", "own handler for a while"}


@pytest.mark.parametrize("mode", slow_except({"init"}, MODES))
@pytest.mark.parametrize("program", slow_except(FAST, PROGRAMS))
def test_signaled_program_exports_its_calls_and_ends_as_before(program, mode, model):
    name, number, status = PROGRAMS[program]
    with receiver() as received:
        _, bare = run_program(name, number, "bare", received, model)
        pids, code = run_program(name, number, mode, received, model)
        assert (code, bare) == (status, status)
        Seen(received).check(Counter(dict.fromkeys(pids, TIMES)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_workers_of_terminated_pool_export_their_calls(mode, model):
    with receiver() as received:
        pids, code = run_program("terminate_pool", 0, mode, received, model)
        assert code == 0
        Seen(received).check(Counter(dict.fromkeys(pids, TIMES)))


def test_signaled_program_ends_when_collector_does_not_respond(model):
    with receiver() as received:
        received.may_respond.clear()
        try:
            _, code = run_program("wait", signal.SIGTERM, "init", received, model)
        finally:
            received.may_respond.set()
    assert code == -signal.SIGTERM


def test_flush_on_signal_can_be_disabled(model):
    with receiver() as received:
        variables = {"LLAMATELEMETRY_FLUSH_ON_SIGNAL": "false"}
        _, code = run_program("wait", signal.SIGTERM, "init", received, model, **variables)
        assert code == -signal.SIGTERM
        assert received.spans() == []


UVICORN = [str(SCRIPTS / "uvicorn"), "--port", "{port}"]
SERVERS = {
    "uvicorn": ([*UVICORN, "web:asgi"], -signal.SIGTERM),
    "uvicorn --workers 2": ([*UVICORN, "--workers", "2", "web:asgi"], 0),
    "gunicorn, uvicorn worker": (
        [*GUNICORN[:-1], "-k", "uvicorn.workers.UvicornWorker", "web:asgi"],
        0,
    ),
    "gunicorn": (GUNICORN, 0),
}


@pytest.mark.parametrize("mode", slow_except({"instrument"}, MODES))
@pytest.mark.parametrize("server", slow_except({"uvicorn"}, SERVERS))
def test_terminated_server_exports_its_calls_and_ends_as_before(server, mode, model):
    command, status = SERVERS[server]
    instrument = [INSTRUMENT] if mode == "instrument" else []
    with receiver() as received:
        environ = environment(received, model, **MODES[mode])
        with (
            serving([*instrument, *command], environ) as (url, process),
            ThreadPoolExecutor(4) as pool,
        ):
            made = Counter(pool.map(ask, [url] * TIMES))
            if mode == "init":
                # Each worker makes a call when it imports the program.
                while server != "uvicorn" and len(made) < 2:
                    made.update(pool.map(ask, [url] * TIMES))
                made += extra_calls(command, made)
        assert process.returncode == status
        Seen(received).check(made)


@pytest.mark.slow
def test_terminated_server_without_telemetry_ends_as_expected(model):
    """The statuses in `SERVERS` are those of the servers themselves."""
    with receiver() as received:
        for command, status in SERVERS.values():
            with serving(command, environment(received, model)) as (url, process):
                ask(url)
            assert process.returncode == status
        assert received.spans() == []
