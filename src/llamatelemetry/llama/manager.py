"""`ServerManager`: a llama.cpp server that starts when told, is watched, and never outlives us."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llamatelemetry.genai import internal_errors, known_servers, server_of
from llamatelemetry.llama import server_pids
from llamatelemetry.llama._endings import explain_exit
from llamatelemetry.llama._launch import Launch, prepare_launch
from llamatelemetry.llama._listening import free_port, get, is_free, session_listens
from llamatelemetry.llama._load_report import LoadReport
from llamatelemetry.llama._process import ServerProcess
from llamatelemetry.llama._server_log import ServerLog
from llamatelemetry.llama._startup_span import StartupSpan, describe
from llamatelemetry.llama.binary import find_binary
from llamatelemetry.llama.launch_errors import (
    LOG_LINES_SHOWN,
    PortTakenError,
    ServerCrashedError,
    ServerManagerError,
    StartupTimeoutError,
)
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai import Server
    from llamatelemetry.llama.config import ServerConfig

_logger = logging.getLogger("llamatelemetry.llama")
_POLL_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 2.0
_STOP_TIMEOUT_S = 10.0
# Between choosing a free port and its use somebody else may take it.
_TRIES_OF_FREE_PORTS = 3
_LOOPBACK = {"127.0.0.1": "localhost", "localhost": "127.0.0.1", "::1": "localhost"}


class ServerManager:
    """Starts a llama.cpp server and stops it again, whatever happens to this process.

    The server is found as `find_binary` says, and told its options in its own words. Its log is
    always read. A process between the two ends it when this process ends, SIGKILL included.

    Example:
        with ServerManager(ServerConfig("model.gguf", port=0)) as server:
            print(server.url, server.pid)

    Args:
        config: what to start.
        binary: the llama-server program; ``"embedded"`` takes the one inside xllamacpp.
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
        self._owner_pid = os.getpid()
        self._log = ServerLog()
        self._log_path: Path | None = None
        self._report = LoadReport()
        self._introduced: list[Server] = []

    def start(self, on_progress: Callable[[str], None] | None = None) -> Self:
        """Start the server and return when ``/health`` says ok.

        ``on_progress`` is called some times a second with the newest log line until then.

        Raises:
            ServerManagerError: the model's file is gone; also the base of all the others.
            ServerNotFoundError: there is no llama.cpp server; the message says how to get one.
            UnsupportedOptionError: the server has no flag for an option.
            PortTakenError: something else listens on the port.
            ServerCrashedError: the server ended while it loaded; with its last log lines.
            StartupTimeoutError: it was not ready in time; likewise.
        """
        _check_files(self._config)
        self._claim()
        span = StartupSpan(self._config)
        try:
            self._start_on_some_port(span, on_progress)
            description = self._description()
            self._introduce(description)
        except BaseException as error:  # KeyboardInterrupt too: nothing may stay behind
            span.fail(error)
            self.stop()
            raise
        span.finish(description)
        return self

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """End the server: gracefully, or by force after ``timeout_s``. Does nothing when stopped.

        In a forked child it does nothing either: the server is its parent's.
        """
        with self._lock:
            process, self._process, self._is_ready = self._process, None, False
            _running.discard(self)
        self._withdraw()
        if process is not None and self._is_ours:
            process.end(timeout_s)

    def restart(self) -> Self:
        """Stop the server, if it runs, and start it again at the same address."""
        self.stop()
        return self.start()

    @property
    def url(self) -> str:
        """The server's address, such as ``http://127.0.0.1:8080``; `LlamaCppClient` takes it."""
        self._running_process()
        return self._launched().address.url

    @property
    def pid(self) -> int:
        """The server's process id."""
        pid = self._running_process().pid
        if pid is None:
            raise ServerManagerError("the llama.cpp server is not running")
        return pid

    def is_healthy(self) -> bool:
        """Whether the server runs and answers ``/health`` with ok, now."""
        process = self._process
        if process is None or process.has_ended or self._launch is None:
            return False
        return get(self._launch.address, "/health", _PROBE_TIMEOUT_S)[0] == 200

    def logs(self, n: int | None = None) -> list[str]:
        """The last ``n`` lines that the server logged, or all that are kept; also after its end."""
        return self._log.lines(n)

    def log_to(self, path: str | os.PathLike[str] | None) -> None:
        """Append everything the server logs to a file, from its next start on; ``None`` ends it."""
        self._log_path = None if path is None else Path(path)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ starting

    def _claim(self) -> None:
        with self._lock:
            if self in _running and not (self._process is not None and self._process.has_ended):
                raise RuntimeError("the llama.cpp server has been started already")
            crashed, self._process = self._process, None
            _running.add(self)
        self._withdraw()
        if crashed is not None and self._is_ours:
            crashed.end(0)
        self._owner_pid = os.getpid()
        _at_the_end_once()

    def _start_on_some_port(
        self, span: StartupSpan, on_progress: Callable[[str], None] | None
    ) -> None:
        for tries_left in reversed(range(_TRIES_OF_FREE_PORTS)):
            try:
                self._start_on(self._port(), span, on_progress)
            except PortTakenError:
                if self._config.port != 0 or not tries_left:
                    raise
                self._launch = None  # so that another port is taken
                self._end_process()
            else:
                return

    def _port(self) -> int:
        """The configured port; of free ones that of the last start, so that the URL stays."""
        if self._config.port:
            return self._config.port
        if self._launch is not None:
            return self._launch.address.port
        try:
            return free_port(self._config.host)
        except OSError as error:
            raise ServerManagerError(f"host {self._config.host!r}: {error.strerror}") from error

    def _start_on(
        self, port: int, span: StartupSpan, on_progress: Callable[[str], None] | None
    ) -> None:
        binary = find_binary(self._binary)
        launch = prepare_launch(self._config, binary, port)
        span.note_launch(binary.name, launch)
        self._launch = launch
        if not is_free(self._config.host, port):
            raise self._port_taken()
        secrets = () if self._config.api_key is None else (self._config.api_key,)
        self._log = ServerLog(secrets, self._log_path)
        self._report = LoadReport()
        self._log.on_line = self._report.read
        process = ServerProcess(launch.command, launch.environment, self._log)
        with self._lock:
            self._process = process
        self._wait_until_ready(process, launch, on_progress)
        self._become_ready(process)

    def _wait_until_ready(
        self, process: ServerProcess, launch: Launch, on_progress: Callable[[str], None] | None
    ) -> None:
        deadline = time.monotonic() + self._config.startup_timeout_s
        while not process.has_ended:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._timeout(process)
            if self._answers_itself(process, launch, min(_PROBE_TIMEOUT_S, left_s)):
                return
            if on_progress is not None:
                on_progress(next(iter(self.logs(1)), ""))
            process.wait(_POLL_INTERVAL_S)
        raise self._death(process)

    def _answers_itself(self, process: ServerProcess, launch: Launch, timeout_s: float) -> bool:
        """Whether ``/health`` says ok, and it is this server that says so."""
        listens = session_listens(process.session, launch.address.port)
        # A wrapper may run the server out of sight; then its own word has to do.
        if listens is False and not any("listening on http" in line for line in self.logs(200)):
            return False
        return get(launch.address, "/health", timeout_s)[0] == 200

    def _become_ready(self, process: ServerProcess) -> None:
        self._log.on_line = None
        self._is_ready = True
        process.on_exit = lambda: self._report_crash(process)
        if process.has_ended:
            raise self._death(process)

    def _description(self) -> dict[str, AttributeValue]:
        """What the server is, as far as it tells."""
        try:
            return describe(self._config, self._props(), self._report)
        except Exception as error:
            internal_errors.log_once("describing a server", error)
            return {}

    def _introduce(self, description: Mapping[str, AttributeValue]) -> None:
        """Make it known to the calls to it, which begin after this."""
        for server in self._servers():
            known_servers.remember(server, PROVIDER_LLAMA_CPP)
            known_servers.describe(server, description)
            server_pids.register(server.origin, self._live_pid)
            self._introduced.append(server)

    def _servers(self) -> list[Server]:
        """The server, under each name that calls to it may use."""
        if self._launch is None:
            return []
        address = self._launch.address
        hosts = filter(None, (address.host, _LOOPBACK.get(address.host)))
        found = (server_of(address.scheme, host, address.port) for host in hosts)
        return [server for server in found if server is not None]

    def _withdraw(self) -> None:
        introduced, self._introduced = self._introduced, []
        for server in introduced:
            known_servers.describe(server, {})
            server_pids.unregister(server.origin)

    def _live_pid(self) -> int | None:
        process = self._process
        return None if process is None or process.has_ended else process.pid

    def _props(self) -> dict[str, Any]:
        address, key = self._launched().address, self._config.api_key
        props: dict[str, Any] | None = get(address, "/props", _PROBE_TIMEOUT_S, key)[1]
        return props if isinstance(props, dict) else {}

    # ------------------------------------------------------------------ failures

    def _death(self, process: ServerProcess) -> ServerManagerError:
        launch = self._launched()
        if not is_free(self._config.host, launch.address.port):
            return self._port_taken()
        return self._crashed(f"{process.how_it_ended()} before it was ready", process)

    def _port_taken(self) -> PortTakenError:
        port = self._launched().address.port
        return PortTakenError(
            f"port {port} is taken: something else listens on {self._config.host}:{port}. "
            "ServerConfig(port=0) picks a free one",
            log_lines=() if self._process is None else self.logs(LOG_LINES_SHOWN),
        )

    def _timeout(self, process: ServerProcess) -> StartupTimeoutError:
        process.end(0)  # so that the log is complete
        return StartupTimeoutError(
            f"the llama.cpp server was not ready after {self._config.startup_timeout_s:g} s "
            "(ServerConfig.startup_timeout_s)",
            log_lines=self.logs(LOG_LINES_SHOWN),
        )

    def _report_crash(self, process: ServerProcess) -> None:
        if self._process is process and self._is_ours:
            _logger.error("%s", self._crash(process))

    def _crash(self, process: ServerProcess) -> ServerCrashedError:
        return self._crashed(f"(process {process.pid}) {process.how_it_ended()}", process)

    def _crashed(self, how: str, process: ServerProcess) -> ServerCrashedError:
        code, log, binary = process.exit_code, self.logs(LOG_LINES_SHOWN), self._launched().binary
        cause, remedy = explain_exit(code, log, embedded=binary.path is None)
        return ServerCrashedError(
            f"the llama.cpp server {how}{': ' if cause else ''}{cause}",
            log_lines=log,
            exit_code=code,
            # On a line of its own: a path stays out of the span, which takes the first line.
            advice=f"{remedy} {binary.origin}" if cause else "",
        )

    # ------------------------------------------------------------------ state

    @property
    def _is_ours(self) -> bool:
        return self._owner_pid == os.getpid()

    def _running_process(self) -> ServerProcess:
        process = self._process
        if process is None:
            raise ServerManagerError("the llama.cpp server is not running")
        if process.has_ended and self._is_ready:
            raise self._crash(process)
        return process

    def _launched(self) -> Launch:
        if self._launch is None:
            raise AssertionError("unreachable: asked for before a start")
        return self._launch

    def _end_process(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end(0)

    def _let_go(self) -> None:
        """In a forked child: leave the server to the parent."""
        self._lock = threading.Lock()
        self._log.renew_lock()
        if self._process is not None:
            self._process.let_go()


def _check_files(config: ServerConfig) -> None:
    """The configuration has looked already; by now, as at a restart, they may be gone."""
    for path in filter(None, (config.model_file, config.draft_model)):
        if not Path(path).exists():
            raise ServerManagerError(f"the model is gone: {path}")


# Held on to until they are stopped: a manager that nobody refers to has a server all the same.
_running: set[ServerManager] = set()
_hooks_are_set = False


def _at_the_end_once() -> None:
    global _hooks_are_set  # noqa: PLW0603 - hooks can be set, not taken back
    if not _hooks_are_set:
        _hooks_are_set = True
        atexit.register(_stop_all)
        os.register_at_fork(after_in_child=_leave_to_the_parent)


def _stop_all() -> None:
    for manager in list(_running):
        manager.stop()


def _leave_to_the_parent() -> None:
    for manager in _running:
        manager._let_go()  # pyright: ignore[reportPrivateUsage] - the same module
    _running.clear()
