"""A server as a process under the watchdog: started, read, signalled, waited for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from llamatelemetry.llama._endings import describe_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llamatelemetry.llama._server_log import ServerLog

_WATCHDOG = Path(__file__).with_name("_watchdog.py")
# How long a server may take for a graceful end once its manager has gone.
_GRACE_AFTER_MANAGER_S = 5.0
_READ_BYTES = 65536
_LAST_LINES_S = 2.0


class ServerProcess:
    """One run of a server. Its output is always read, so it cannot block on a full pipe.

    ``on_exit`` is called on a thread of its own when the server has ended, after its last
    log line has been taken.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: ServerLog
    ) -> None:
        self.log = log
        self.on_exit: Callable[[], None] | None = None
        self._pid: int | None = None
        self._exit_code: int | None = None
        self._error: str | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WATCHDOG), str(_GRACE_AFTER_MANAGER_S), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            # Ctrl-C in the terminal goes to us alone; we decide when the server ends.
            start_new_session=True,
        )
        self._pump = _thread("llama-server-log", self._read_log)
        self._watcher = _thread("llama-server-watch", self._read_reports)

    @property
    def pid(self) -> int | None:
        """The server's process id; ``None`` when it could not be started."""
        self._started.wait()
        return self._pid

    @property
    def session(self) -> int:
        """The session id of the server and of whatever it starts."""
        return self._watchdog.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, and all it logged has been read."""
        return self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """How it ended: negative for a signal, ``None`` when unknown or still running."""
        return self._exit_code

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False when it has not come in time."""
        return self._ended.wait(timeout_s)

    def how_it_ended(self) -> str:
        """In words, for a message."""
        if self._error is not None:
            return f"could not be started: {self._error}"
        if self._exit_code is None:
            return "was lost together with its watchdog"
        return describe_exit(self._exit_code)

    def end(self, timeout_s: float) -> None:
        """End it: gracefully, by force after ``timeout_s``; returns when it is gone."""
        try:
            self._order(b"t")
            if not self.wait(timeout_s):
                self._order(b"k")
                self.wait()
        finally:
            # Even if an impatient second Ctrl-C lands here: without this pipe the server ends.
            self.let_go()
        self._watchdog.wait()
        self._watcher.join()
        self._pump.join(_LAST_LINES_S)

    def let_go(self) -> None:
        """Close the pipe whose end ends the server; in a forked child it closes the copy only."""
        # Something may still be to be written, and nobody left to read it.
        with contextlib.suppress(OSError):
            _pipe(self._watchdog.stdin).close()

    def _order(self, order: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended already
            os.write(_pipe(self._watchdog.stdin).fileno(), order)

    def _read_log(self) -> None:
        with _pipe(self._watchdog.stderr) as pipe:
            while data := os.read(pipe.fileno(), _READ_BYTES):
                self.log.feed(data)
        self.log.close()

    def _read_reports(self) -> None:
        with _pipe(self._watchdog.stdout) as pipe:
            for line in pipe:
                report: dict[str, Any] = json.loads(line)
                self._pid = report.get("pid", self._pid)
                self._exit_code = report.get("exit", self._exit_code)
                self._error = report.get("error", self._error)
                self._started.set()
        if self._exit_code is None:
            self._end_unwatched()
        self._started.set()
        # Not for ever: a program that left the server's group may hold the log open.
        self._pump.join(_LAST_LINES_S)
        self._ended.set()
        if self.on_exit is not None:
            self.on_exit()

    def _end_unwatched(self) -> None:
        """The watchdog has been killed: end what it watched, if that is still the same process."""
        try:
            if self._pid is not None and os.getsid(self._pid) == self.session:
                os.killpg(self._pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _thread(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("unreachable: the pipe was asked for")
    return pipe
