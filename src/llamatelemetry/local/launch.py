"""Run a command and let its Python processes send their telemetry to this process.

The command keeps its standard streams, terminal and exit status. Signals to this process are
forwarded to it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry._run_key import RUN_KEY_VARIABLE, new_run_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Exit codes that a shell uses.
NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126

# Variables that change the destination of telemetry, or that hold credentials for another one.
_DESTINATION: Final = (
    *("ENDPOINT", "PROTOCOL", "HEADERS", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"),
    *("COMPRESSION", "INSECURE"),
)
_SIGNALS: Final = ("", "TRACES_", "METRICS_", "LOGS_")
_LLAMATELEMETRY: Final = (
    "LLAMATELEMETRY_OTLP_ENDPOINT",
    "LLAMATELEMETRY_EXPORTER",
    "OTEL_CONFIG_FILE",
)
# Short, so that the live page shows current metrics.
_METRIC_INTERVAL_MS: Final = "2000"
# Short, because a process that is killed or calls os._exit() loses what it has not exported yet.
EXPORT_DELAY_MS: Final = 100

_HOST: Final = "127.0.0.1"
_QUEUED_CONNECTIONS: Final = 128
_PROCESSES: Final = "_LLAMATELEMETRY_RUN_PROCESSES"

# Without the import, which takes longer than that of the rest of this module.
_FOUND = find_spec("opentelemetry.instrumentation.auto_instrumentation")
_AUTO_INSTRUMENTATION: Final = (_FOUND and _FOUND.submodule_search_locations) or ()
_FORWARDED: Final = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback. Connections wait until a receiver accepts them.

    Raises:
        OSError: The port is in use or not permitted.
    """
    try:
        return socket.create_server((_HOST, port), backlog=_QUEUED_CONNECTIONS)
    except OSError as error:
        raise OSError(
            f"cannot receive telemetry on port {port}: {error.strerror}. Use another port, or 0 "
            "for a free one"
        ) from error


def address_of(listener: socket.socket) -> str:
    """Return the base URL of a socket, for `OTEL_EXPORTER_OTLP_ENDPOINT`."""
    return f"http://{_HOST}:{listener.getsockname()[1]}"


def telemetry_environment(
    environ: Mapping[str, str], endpoint: str, processes: Path | None = None
) -> dict[str, str]:
    """Return an environment that makes Python processes send their telemetry to an endpoint.

    In the directory `processes`, each Python process that was reached leaves a file
    (`started_processes`). A start-up module in `PYTHONPATH` does what `opentelemetry-instrument`
    does. Other destinations are removed. All other telemetry settings of the user stay.
    """
    removed = {
        f"OTEL_EXPORTER_OTLP_{signal_name}{option}"
        for signal_name in _SIGNALS
        for option in _DESTINATION
    }.union(_LLAMATELEMETRY)
    kept = {name: value for name, value in environ.items() if name not in removed}
    site = str(Path(__file__).with_name("startup"))
    others = {site, *_AUTO_INSTRUMENTATION}
    given = kept.get("PYTHONPATH")
    # An empty entry is the current directory, an empty variable is none.
    before = [path for path in given.split(os.pathsep) if path not in others] if given else []
    return {
        "OTEL_METRIC_EXPORT_INTERVAL": _METRIC_INTERVAL_MS,
        "OTEL_BSP_SCHEDULE_DELAY": str(EXPORT_DELAY_MS),
        "OTEL_BLRP_SCHEDULE_DELAY": str(EXPORT_DELAY_MS),
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "LLAMATELEMETRY_DIAGNOSTICS": "true",
        **kept,
        **_proxy_exceptions(kept),
        "PYTHONPATH": os.pathsep.join([site, *before]),
        "_LLAMATELEMETRY_RUN_PID": str(os.getpid()),
        RUN_KEY_VARIABLE: new_run_key(),
        **({} if processes is None else {_PROCESSES: str(processes)}),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
    }


class StartedProcess(NamedTuple):
    """A Python process that the start-up module ran in, and why it could not set it up."""

    executable: str
    error: str


def started_processes(folder: Path) -> list[StartedProcess]:
    """Return the Python processes that left a file in the directory."""
    found: list[StartedProcess] = []
    for path in sorted(folder.iterdir()):
        executable, _, error = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        found.append(StartedProcess(executable, error))
    return found


def is_process_left(folder: Path) -> bool:
    """Return whether a process of the command still runs, also if that cannot be found out.

    Args:
        folder: The directory `processes` that `telemetry_environment` got.
    """
    marker = os.fsencode(f"{_PROCESSES}={folder}\0")
    environments = [*Path("/proc").glob("[0-9]*/environ")]
    for path in environments:
        with contextlib.suppress(OSError):  # ended, or of another user
            if marker in path.read_bytes():
                return True
    return not environments


def _proxy_exceptions(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `NO_PROXY` and `no_proxy` with the receiver added: `requests` uses a proxy for it, too.

    Hosts that the user excludes stay excluded for each program. Most programs read `no_proxy`
    first, Go programs `NO_PROXY`, so a variable that is not set gets the value of the other one.
    A `*` must remain the only entry, because some libraries do not recognize it in a list.
    """
    upper, lower = environ.get("NO_PROXY"), environ.get("no_proxy")
    given = {
        "NO_PROXY": lower if upper is None else upper,
        "no_proxy": upper if lower is None else lower,
    }
    return {
        name: hosts if hosts and hosts.strip() == "*" else ",".join(filter(None, [hosts, _HOST]))
        for name, hosts in given.items()
    }


class Command:
    """A running command.

    Create it while this process has a single thread. The constructor blocks signals, and threads
    created later inherit this, so that only `wait()` receives them.

    Attributes:
        killed_by: Name of the signal that killed the command, such as `SIGKILL`, else empty.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.killed_by = ""
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
        try:
            self._process = subprocess.Popen(
                arguments,
                env=dict(environ),
                # Those that a shell hands on, as for `<(...)`. The files of this process are not
                # inheritable.
                close_fds=False,
                # Otherwise the command would inherit the blocked signals.
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, self._mask),  # noqa: PLW1509
            )
        except BaseException as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            # An unreadable directory in PATH also raises PermissionError.
            if isinstance(error, PermissionError) and not _is_on_path(
                arguments[0], environ.get("PATH", os.defpath)
            ):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
            raise

    def wait(self) -> int:
        """Forward signals until the command exits. Return its exit code as a shell would."""
        try:
            while (status := self._process.poll()) is None:
                _forward_signal(self._process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if status >= 0:
            return status
        with contextlib.suppress(ValueError):  # a real-time signal has no name
            self.killed_by = signal.Signals(-status).name
        return 128 - status


def _forward_signal(process: subprocess.Popen[bytes]) -> None:
    """Wait for a signal and forward it. The terminal sends its signals to the command itself."""
    if hasattr(signal, "sigtimedwait"):
        received = signal.sigtimedwait({*_FORWARDED, signal.SIGCHLD}, 0.5)
        if received is None or received.si_signo == signal.SIGCHLD:
            return
        number, from_terminal = received.si_signo, received.si_code > 0
    else:  # macOS
        number = signal.sigwait({*_FORWARDED, signal.SIGCHLD})
        if number == signal.SIGCHLD:
            return
        from_terminal = number in {signal.SIGINT, signal.SIGQUIT} and os.isatty(0)
    if not from_terminal:
        process.send_signal(number)


def exit_status_of(error: OSError) -> int:
    """Return the exit code that a shell uses for a command that cannot be started."""
    return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def _is_on_path(name: str, path: str) -> bool:
    directories = path.split(os.pathsep)
    return "/" in name or any(os.path.lexists(Path(each, name)) for each in directories)
