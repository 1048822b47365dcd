"""What can go wrong with a managed llama.cpp server. Every message says what was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

LOG_LINES_SHOWN = 20


class ServerManagerError(RuntimeError):
    """A managed server did not start, or is not there any more.

    ``log_lines`` are the last lines it logged; ``exit_code`` is how it ended, negative for a
    signal, ``None`` when it has not ended by itself.
    """

    def __init__(
        self, message: str, *, log_lines: Sequence[str] = (), exit_code: int | None = None
    ) -> None:
        self.log_lines = tuple(log_lines)
        self.exit_code = exit_code
        shown = self.log_lines[-LOG_LINES_SHOWN:]
        super().__init__(
            "\n".join([f"{message}; its last log lines:", *shown]) if shown else message
        )


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
