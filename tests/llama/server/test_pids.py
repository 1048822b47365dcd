"""The process behind an origin: from managers, and from the sockets in `/proc`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamatelemetry.genai import known_servers, server_of
from llamatelemetry.genai import server_pids as pids
from llamatelemetry.genai.server_pids import pid_of, pids_of
from llamatelemetry.llama import PortTakenError, ServerConfig, ServerManager
from tests.support.fake_llama_server import faults, make_server
from tests.support.llama_server import LlamaServer
from tests.support.waiting import wait_for

LISTEN = """
    import os, socket, sys, time
    family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, reuse_port=True)
    print(listener.getsockname()[1], flush=True)
    {then}
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    pids._lookups.clear()
    yield
    pids._lookups.clear()
    assert pids._managed == {}


@pytest.fixture
def listener() -> Iterator[object]:
    """Start programs that listen: `listener(host)` returns the process and the port."""
    started: list[subprocess.Popen[str]] = []

    def start(host: str, port: int = 0, then: str = "") -> tuple[subprocess.Popen[str], int]:
        if ":" in host and not has_ipv6():
            pytest.skip("this machine has no IPv6")
        source = textwrap.dedent(LISTEN).format(then=then)
        process = subprocess.Popen(
            [sys.executable, "-c", source, host, str(port)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[ServerManager]:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF")
    config = ServerConfig(model, port=0, env=faults(helper=True))
    with ServerManager(config, binary=make_server(tmp_path)) as server:
        yield server


def test_pid_of_finds_managed_server_by_each_host_name_until_it_exits(managed, caplog):
    url, pid = managed.url, managed.pid
    port = url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        assert pid_of(f"http://{host}:{port}") == pid
    assert pids._lookups == {}, "the manager is used, not /proc"
    below = pids_of(url)
    assert pid in below
    assert len(below) == 2, "its child process belongs to it"

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: caplog.records)
    assert pid_of(url) is None
    assert pids_of(url) == frozenset()
    managed.restart()
    assert pid_of(url) == managed.pid != pid


def test_pid_of_keeps_first_manager_when_second_finds_port_taken(managed, tmp_path: Path):
    port = int(managed.url.rpartition(":")[2])
    config = ServerConfig(tmp_path / "tiny.gguf", port=port)
    with pytest.raises(PortTakenError):
        ServerManager(config, binary=tmp_path / "llama-server").start()
    assert pid_of(managed.url) == managed.pid
    assert known_servers.description_of(server_of("http", "127.0.0.1", port))


def test_pid_of_finds_unmanaged_server_by_socket(llama_server: LlamaServer):
    assert pid_of(llama_server.origin) == llama_server.pid


@pytest.mark.parametrize(
    ("bound", "queried"),
    [
        ("127.0.0.1", "http://127.0.0.1"),
        ("127.0.0.1", "http://localhost"),
        ("0.0.0.0", "https://127.0.0.1"),
        ("0.0.0.0", "http://localhost"),
        ("127.0.0.2", "http://127.0.0.2"),
        ("::1", "http://::1"),
        ("::1", "http://[::1]"),
        ("::", "http://localhost"),
    ],
)
def test_pid_of_finds_listener_by_address(listener, bound, queried):
    process, port = listener(bound)
    assert pid_of(f"{queried}:{port}") == process.pid


def test_pid_of_distinguishes_listeners_on_one_port_by_address(listener):
    first, port = listener("127.0.0.1")
    second, _ = listener("127.0.0.2", port)
    assert pid_of(f"http://127.0.0.1:{port}") == first.pid
    assert pid_of(f"http://127.0.0.2:{port}") == second.pid
    assert pid_of(f"http://127.0.0.3:{port}") is None


def test_pid_of_prefers_exact_address_to_wildcard(listener):
    everywhere, port = listener("0.0.0.0")
    here, _ = listener("127.0.0.1", port)
    assert pid_of(f"http://127.0.0.1:{port}") == here.pid
    assert pid_of(f"http://127.0.0.2:{port}") == everywhere.pid


def test_pid_of_returns_parent_of_workers_that_share_socket(listener):
    process, port = listener("127.0.0.1", then="os.fork()")
    wait_for(lambda: len(pids_of(f"http://127.0.0.1:{port}")) == 2)
    assert pid_of(f"http://127.0.0.1:{port}") == process.pid


def test_pid_of_returns_none_for_unrelated_processes_on_one_port(listener):
    _, port = listener("127.0.0.1")
    listener("127.0.0.1", port)
    assert pid_of(f"http://127.0.0.1:{port}") is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://192.0.2.7:8080",
        "http://example.com:8080",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "http://127.0.0.1:None",
        "unix:/run/llama.sock",
        "",
    ],
)
def test_pid_of_returns_none_for_remote_or_invalid_origin(origin):
    assert pid_of(origin) is None
    assert pids_of(origin) == frozenset()


def test_pid_of_caches_lookups_for_some_seconds(listener, monkeypatch: pytest.MonkeyPatch):
    process, port = listener("127.0.0.1")
    origin = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(pids, "_FOUND_TTL_S", 3600.0)
    assert pid_of(origin) == process.pid
    process.kill()
    process.communicate()
    assert pid_of(origin) == process.pid
    monkeypatch.setattr(pids, "_FOUND_TTL_S", 0.0)
    pids._lookups.clear()
    assert pid_of(origin) is None
    again, _ = listener("127.0.0.1", port)
    assert pid_of(origin) is None, "a failed lookup is cached, too"
    pids._lookups.clear()
    assert pid_of(origin) == again.pid
    assert pid_of(origin) == again.pid, "found by the files of the last process alone"
