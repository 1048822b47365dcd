"""What fails in our own code is reported here once and never reaches the application."""

from __future__ import annotations

import logging
import threading

from llamatelemetry.otel.redaction.fail_closed import strip_message

_logger = logging.getLogger("llamatelemetry")
_lock = threading.Lock()
_reported: set[tuple[str, type[BaseException]]] = set()


class _Mode:
    strict = False


def report(where: str, error: Exception, *, may_quote: bool = True) -> None:
    """Log an error of ours: a warning with its traceback the first time, at debug level after.

    Its own words are left out: the errors of readers quote the value that they cannot read.
    Where nothing of a call is at hand, ``may_quote=False`` keeps them.

    Call it in an ``except Exception`` clause. ``where`` says, for a reader of the log, what
    was being done: "reading the response". Under `set_strict` the error is raised again.
    """
    if _Mode.strict:
        raise error
    key = (where, type(error))
    with _lock:
        first = key not in _reported
        _reported.add(key)
    level = logging.WARNING if first else logging.DEBUG
    _logger.log(
        level,
        "llamatelemetry failed while %s; the application is not affected. Further failures of this kind "
        "are logged at debug level.",
        where,
        exc_info=strip_message(error) if may_quote else error,
    )


def set_strict(strict: bool) -> None:
    """Raise our own errors instead of logging them: for test suites, so that bugs surface."""
    _Mode.strict = strict
    with _lock:
        _reported.clear()
