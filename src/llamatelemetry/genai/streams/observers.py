"""Observers of streams: each chunk is timed and accumulated, and the call ends with the stream."""

from __future__ import annotations

from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, Protocol

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.json_access import model_name
from llamatelemetry.genai.metrics import measures_chunks
from llamatelemetry.genai.model import Response
from llamatelemetry.genai.streams import open_streams
from llamatelemetry.genai.streams.abandoned_calls import finalizer
from llamatelemetry.genai.streams.accumulators import ChatAccumulator
from llamatelemetry.genai.streams.chunk_intervals import ChunkIntervals

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai.call import Call
    from llamatelemetry.genai.errors import ErrorInfo
    from llamatelemetry.genai.streams.accumulators import Accumulator
    from llamatelemetry.otel.client_metrics import Attributes

GAP_NS: Final = 30_000_000
"""Time between two chunks that diagnostics record, in nanoseconds."""


class StreamObserver:
    """Observer of one stream, called by a stream wrapper. It ends the stream's call.

    Args:
        call: Call that the stream belongs to.
        accumulator: Accumulator for the format of the stream; `ChatAccumulator` if `None`.
        on_end: Function that runs once at the end of the stream, to remove hooks.
    """

    __slots__ = (
        *("_accumulator", "_call", "_diagnostics", "_error", "_intervals", "_last_ns", "_on_end"),
        "__weakref__",
    )

    def __init__(
        self,
        call: Call,
        accumulator: Accumulator | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._call = call
        self._diagnostics = call.diagnostics
        self._on_end = on_end
        self._accumulator = (
            ChatAccumulator(call.content_max_chars) if accumulator is None else accumulator
        )
        self._last_ns = 0
        self._error: ErrorInfo | None = None
        # Not a method of this object, which would make it part of a reference cycle.
        self._intervals = (
            ChunkIntervals(
                call.record_chunk_intervals, partial(_interval_attributes, call, self._accumulator)
            )
            if measures_chunks(call.request)
            else None
        )
        finalizer.start()  # ends abandoned streams; a finalizer cannot start a thread
        open_streams.add(self)

    def on_chunk(self, chunk: Any) -> None:
        """Process a chunk."""
        now_ns = perf_counter_ns()
        if self._diagnostics is not None and now_ns - self._last_ns > GAP_NS and self._last_ns:
            self._diagnostics.on_gap(self._last_ns, now_ns)
        self._last_ns = now_ns
        call = self._call
        try:
            if self._accumulator.add(chunk) and call.first_token_ns is None:
                call.first_token_ns = now_ns
        except Exception as error:
            internal_errors.log_once("reading a chunk", error)
        if self._intervals is None:
            return
        if call.first_chunk_ns is None:
            call.first_chunk_ns = now_ns
        try:
            self._intervals.add(now_ns)
        except Exception as error:
            internal_errors.log_once("timing a chunk", error)

    def on_bytes(self) -> None:
        """Record that bytes arrived which are not a chunk."""
        self._last_ns = perf_counter_ns()

    def on_reported_error(self, error: ErrorInfo | None) -> None:
        """Store an error that the server reported inside the stream. The library may not raise it."""
        self._error = error

    def on_end(self) -> None:
        """Finish the call: the stream was read to its end."""
        self._call.finish(self._response())
        self._clean_up()

    def on_error(self, error: BaseException) -> None:
        """Fail the call: the stream failed, or its reader was canceled."""
        self._call.fail(error, self._response())
        self._clean_up()

    def on_close(self) -> None:
        """Finish the call with the response so far: the application closed the stream."""
        self.on_end()

    def on_abandon(self) -> None:
        """Queue the call for the finalizer thread: the stream was dropped. Runs in a finalizer."""
        self._call.abandon(self)

    def finalize(self) -> None:
        """Finish the call of an abandoned or open stream. It ends at its last chunk."""
        self._call.finish(self._response(), ended_ns=self._last_ns or None)
        self._clean_up()

    @property
    def ended(self) -> bool:
        """Whether the stream's call has ended."""
        return self._call.ended

    def _response(self) -> Response:
        try:
            if self._intervals is not None:
                self._intervals.flush()
        except Exception as error:
            internal_errors.log_once("recording the intervals of a stream", error)
        try:
            response = self._accumulator.response()
        except Exception as error:
            internal_errors.log_once("building the response of a stream", error)
            response = Response()
        response.error = response.error or self._error
        return response

    def _clean_up(self) -> None:
        open_streams.remove(self)
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            try:
                on_end()
            except Exception as error:
                internal_errors.log_once("cleaning up after a stream", error)


def _interval_attributes(call: Call, accumulator: Accumulator) -> Attributes:
    return call.chunk_attributes(model_name(accumulator.model))


class Observer(Protocol):
    """Interface that stream wrappers call."""

    def on_chunk(self, chunk: Any, /) -> None:
        """Process a chunk."""

    def on_end(self) -> None:
        """Handle the end of the stream."""

    def on_error(self, error: BaseException) -> None:
        """Handle a failure of the stream, or the cancellation of its reader."""

    def on_close(self) -> None:
        """Handle a close by the application."""

    def on_abandon(self) -> None:
        """Handle a stream that was dropped without being closed. Runs in a finalizer."""


def _is_running(source: Any) -> bool:
    """Return whether another thread or task is reading. Its stream goes on if this reader fails."""
    return getattr(source, "gi_running", None) is True or (
        getattr(source, "ag_running", None) is True
    )


class StreamWrapper:
    """Iterator that passes on each chunk and reports it to an observer."""

    __slots__ = ("_next", "_observer", "_source")

    def __init__(self, source: Any, observer: Observer) -> None:
        self._observer = observer
        self._source = source
        self._next = source.__next__

    def __iter__(self) -> StreamWrapper:
        return self

    def __next__(self) -> Any:
        try:
            chunk = self._next()
        except StopIteration:
            self._observer.on_end()
            raise
        except BaseException as error:
            if not _is_running(self._source):
                self._observer.on_error(error)
            raise
        self._observer.on_chunk(chunk)
        return chunk

    def __del__(self) -> None:
        try:  # noqa: SIM105 - `suppress` takes longer than the rest
            self._observer.on_abandon()
        except AttributeError:
            pass  # A signal handler has raised in the constructor.

    def __getattr__(self, name: str) -> Any:
        # `self._source` would call this method again if it is not set yet.
        return getattr(object.__getattribute__(self, "_source"), name)


class AsyncStreamWrapper:
    """Asynchronous version of `StreamWrapper`."""

    __slots__ = ("_next", "_observer", "_source")

    def __init__(self, source: Any, observer: Observer) -> None:
        self._observer = observer
        self._source = source
        self._next = source.__anext__

    def __aiter__(self) -> AsyncStreamWrapper:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await self._next()
        except StopAsyncIteration:
            self._observer.on_end()
            raise
        except GeneratorExit:
            # The coroutine is being destroyed, perhaps by the garbage collector: see abandoned_calls.
            self._observer.on_abandon()
            raise
        except BaseException as error:
            if not _is_running(self._source):
                self._observer.on_error(error)
            raise
        self._observer.on_chunk(chunk)
        return chunk

    def __del__(self) -> None:
        try:  # noqa: SIM105 - `suppress` takes longer than the rest
            self._observer.on_abandon()
        except AttributeError:
            pass  # A signal handler has raised in the constructor.

    def __getattr__(self, name: str) -> Any:
        # `self._source` would call this method again if it is not set yet.
        return getattr(object.__getattribute__(self, "_source"), name)
