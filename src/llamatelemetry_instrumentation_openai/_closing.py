"""Hearing of an HTTP response that is closed, whoever closes it."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai import StreamObserver


class CloseHook:
    """Shadows ``close`` or ``aclose`` in the instance of a response, until `remove`.

    ``Stream.close``, leaving a ``with`` block, the stream helpers and raw responses have only
    the HTTP response's own method in common.

    Args:
        response: the HTTP response.
        is_async: whether it belongs to an asynchronous client.
        closing: told each time, before the response is closed, why it is: the exception that
            is leaving a ``with`` block of the caller, or the ``GeneratorExit`` of whoever
            iterates, if it is one of these. `end` knows what to make of it.
    """

    def __init__(
        self, response: Any, is_async: bool, closing: Callable[[BaseException | None], None]
    ) -> None:
        self._response = response
        self._name = "aclose" if is_async else "close"
        original = getattr(response, self._name)
        # An exception that was being handled when the stream was made is not the stream's.
        ambient = sys.exception()

        def close() -> Any:
            closing(_reason(ambient))
            return original()

        async def aclose() -> Any:
            closing(_reason(ambient))
            return await original()

        response.__dict__[self._name] = aclose if is_async else close

    def remove(self) -> None:
        """Take the hook out."""
        self._response.__dict__.pop(self._name, None)


def is_running(generator: Any) -> bool:
    """Whether a generator is: the client itself closes the response from within its iterator."""
    return bool(getattr(generator, "gi_running", False) or getattr(generator, "ag_running", False))


def end(watch: StreamObserver, error: BaseException | None) -> None:
    """End a stream that is closed, for the reason that a `CloseHook` gave."""
    if error is None:
        watch.on_close()
    elif isinstance(error, GeneratorExit):
        # Perhaps the garbage collector's, in whatever code of whatever thread it runs.
        watch.on_abandon()
    else:
        watch.on_error(error)


def _reason(ambient: BaseException | None) -> BaseException | None:
    error = sys.exception()
    if error is None or error is ambient:
        return None
    if isinstance(error, GeneratorExit):
        return error
    frame = inspect.currentframe()
    for _ in range(8):
        frame = frame.f_back if frame is not None else None
        if frame is not None and frame.f_code.co_name in {"__exit__", "__aexit__"}:
            return error
    return None
