"""`ServerManager`: start, monitor and stop a llama.cpp server that ends with this process."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from llamatelemetry.genai import as_dict, internal_errors
from llamatelemetry.genai.server_pids import session_listens
from llamatelemetry.llama.server.address import free_port, get_json, is_forbidden, is_free
from llamatelemetry.llama.server.binary import find_binary
from llamatelemetry.llama.server.errors import (
    LOG_LINES_SHOWN,
    PortTakenError,
    ServerCrashedError,
    ServerManagerError,
    StartupTimeoutError,
    explain_exit,
)
from llamatelemetry.llama.server.launch import Launch, prepare_launch
from llamatelemetry.llama.server.log import LoadReport, ServerLog
from llamatelemetry.llama.server.process import ServerProcess
from llamatelemetry.llama.server.registration import Registration, describe_server
from llamatelemetry.llama.server.startup_span import StartupSpan

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.llama.server.config import ServerConfig

_logger = logging.getLogger("llamatelemetry.llama")
_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 10.0
# Another program may take a free port between its choice and its use.
_FREE_PORT_ATTEMPTS = 3
_STOPPED = "the llama.cpp server was stopped while it was starting"


class ServerManager:
    """Start a llama.cpp server and stop it again, however this process ends.

    The server is found as `find_binary` describes, and gets its options as its own `--help` spells
    them. Its log is always read. A watchdog process ends the server when this process ends, SIGKILL
    included.

    Args:
        config: Options of the server.
        binary: Path of the llama-server program; `"embedded"` selects the server inside xllamacpp.

    Examples:
        >>> from llamatelemetry import ServerConfig, ServerManager
        >>> config = ServerConfig("model.gguf", port=0, n_ctx=512, threads=1)
        >>> with ServerManager(config, binary="embedded") as server:
        ...     print(server.is_healthy(), server.url, len(server.logs(5)))
        True http://127.0.0.1:... 5
        >>> server.log_to("server.log")
        >>> server.start().restart().stop()
    """

    def __init__(
        self, config: ServerConfig, *, binary: str | os.PathLike[str] | None = None
    ) -> None:
        self._config = config
        self._binary = binary
        self._lock = threading.Lock()
        self._process: ServerProcess | None = None
        self._launch: Launch | None = None
        self._is_ready = False
        self._stops = 0  # A start fails if it changes meanwhile.
        self._owner_pid = os.getpid()
        self._log = ServerLog()
        self._log_path: Path | None = None
        self._report = LoadReport()
        self._registration: Registration | None = None

    def start(self, on_progress: Callable[[str], None] | None = None) -> Self:
        """Start the server and return once `/health` reports ok.

        Args:
            on_progress: Called about ten times a second with the newest log line until then.

        Raises:
            ServerManagerError: The model file is missing. Also the base class of the others.
            ServerNotFoundError: No llama.cpp server is installed; the message has instructions.
            UnsupportedOptionError: The server has no flag for an option.
            PortTakenError: Another program listens on the port, or this user may not.
            ServerCrashedError: The server exited while it loaded; has its last log lines.
            StartupTimeoutError: The server was not ready in time; has its last log lines.
        """
        _check_files(self._config)
        stops = self._prepare_start()
        span = StartupSpan(self._config)
        try:
            self._start_with_retries(stops, span, on_progress)
            description = self._describe()
            # Register before returning, so that the first calls have the attributes.
            self._registration = Registration(
                self._current_launch().address, description, self._live_pid
            )
        except BaseException as error:
            # KeyboardInterrupt included: no process may be left behind.
            if self._stops == stops:
                span.fail(error)
                self.stop()
                raise
            # Another thread has ended the process, and may have started the server again.
            stopped = ServerManagerError(_STOPPED)
            span.fail(stopped)
            if not isinstance(error, Exception):
                raise
            raise stopped from None
        span.finish(description)
        return self

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """Shut the server down gracefully, and kill it after `timeout_s`.

        A start in another thread fails. Does nothing if the server is stopped, or in a forked child,
        because the parent owns the server.
        """
        with self._lock:
            self._stops += 1
            process, self._process, self._is_ready = self._process, None, False
            _running.discard(self)
        self._unregister()
        if process is not None and self._is_owner_process:
            process.end(timeout_s)

    def restart(self) -> Self:
        """Stop the server if it runs, and start it again at the same address."""
        self.stop()
        return self.start()

    @property
    def url(self) -> str:
        """Base URL of the server, such as `http://127.0.0.1:8080`, for `LlamaCppClient`."""
        self._running_process()
        return self._current_launch().address.url

    @property
    def pid(self) -> int:
        """Process id of the server."""
        pid = self._running_process().pid
        if pid is None:
            raise ServerManagerError("the llama.cpp server is not running")
        return pid

    def is_healthy(self) -> bool:
        """Return whether the server runs and its `/health` reports ok now."""
        process = self._process
        if process is None or process.has_ended or self._launch is None:
            return False
        return get_json(self._launch.address, "/health", _PROBE_TIMEOUT_S)[0] == 200

    def logs(self, n: int | None = None) -> list[str]:
        """Return the last `n` log lines, or all buffered ones; also after the server's exit."""
        return self._log.lines(n)

    def log_to(self, path: str | os.PathLike[str] | None) -> None:
        """Append the server's log to a file from its next start on; `None` turns this off."""
        self._log_path = None if path is None else Path(path)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare_start(self) -> int:
        """Prepare a start. Return how often the server has been stopped."""
        with self._lock:
            if self in _running and not (self._process is not None and self._process.has_ended):
                raise RuntimeError("the llama.cpp server is already started")
            crashed, self._process = self._process, None
            _running.add(self)
            stops = self._stops
        self._unregister()
        if crashed is not None and self._is_owner_process:
            crashed.end(0)
        self._owner_pid = os.getpid()
        _install_exit_hooks()
        return stops

    def _start_with_retries(
        self, stops: int, span: StartupSpan, on_progress: Callable[[str], None] | None
    ) -> None:
        for attempts_left in reversed(range(_FREE_PORT_ATTEMPTS)):
            try:
                self._start_on(self._choose_port(), stops, span, on_progress)
            except PortTakenError:
                if self._config.port != 0 or not attempts_left or self._stops != stops:
                    raise
                # Forget the last launch, so that another port is chosen.
                self._launch = None
                self._end_process()
            else:
                return

    def _choose_port(self) -> int:
        """Return the configured port, the port of the last start so that the URL stays, or a free one."""
        if self._config.port:
            return self._config.port
        if self._launch is not None:
            return self._launch.address.port
        try:
            return free_port(self._config.host)
        except OSError as error:
            raise ServerManagerError(f"host {self._config.host!r}: {error.strerror}") from error

    def _start_on(
        self, port: int, stops: int, span: StartupSpan, on_progress: Callable[[str], None] | None
    ) -> None:
        launch = prepare_launch(self._config, find_binary(self._binary), port)
        span.record_launch(launch)
        if not is_free(self._config.host, port):
            raise self._port_taken_error(port)
        secrets = () if self._config.api_key is None else (self._config.api_key,)
        log, report = ServerLog(secrets, self._log_path), LoadReport()
        log.on_line = report.parse_line
        process = ServerProcess(launch.command, launch.environment, log)
        with self._lock:
            is_stopped = self._stops != stops
            if not is_stopped:
                self._process, self._launch, self._log, self._report = process, launch, log, report
        if is_stopped:  # By another thread, which had no process to end yet.
            process.end(0)
            raise ServerManagerError(_STOPPED)
        self._wait_until_ready(process, launch, on_progress)
        log.on_line = None
        self._is_ready = True
        process.on_exit = lambda: self._log_crash(process)
        if process.has_ended:
            raise self._exit_error(process)

    def _wait_until_ready(
        self, process: ServerProcess, launch: Launch, on_progress: Callable[[str], None] | None
    ) -> None:
        deadline = time.monotonic() + self._config.startup_timeout_s
        while not process.has_ended:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._timeout_error(process)
            if self._health_is_ok(process, launch, min(_PROBE_TIMEOUT_S, left_s)):
                return
            if on_progress is not None:
                on_progress(next(iter(self.logs(1)), ""))
            process.wait(_POLL_INTERVAL_S)
        raise self._exit_error(process)

    def _health_is_ok(self, process: ServerProcess, launch: Launch, timeout_s: float) -> bool:
        """Return whether `/health` reports ok, and the response comes from this server."""
        listens = session_listens(process.session, launch.address.port)
        # A wrapper may run the server in another session: rely on the server's log then.
        if listens is False and not any("listening on http" in line for line in self.logs(200)):
            return False
        return get_json(launch.address, "/health", timeout_s)[0] == 200

    def _describe(self) -> dict[str, AttributeValue]:
        """Return the server's attributes, from its configuration, `/props` and log."""
        try:
            address, key = self._current_launch().address, self._config.api_key
            props = as_dict(get_json(address, "/props", _PROBE_TIMEOUT_S, key)[1])
            return describe_server(self._config, props, self._report)
        except Exception as error:
            internal_errors.log_once("describing a server", error)
            return {}

    def _unregister(self) -> None:
        registration, self._registration = self._registration, None
        if registration is not None:
            registration.remove()

    def _live_pid(self) -> int | None:
        process = self._process
        return None if process is None or process.has_ended else process.pid

    def _exit_error(self, process: ServerProcess) -> ServerManagerError:
        port = self._current_launch().address.port
        if not is_free(self._config.host, port):
            return self._port_taken_error(port)
        return self._crash_error(f"{process.describe_end()} before it was ready", process)

    def _port_taken_error(self, port: int) -> PortTakenError:
        address = f"{self._config.host}:{port}"
        what = (
            f"port {port} is not permitted: this user may not listen on {address}"
            if is_forbidden(self._config.host, port)
            else f"port {port} is taken: another program listens on {address}"
        )
        return PortTakenError(
            f"{what}. ServerConfig(port=0) picks a free one",
            log_lines=() if self._process is None else self.logs(LOG_LINES_SHOWN),
        )

    def _timeout_error(self, process: ServerProcess) -> StartupTimeoutError:
        # End the process first, so that the log is complete.
        process.end(0)
        return StartupTimeoutError(
            f"the llama.cpp server was not ready after {self._config.startup_timeout_s:g} s "
            "(ServerConfig.startup_timeout_s)",
            log_lines=self.logs(LOG_LINES_SHOWN),
        )

    def _crash_error(self, what: str, process: ServerProcess) -> ServerCrashedError:
        code, log = process.exit_code, self.logs(LOG_LINES_SHOWN)
        binary = self._current_launch().binary
        cause, remedy = explain_exit(code, log, embedded=binary.path is None)
        return ServerCrashedError(
            f"the llama.cpp server {what}{': ' if cause else ''}{cause}",
            log_lines=log,
            exit_code=code,
            # On a separate line: the span records the first line only, which must have no path.
            advice=f"{remedy} {binary.origin}" if cause else "",
        )

    def _late_crash_error(self, process: ServerProcess) -> ServerCrashedError:
        return self._crash_error(f"(process {process.pid}) {process.describe_end()}", process)

    def _log_crash(self, process: ServerProcess) -> None:
        if self._process is process and self._is_owner_process:
            _logger.error("%s", self._late_crash_error(process))

    @property
    def _is_owner_process(self) -> bool:
        """Whether this process started the server; `False` in a forked child."""
        return self._owner_pid == os.getpid()

    def _running_process(self) -> ServerProcess:
        process = self._process
        if process is None:
            raise ServerManagerError("the llama.cpp server is not running")
        if process.has_ended and self._is_ready:
            raise self._late_crash_error(process)
        return process

    def _current_launch(self) -> Launch:
        if self._launch is None:
            raise AssertionError("unreachable: used before a start")
        return self._launch

    def _end_process(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end(0)

    def _detach_after_fork(self) -> None:
        """Leave the server to the parent process."""
        self._lock = threading.Lock()
        self._log.reset_lock_after_fork()
        if self._process is not None:
            self._process.close_control_pipe()


def _check_files(config: ServerConfig) -> None:
    """Check the model files, which may have been deleted since the configuration was created."""
    for path in filter(None, (config.model_file, config.draft_model)):
        if not Path(path).exists():
            raise ServerManagerError(f"model file not found: {path}")


# Strong references: a manager without any other reference still has a running server.
_running: set[ServerManager] = set()
_hooks_are_installed = False


def _install_exit_hooks() -> None:
    global _hooks_are_installed  # noqa: PLW0603 - at-fork hooks cannot be removed
    if not _hooks_are_installed:
        _hooks_are_installed = True
        atexit.register(_stop_all)
        os.register_at_fork(after_in_child=_detach_all_after_fork)


def _stop_all() -> None:
    for manager in list(_running):
        manager.stop()


def _detach_all_after_fork() -> None:
    for manager in _running:
        manager._detach_after_fork()  # pyright: ignore[reportPrivateUsage] - the same module
    _running.clear()
