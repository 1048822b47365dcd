"""Errors in llamatelemetry's own code: logged once here, never raised into the application."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from llamatelemetry._limits import Limit
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler
from llamatelemetry.otel.redaction.fail_closed import strip_message

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["log_once", "raise_if_from_signal_handler", "set_strict"]

_logger = logging.getLogger("llamatelemetry")
_reported: dict[tuple[str, type[BaseException]], object] = {}
_LIMIT: Final = Limit("internal_errors", 256, "Kinds of internal errors that were logged")


class _Mode:
    strict = False


def log_once(where: str, error: Exception, *, may_quote: bool = True) -> None:
    """Log an internal error: the first time as a warning with its traceback, then at debug level.

    Call it in an `except Exception` clause. An exception that a signal handler of the application
    has raised is raised again: it is not llamatelemetry's. So is any error under `set_strict`.

    Args:
        where: The failed activity, such as "reading the response".
        error: The error. Its type, module and line are logged.
        may_quote: Whether the error message may quote content of a call, as the errors of
            parsers do. The message is then left out of the log.
    """
    raise_if_from_signal_handler(error)
    if _Mode.strict:
        raise error
    first = object()
    # Atomic: a lock could be held by the code that a signal handler or a finalizer interrupts.
    is_first = _reported.setdefault((where, type(error)), first) is first
    _LIMIT.trim(_reported)
    level = logging.WARNING if is_first else logging.DEBUG
    # A logging handler may raise too, such as one that exports logs through a broken processor.
    with suppress(Exception):
        _logger.log(
            level,
            "llamatelemetry failed while %s (%s at %s); the application is not affected. "
            "Further failures of this kind are logged at debug level",
            where,
            type(error).__name__,
            _location(error.__traceback__),
            exc_info=strip_message(error) if may_quote else error,
        )


def _location(traceback: TracebackType | None) -> str:
    """Return the module and line that raised, such as `llamatelemetry.genai.call:120`."""
    if traceback is None:
        return "an unknown line"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_globals.get('__name__')}:{traceback.tb_lineno}"


def set_strict(strict: bool) -> None:
    """Raise internal errors instead of logging them: for test suites, so that bugs surface."""
    _Mode.strict = strict
    _reported.clear()
