"""Fixtures of managers with a fake llama-server."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llamatelemetry.llama import ServerConfig, ServerManager
from tests.support.fake_llama_server import NEW, faults, make_server
from tests.support.waiting import wait_for

# Found now, because some tests change PATH.
PS = shutil.which("ps")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF and general.pooling_type")
    return path


@pytest.fixture
def fake_program(tmp_path: Path) -> Path:
    return make_server(tmp_path, NEW)


@pytest.fixture
def manager(model: Path, fake_program: Path) -> Iterator[Callable[..., ServerManager]]:
    """Create managers; check at the end that no process or thread of them is left."""
    made: list[ServerManager] = []
    threads = set(threading.enumerate())

    def make(
        *, binary: object = fake_program, fault: dict | None = None, **fields
    ) -> ServerManager:
        env = {**faults(**(fault or {})), **fields.pop("env", {})}
        config = ServerConfig(model, **{"port": 0, **fields}, env=env)
        made.append(ServerManager(config, binary=binary))
        return made[-1]

    yield make
    for each in made:
        each.stop()
    assert processes_of(fake_program) == []
    # Threads of other servers may still be ending.
    wait_for(lambda: set(threading.enumerate()) <= threads)


def processes_of(fake_program: Path) -> list[int]:
    listed = subprocess.run([PS, "-ww", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    lines = [line.split(None, 1) for line in listed.splitlines()]
    return [int(pid) for pid, command in lines if str(fake_program) in command]
