"""Programs that use a manager and exit in different ways."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.llama.processes import is_gone, wait_until_gone
from tests.llama.server.conftest import processes_of
from tests.support.children import with_signals
from tests.support.waiting import wait_for

pytestmark = pytest.mark.needs("ps")
START = (
    "import os, signal, sys, time\n"
    "from llamatelemetry import ServerConfig, ServerManager\n"
    "server = ServerManager(ServerConfig({model!r}, port=0), binary={fake_program!r}).start()\n"
    "print(server.pid, flush=True)\n"
)


def start_parent(model: Path, fake_program: Path, code: str) -> tuple[int, subprocess.Popen[str]]:
    source = START.format(model=str(model), fake_program=str(fake_program)) + code
    parent = subprocess.Popen(
        with_signals([sys.executable, "-c", source]),
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.PIPE,
    )
    return int(parent.stdout.readline()), parent


@pytest.mark.parametrize(
    "code",
    [
        "",
        "sys.exit(3)",
        "os._exit(0)",
        "raise SystemError",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_server_ends_with_its_parent_process(model, fake_program, code):
    pid, parent = start_parent(model, fake_program, code)
    parent.communicate(timeout=20)
    wait_until_gone(pid)
    wait_for(lambda: processes_of(fake_program) == [])


def test_loading_server_ends_when_parent_is_killed(model, fake_program, monkeypatch):
    monkeypatch.setenv("FAKE", json.dumps({"load_s": 600}))
    source = (
        "from llamatelemetry import ServerConfig, ServerManager\n"
        f"server = ServerManager(ServerConfig({str(model)!r}, port=0), binary={str(fake_program)!r})\n"
        "server.start(lambda line: print(server.pid, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    wait_until_gone(pid)
    wait_for(lambda: processes_of(fake_program) == [])


@pytest.mark.slow
def test_server_that_ignores_sigterm_is_killed_when_parent_exits(model, fake_program, monkeypatch):
    monkeypatch.setenv("FAKE", json.dumps({"ignores_term": True}))
    pid, parent = start_parent(model, fake_program, "os._exit(0)")
    parent.communicate(timeout=20)
    wait_until_gone(pid, 20)


def test_server_started_by_thread_outlives_thread_and_ends_with_process(model, fake_program):
    # The parent-death signal of Linux would end the server with the thread.
    pid, parent = start_parent(
        model,
        fake_program,
        "import threading\n"
        "server.stop()\n"
        "thread = threading.Thread(target=server.start)\n"
        "thread.start(); thread.join()\n"
        "print(server.pid, server.is_healthy(), flush=True)\n"
        "time.sleep(600)\n",
    )
    pid, healthy = parent.stdout.readline().split()
    time.sleep(0.3)  # Time for a parent-death signal of the thread to end the server.
    assert healthy == "True"
    assert not is_gone(int(pid))
    parent.kill()
    parent.communicate()
    wait_until_gone(int(pid))


def test_forked_child_neither_stops_server_nor_keeps_it_alive(model, fake_program):
    pid, parent = start_parent(
        model,
        fake_program,
        "child = os.fork()\n"
        "if not child:\n"
        "    healthy = server.is_healthy(); server.logs(); server.stop()\n"
        "    print(healthy, flush=True); sys.stdout.close(); os.close(1); os.close(2)\n"
        "    time.sleep(20); os._exit(0)\n"
        "time.sleep(600)\n",
    )
    assert parent.stdout.readline() == "True\n"
    time.sleep(0.3)  # Time for the child's `stop()` to end the server.
    assert not is_gone(pid)
    parent.kill()
    parent.communicate()
    wait_until_gone(pid)
