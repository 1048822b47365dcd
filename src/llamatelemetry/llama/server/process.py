"""A server process under the watchdog: start it, read its output, signal it, wait for it."""

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

from llamatelemetry.llama.server.errors import describe_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from llamatelemetry.llama.server.log import ServerLog

_WATCHDOG = Path(__file__).with_name("watchdog.py")
# How long a server may take for a graceful shutdown after its manager's process has exited.
_GRACE_AFTER_MANAGER_S = 5.0
_READ_BYTES = 65536
_LAST_LINES_S = 2.0


class ServerProcess:
    """One run of a server.

    Its output is always read, so the server cannot block on a full pipe. `on_exit` is called on a
    separate thread once the server has exited and its last log line has been read.
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
            # Ctrl-C in the terminal reaches only this process, which then stops the server.
            start_new_session=True,
        )
        self._log_thread = _start_thread("llama-server-log", self._read_log)
        self._report_thread = _start_thread("llama-server-watch", self._read_reports)

    @property
    def pid(self) -> int | None:
        """Process id of the server; `None` if it could not be started."""
        self._started.wait()
        return self._pid

    @property
    def session(self) -> int:
        """Session id of the server and of the processes it starts."""
        return self._watchdog.pid

    @property
    def has_ended(self) -> bool:
        """Whether the server has exited and its log has been read completely."""
        return self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """Exit status, negative for a signal; `None` if unknown or still running."""
        return self._exit_code

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the server to exit. Return whether it did within the time."""
        return self._ended.wait(timeout_s)

    def describe_end(self) -> str:
        """Return how the server ended, as the predicate of a sentence."""
        if self._error is not None:
            return f"could not be started: {self._error}"
        if self._exit_code is None:
            return "was lost together with its watchdog"
        return describe_exit(self._exit_code)

    def end(self, timeout_s: float) -> None:
        """Shut the server down gracefully, and kill it after `timeout_s`. Return once it is gone."""
        try:
            self._send_command(b"t")
            if not self.wait(timeout_s):
                self._send_command(b"k")
                self.wait()
        finally:
            # Runs even if a second Ctrl-C interrupts the wait: closing the pipe ends the server.
            self.close_control_pipe()
        self._watchdog.wait()
        self._report_thread.join()
        self._log_thread.join(_LAST_LINES_S)

    def close_control_pipe(self) -> None:
        """Close the control pipe, which ends the server.

        In a forked child this closes the child's copy only, and the server goes on.
        """
        # A buffered command may fail to be written if the watchdog is gone.
        with contextlib.suppress(OSError):
            _pipe(self._watchdog.stdin).close()

    def _send_command(self, command: bytes) -> None:
        # The watchdog may have exited already.
        with contextlib.suppress(OSError, ValueError):
            os.write(_pipe(self._watchdog.stdin).fileno(), command)

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
            self._kill_orphan()
        # After a crash, perhaps no other code waits for the watchdog, which would stay a zombie.
        self._watchdog.wait()
        self._started.set()
        # With a time limit: a program that left the server's group may hold the log open.
        self._log_thread.join(_LAST_LINES_S)
        self._ended.set()
        if self.on_exit is not None:
            self.on_exit()

    def _kill_orphan(self) -> None:
        """Kill the server after its watchdog was killed, unless the pid belongs to another process."""
        try:
            if self._pid is not None and os.getsid(self._pid) == self.session:
                os.killpg(self._pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("unreachable: Popen was given PIPE")
    return pipe
