"""Streams of a llama.cpp server: bytes to chunks once, and an iterator for each kind of client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from llamatelemetry.genai import AsyncStreamWrapper, EventReader, StreamWrapper
from llamatelemetry.llama._errors import error_of
from llamatelemetry.llama._responses import ChatResponse, parse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
    from types import TracebackType

    from llamatelemetry.genai import StreamObserver


class _Events:
    """The chunks in the bytes of one stream."""

    def __init__(self) -> None:
        self._reader = EventReader()

    def feed(self, data: bytes) -> Iterator[ChatResponse]:
        """Take in bytes; give the chunks that are complete now.

        Raises:
            LlamaServerError: the server has told of an error, with which a stream ends.
        """
        for payload in self._reader.payloads(data):
            try:
                chunk = parse(payload)
            except ValueError:
                continue
            if chunk.get("error"):
                raise error_of(chunk)
            yield chunk

    def end(self) -> Iterator[ChatResponse]:
        """Give what came without the empty line that ends an event."""
        return self.feed(b"\n\n")


def _chunks(response: Any) -> Generator[ChatResponse, None, None]:
    events = _Events()
    try:
        for data in response.iter_bytes():
            yield from events.feed(data)
        yield from events.end()
    finally:
        response.close()


async def _chunks_async(response: Any) -> AsyncGenerator[ChatResponse, None]:
    events = _Events()
    try:
        async for data in response.aiter_bytes():
            for chunk in events.feed(data):
                yield chunk
        for chunk in events.end():
            yield chunk
    finally:
        await response.aclose()


class ChatStream:
    """The chunks of one reply, as they come; a context manager that closes the stream.

    A stream that is left early is best closed: the server stops working on it then.
    """

    def __init__(self, response: Any, watch: StreamObserver | None) -> None:
        self._source = _chunks(response)
        self._response = response
        self._watch = watch
        self._chunks: Iterator[ChatResponse] = (
            self._source if watch is None else StreamWrapper(self._source, watch)
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatResponse:
        return next(self._chunks)

    def close(self) -> None:
        """Have no more of it."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        try:
            self._source.close()
            self._response.close()  # a generator that was never started closes nothing
        finally:
            _ended(self._watch, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._close(error)


class AsyncChatStream:
    """The asynchronous twin of `ChatStream`."""

    def __init__(self, response: Any, watch: StreamObserver | None) -> None:
        self._source = _chunks_async(response)
        self._response = response
        self._watch = watch
        self._chunks: AsyncIterator[ChatResponse] = (
            self._source if watch is None else AsyncStreamWrapper(self._source, watch)
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatResponse:
        return await anext(self._chunks)

    async def close(self) -> None:
        """Have no more of it."""
        await self._close(None)

    aclose = close

    async def _close(self, error: BaseException | None) -> None:
        try:
            await self._source.aclose()
            await self._response.aclose()  # a generator that was never started closes nothing
        finally:
            _ended(self._watch, error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self._close(error)


def _ended(watch: StreamObserver | None, error: BaseException | None) -> None:
    if watch is None:
        return
    if error is None:
        watch.on_close()
    else:
        watch.on_error(error)
