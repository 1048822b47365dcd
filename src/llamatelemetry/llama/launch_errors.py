"""What can go wrong with a managed llama.cpp server. Every message says what was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG_LINES_SHOWN = 20


def error_text(message: str, advice: str, log_lines: Sequence[str]) -> str:
    """Join what happened, what to do about it and the last log lines; the latter two if any."""
    lines = [message, advice] if advice else [message]
    if log_lines and advice:
        lines.append("Its last log lines:")
    elif log_lines:
        lines[0] += "; its last log lines:"
    return "\n".join([*lines, *log_lines])


class ServerManagerError(RuntimeError):
    """A managed server did not start, or is not there any more.

    ``log_lines`` are the last lines it logged; ``exit_code`` is how it ended, negative for a
    signal, ``None`` when it has not ended by itself; ``advice`` is what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        log_lines: Sequence[str] = (),
        exit_code: int | None = None,
        advice: str = "",
    ) -> None:
        self.log_lines = tuple(log_lines)
        self.exit_code = exit_code
        super().__init__(error_text(message, advice, self.log_lines[-LOG_LINES_SHOWN:]))


class ServerNotFoundError(ServerManagerError):
    """There is no llama.cpp server on this machine; the message says how to get one."""


class UnsupportedOptionError(ServerManagerError):
    """The server that was found has no flag for an option that was asked for."""


class PortTakenError(ServerManagerError):
    """Something else listens where the server was to listen."""


class ServerCrashedError(ServerManagerError):
    """The server ended by itself: while it loaded, or later."""


class StartupTimeoutError(ServerManagerError):
    """The server was not ready within ``startup_timeout_s``, and has been ended."""
