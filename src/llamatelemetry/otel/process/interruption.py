"""Exceptions that a signal handler of the application raises inside llamatelemetry's code."""

from __future__ import annotations

from typing import Any, cast


def is_from_signal_handler(error: BaseException) -> bool:
    """Return whether a signal handler raised an exception that was caught here.

    Timeouts are often implemented so: the handler of SIGALRM raises an exception in whatever code
    the main thread executes. It belongs to the application and must not be handled as a failure
    of the interrupted code. Python calls a handler with the interrupted frame as an argument.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        interrupted, traceback = traceback.tb_frame, traceback.tb_next
        called: dict[str, Any] = traceback.tb_frame.f_locals
        if any(_holds(value, interrupted) for value in called.values()):
            return True
    return False


def _holds(value: object, frame: object) -> bool:
    if isinstance(value, tuple):  # A handler can accept its arguments as `*args`.
        return any(each is frame for each in cast("tuple[object, ...]", value))
    return value is frame


def raise_if_from_signal_handler(error: BaseException) -> None:
    """Raise an exception again that a signal handler raised. Call it where an error is ignored."""
    if is_from_signal_handler(error):
        raise error
