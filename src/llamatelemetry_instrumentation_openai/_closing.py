"""Hearing of an HTTP response that is closed, whoever closes it."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class CloseHook:
    """Shadows ``close`` or ``aclose`` in the instance of a response, until `remove`.

    ``Stream.close``, leaving a ``with`` block, the stream helpers and raw responses have only
    the HTTP response's own method in common.

    Args:
        response: the HTTP response.
        is_async: whether it belongs to an asynchronous client.
        closing: told each time, before the response is closed, with the exception that is
            leaving a ``with`` block of the caller, if that is why.
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
            closing(_callers_exception(ambient))
            return original()

        async def aclose() -> Any:
            closing(_callers_exception(ambient))
            return await original()

        response.__dict__[self._name] = aclose if is_async else close

    def remove(self) -> None:
        """Take the hook out."""
        self._response.__dict__.pop(self._name, None)


def is_running(generator: Any) -> bool:
    """Whether a generator is: the client itself closes the response from within its iterator."""
    return bool(getattr(generator, "gi_running", False) or getattr(generator, "ag_running", False))


def _callers_exception(ambient: BaseException | None) -> BaseException | None:
    """The exception that is leaving a ``with stream:`` block of the caller, if that is why it closes."""
    error = sys.exception()
    if error is None or error is ambient:
        return None
    frame = inspect.currentframe()
    for _ in range(8):
        frame = frame.f_back if frame is not None else None
        if frame is not None and frame.f_code.co_name in {"__exit__", "__aexit__"}:
            return error
    return None
