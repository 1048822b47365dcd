"""Runs a command so that every Python process of it sends its telemetry here.

The command keeps its standard streams, its place in the terminal and its exit status; signals
that this process gets are handed on.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from opentelemetry.instrumentation import auto_instrumentation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
"""What a shell gives for these two."""

# What would send the telemetry somewhere else, or with credentials meant for somewhere else.
_SENDING: Final = (
    *("ENDPOINT", "PROTOCOL", "HEADERS", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"),
    *("COMPRESSION", "INSECURE"),
)
_SIGNALS: Final = ("", "TRACES_", "METRICS_", "LOGS_")
_OURS: Final = ("LLAMATELEMETRY_OTLP_ENDPOINT", "LLAMATELEMETRY_EXPORTER", "OTEL_CONFIG_FILE")
# A short program should show its metrics too, and a live page is to move.
_METRIC_INTERVAL_MS: Final = "2000"

_FORWARDED: Final = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


def telemetry_environment(environ: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """Give the environment in which Python processes send their telemetry to an endpoint.

    It is that of `opentelemetry-instrument`, with everything that would send it elsewhere left
    out. What else the user has set about telemetry stays.
    """
    dropped = {f"OTEL_EXPORTER_OTLP_{name}{what}" for name in _SIGNALS for what in _SENDING}
    kept = {k: v for k, v in environ.items() if k not in dropped and k not in _OURS}
    site = str(Path(auto_instrumentation.__file__).parent)
    before = [
        path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path not in {"", site}
    ]
    # `requests` would ask a proxy for 127.0.0.1, too.
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = ",".join(filter(None, [kept.get(name), "127.0.0.1"]))
    return {
        "OTEL_METRIC_EXPORT_INTERVAL": _METRIC_INTERVAL_MS,
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        **kept,
        "PYTHONPATH": os.pathsep.join([site, *before]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
    }


class Command:
    """A command that has been started.

    Start it while this process has one thread only: signals are blocked for all threads that
    are made afterwards, so that the one that waits gets them.

    Args:
        arguments: the program and its arguments.
        environ: its environment.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
        try:
            self._process = subprocess.Popen(
                arguments,
                env=dict(environ),
                # Without this the command would never hear of a signal.
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, self._mask),  # noqa: PLW1509
            )
        except BaseException as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            # What the system says, too, when it may not look into a folder of PATH.
            if isinstance(error, PermissionError) and not _is_on_path(
                arguments[0], environ.get("PATH", os.defpath)
            ):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
            raise

    def wait(self) -> int:
        """Wait for its end and hand on signals until then. Gives its exit status, as a shell does."""
        try:
            while (status := self._process.poll()) is None:
                _hand_on(self._process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        return status if status >= 0 else 128 - status


def _hand_on(process: subprocess.Popen[bytes]) -> None:
    """Wait for one signal. One from the terminal has reached the command by itself."""
    if hasattr(signal, "sigtimedwait"):
        got = signal.sigtimedwait({*_FORWARDED, signal.SIGCHLD}, 0.5)
        if got is None or got.si_signo == signal.SIGCHLD:
            return
        number, from_terminal = got.si_signo, got.si_code > 0
    else:  # macOS
        number = signal.sigwait({*_FORWARDED, signal.SIGCHLD})
        if number == signal.SIGCHLD:
            return
        from_terminal = number in {signal.SIGINT, signal.SIGQUIT} and os.isatty(0)
    if not from_terminal:
        process.send_signal(number)


def exit_status_of(error: OSError) -> int:
    """Give the exit status with which a shell says that a command cannot be started."""
    return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def _is_on_path(name: str, path: str) -> bool:
    folders = path.split(os.pathsep)
    return "/" in name or any(os.path.lexists(Path(folder, name)) for folder in folders)
