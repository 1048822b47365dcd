"""Watching a stream pass: each chunk is folded and timed, and the call ends when the stream does."""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.json_access import model_name
from llamatelemetry.genai.metrics import measures_chunks
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.streams.abandoned_calls import finalizer
from llamatelemetry.genai.streams.accumulators import ChatAccumulator
from llamatelemetry.genai.streams.chunk_intervals import ChunkIntervals

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai.call import Call
    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.streams.accumulators import Accumulator
    from llamatelemetry.otel.client_metrics import Attributes


class StreamObserver:
    """What happens to one stream, told by the taps below; it ends the stream's call.

    Args:
        call: the call that the stream is the reply of.
        fold: for the format of the stream; that of chat and text completions when not given.
        on_end: run once when the stream has ended, however it ended, to take hooks out.
    """

    __slots__ = (
        "_call",
        "_error",
        "_fold",
        "_gaps",
        "_last_ns",
        "_on_end",
    )

    def __init__(
        self, call: Call, fold: Accumulator | None = None, on_end: Callable[[], None] | None = None
    ) -> None:
        self._call = call
        self._on_end = on_end
        self._fold = ChatAccumulator(call.content_max_chars) if fold is None else fold
        self._last_ns = 0
        self._error: ErrorInfo | None = None
        self._gaps = (
            ChunkIntervals(call.record_chunk_intervals, self._gap_attributes)
            if measures_chunks(call.request)
            else None
        )
        finalizer.start()  # an abandoned stream is ended there, and a finaliser cannot start a thread

    def chunk(self, chunk: Any) -> None:
        """A chunk has come."""
        now_ns = perf_counter_ns()
        self._last_ns = now_ns
        try:
            call = self._call
            if self._fold.add(chunk) and call.first_token_ns is None:
                call.first_token_ns = now_ns
            if self._gaps is not None:
                self._gaps.chunk(now_ns)
                if call.first_chunk_ns is None:
                    call.first_chunk_ns = now_ns
        except Exception as error:
            internal_errors.log_once("reading a chunk", error)

    def on_bytes(self) -> None:
        """Bytes have come that are no chunks: the call was alive at this time."""
        self._last_ns = perf_counter_ns()

    def reported(self, error: ErrorInfo | None) -> None:
        """The server has told of an error inside the stream, which nobody may raise."""
        self._error = error

    def finished(self) -> None:
        """The stream was read to its end."""
        self._call.finish(self._response())
        self._clean_up()

    def failed(self, error: BaseException) -> None:
        """The stream broke, or whoever was waiting for it was cancelled."""
        self._call.fail(error, self._response())
        self._clean_up()

    def closed(self) -> None:
        """The application has had enough: a normal end, with what had come."""
        self.finished()

    def abandoned(self) -> None:
        """The stream was dropped unread. Runs in a finaliser."""
        self._call.abandon(self)

    def finalize(self) -> None:
        """End an abandoned stream's call, at the time of its last chunk."""
        self._call.finish(self._response(), ended_ns=self._last_ns or None)
        self._clean_up()

    @property
    def ended(self) -> bool:
        """Whether the stream's call has ended."""
        return self._call.ended

    def _gap_attributes(self) -> Attributes:
        return self._call.chunk_attributes(model_name(self._fold.model))

    def _response(self) -> Response:
        try:
            if self._gaps is not None:
                self._gaps.flush()
            response = self._fold.response()
            response.error = response.error or self._error
            return response
        except Exception as error:
            internal_errors.log_once("reading a stream's reply", error)
            return Response()

    def _clean_up(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            try:
                on_end()
            except Exception as error:
                internal_errors.log_once("cleaning up after a stream", error)


class Observer(Protocol):
    """What the taps tell of a stream."""

    def chunk(self, chunk: Any, /) -> None:
        """A chunk has come."""
        ...

    def finished(self) -> None:
        """The stream was read to its end."""
        ...

    def failed(self, error: BaseException) -> None:
        """The stream broke, or whoever was waiting for it was cancelled."""
        ...

    def closed(self) -> None:
        """The application has had enough."""
        ...

    def abandoned(self) -> None:
        """The stream was dropped unread. Runs in a finaliser."""
        ...


class StreamWrapper:
    """An iterator that passes everything through and tells a watch what passes."""

    __slots__ = ("_next", "_source", "_watch")

    def __init__(self, source: Any, watch: Observer) -> None:
        self._watch = watch  # first: `__del__` runs also when the next line fails
        self._source = source
        self._next = source.__next__

    def __iter__(self) -> StreamWrapper:
        return self

    def __next__(self) -> Any:
        try:
            chunk = self._next()
        except StopIteration:
            self._watch.finished()
            raise
        except BaseException as error:
            self._watch.failed(error)
            raise
        self._watch.chunk(chunk)
        return chunk

    def __del__(self) -> None:
        self._watch.abandoned()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


class AsyncStreamWrapper:
    """The asynchronous twin of `IteratorTap`."""

    __slots__ = ("_next", "_source", "_watch")

    def __init__(self, source: Any, watch: Observer) -> None:
        self._watch = watch  # first: `__del__` runs also when the next line fails
        self._source = source
        self._next = source.__anext__

    def __aiter__(self) -> AsyncStreamWrapper:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await self._next()
        except StopAsyncIteration:
            self._watch.finished()
            raise
        except GeneratorExit:
            # The coroutine is being destroyed, perhaps by the garbage collector: see reaper.
            self._watch.abandoned()
            raise
        except BaseException as error:
            self._watch.failed(error)
            raise
        self._watch.chunk(chunk)
        return chunk

    def __del__(self) -> None:
        self._watch.abandoned()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)
