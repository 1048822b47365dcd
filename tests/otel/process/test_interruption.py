"""Exceptions of signal handlers are told from failures of the interrupted code."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import Any

import pytest

from llamatelemetry.otel.process.interruption import is_from_signal_handler

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")


class TimeIsUpError(Exception):
    """The exception of the application's handler."""


def raise_timeout(_number: int, _frame: Any) -> None:
    raise TimeIsUpError


def raise_in_any_case(*_args: Any) -> None:
    raise TimeIsUpError


class Watch:
    def on_signal(self, _number: int, _frame: Any) -> None:
        self.raise_it()

    def raise_it(self) -> None:
        raise TimeIsUpError


HANDLERS: dict[str, Callable[..., Any]] = {
    "function": raise_timeout,
    "method": Watch().on_signal,
    "partial function": functools.partial(
        lambda _more, number, frame: raise_timeout(number, frame), 1
    ),
    "function of *args": raise_in_any_case,
}


def caught(work: Callable[[], object]) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("handler", HANDLERS)
def test_exception_of_signal_handler_is_recognized(handler):
    before = signal.signal(signal.SIGUSR1, HANDLERS[handler])
    try:
        error = caught(lambda: signal.raise_signal(signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert isinstance(error, TimeIsUpError)
    assert is_from_signal_handler(error)


def test_exception_of_callback_is_not_taken_for_that_of_signal_handler():
    assert not is_from_signal_handler(caught(lambda: raise_timeout(1, None)))
    assert not is_from_signal_handler(TimeIsUpError())
