"""Servers, receivers and clocks with faults, for scripts/fault_table.py."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts._soak_server import model_server, response  # noqa: E402
from tests.support.otlp_receiver import Received, http_receiver  # noqa: E402

_PATHS = ("/v1/traces", "/v1/metrics", "/v1/logs")
_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static long offset;

void step_clock(long seconds) { offset += seconds; }

int clock_gettime(clockid_t clock, struct timespec *result) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, result);
    if (clock == CLOCK_REALTIME) result->tv_sec += offset;
    return status;
}
"""


class CannotRunError(Exception):
    """A fault that this machine cannot have, with the reason."""


@dataclass
class Server:
    """A model server: its URL, and its process if it is one of its own."""

    url: str
    pid: int = 0


@contextmanager
def scripted() -> Iterator[Server]:
    """Run a scripted server in this process."""
    with model_server() as url:
        yield Server(url)


@contextmanager
def llama_cpp() -> Iterator[Server]:
    """Run a real llama.cpp server in a process of its own."""
    try:
        from tests.support.llama_server import embedded_server
    except ImportError as error:
        raise CannotRunError(f"needs llama.cpp: {error}") from None
    with embedded_server() as server:
        yield Server(server.origin, server.pid)


@contextmanager
def dripping() -> Iterator[Server]:
    """Run a server that sends each byte of a stream by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                request = b""
                while b"\r\n\r\n" not in request or not request.endswith(b"}"):
                    request += connection.recv(65536)
                answer = response("smol", stream=b'"stream":true' in request)
                for index in range(len(answer)):
                    connection.sendall(answer[index : index + 1])

        _serve(listener, serve)
        yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}")


@contextmanager
def no_such_host() -> Iterator[Server]:
    """Name a host that DNS does not know."""
    yield Server("http://model.invalid:8080")


def _serve(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


@contextmanager
def accepting() -> Iterator[Received]:
    """Run a receiver that accepts everything."""
    with http_receiver(keep_alive=True) as received:
        yield received


@contextmanager
def absent() -> Iterator[Received]:
    """Name a port that nothing listens on."""
    with http_receiver() as received:
        pass
    yield received


def refusing(status: int) -> Callable[[], AbstractContextManager[Received]]:
    """Return a receiver that responds with a status."""

    @contextmanager
    def receiver() -> Iterator[Received]:
        with http_receiver(keep_alive=True) as received:
            received.status_of = dict.fromkeys(_PATHS, status)
            yield received

    return receiver


def slow(seconds: float) -> Callable[[], AbstractContextManager[Received]]:
    """Return a receiver that does not respond for some seconds after the first request."""

    @contextmanager
    def receiver() -> Iterator[Received]:
        with http_receiver(keep_alive=True) as received:
            received.may_respond.clear()

            def respond_later() -> None:
                while not received.started and not stopped.wait(0.01):
                    pass
                stopped.wait(seconds)
                received.may_respond.set()

            stopped = threading.Event()
            thread = threading.Thread(target=respond_later)
            thread.start()
            try:
                yield received
            finally:
                stopped.set()
                thread.join()

    return receiver


@contextmanager
def resetting() -> Iterator[Received]:
    """Run a receiver that resets each connection."""

    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        _serve(listener, reset)
        yield Received(listener.getsockname()[1])


class _Unresolved(Received):
    url = "http://collector.invalid:4318"


@contextmanager
def unresolved() -> Iterator[Received]:
    """Name a collector that DNS does not know."""
    yield _Unresolved()


def build_clock(folder: Path) -> Path:
    """Build the library that shows a program a clock which it can set."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotRunError("needs a C compiler")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
