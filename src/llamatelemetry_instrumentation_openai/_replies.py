"""What comes out of ``OpenAI.request``: a model, a stream, or a raw response that holds either."""

from __future__ import annotations

import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    AsyncIteratorTap,
    IteratorTap,
    Response,
    StreamWatch,
    guard,
    read_response,
)

if TYPE_CHECKING:
    from llamatelemetry.genai import Call


def deliver(call: Call, result: Any) -> None:
    """End the call with its reply, or leave that to the stream's end. The result itself stays what it is."""
    try:
        if call.request.stream and _watch_stream(call, result):
            return
        call.finish(_read_reply(result))
    except Exception as error:
        guard.report("reading an openai reply", error)
        call.finish(Response())


def _read_reply(result: Any) -> Response:
    raw = getattr(result, "http_response", None)
    if raw is None:
        return read_response(result)
    # with_raw_response: the body is read but not parsed, and parsing is the application's to do.
    return read_response(json.loads(raw.content)) if raw.is_stream_consumed else Response()


def _watch_stream(call: Call, stream: Any) -> bool:
    """Tap a ``Stream`` or ``AsyncStream`` in place: its type and its methods stay its own."""
    source: Any = getattr(stream, "_iterator", None)
    if source is None:
        return False
    hook = _CloseHook(stream.response, source)
    watch = StreamWatch(call, on_end=hook.remove)
    is_async = hasattr(source, "__anext__")
    hook.install(watch, is_async)
    stream._iterator = AsyncIteratorTap(source, watch) if is_async else IteratorTap(source, watch)
    return True


class _CloseHook:
    """Hears of a stream that is closed before its end.

    ``Stream.close``, leaving a ``with`` block and the stream helpers have only the response's own
    ``close`` or ``aclose`` in common: it is shadowed in the instance until the stream has ended.
    """

    def __init__(self, response: Any, source: Any) -> None:
        self._response = response
        self._source = source
        self._name = ""

    def install(self, watch: StreamWatch, is_async: bool) -> None:
        self._name = "aclose" if is_async else "close"
        original = getattr(self._response, self._name)
        # An exception that was being handled when the stream was made is not the stream's.
        ambient = sys.exception()

        def ended_by_caller() -> None:
            if not self._closed_by_client():
                error = _callers_exception(ambient)
                if error is None:
                    watch.closed()
                else:
                    watch.failed(error)

        def close() -> Any:
            ended_by_caller()
            return original()

        async def aclose() -> Any:
            ended_by_caller()
            return await original()

        self._response.__dict__[self._name] = aclose if is_async else close

    def remove(self) -> None:
        self._response.__dict__.pop(self._name, None)

    def _closed_by_client(self) -> bool:
        """The client closes the response itself at the end of its iterator, which is then running."""
        return bool(
            getattr(self._source, "gi_running", False) or getattr(self._source, "ag_running", False)
        )


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
