"""Streaming responses of a llama.cpp server: parsing of chunks, and the iterators of both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from llamatelemetry.genai import AsyncStreamWrapper, EventReader, StreamWrapper
from llamatelemetry.llama.client.errors import find_error
from llamatelemetry.llama.client.responses import ChatResponse, parse_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator

    from llamatelemetry.genai import StreamObserver


# Completes an event that lacks the empty line at its end.
_END_OF_STREAM: Final = b"\n\n"


def _parse(payloads: Iterable[bytes]) -> Iterator[ChatResponse]:
    """Parse the data of events.

    Raises:
        LlamaServerError: The server sent an error event, which ends a stream.
    """
    for payload in payloads:
        try:
            chunk = parse_json(payload)
        except ValueError:
            continue
        error = find_error(chunk)
        if error is not None:
            raise error
        yield chunk


def _chunks(response: Any) -> Generator[ChatResponse, None, None]:
    reader = EventReader()
    try:
        for data in response.iter_bytes():
            yield from _parse(reader.payloads(data))
        yield from _parse(reader.payloads(_END_OF_STREAM))
    finally:
        response.close()


async def _chunks_async(response: Any) -> AsyncGenerator[ChatResponse, None]:
    reader = EventReader()
    try:
        async for data in response.aiter_bytes():
            for chunk in _parse(reader.payloads(data)):
                yield chunk
        for chunk in _parse(reader.payloads(_END_OF_STREAM)):
            yield chunk
    finally:
        await response.aclose()


class ChatStream:
    """Iterator over the chunks of a response, and context manager that closes the stream.

    Close a stream that you do not read to its end: the server then stops generating.

    Examples:
        >>> from llamatelemetry.llama import LlamaCppClient
        >>> messages = [{"role": "user", "content": "Count to a hundred."}]
        >>> with LlamaCppClient("http://127.0.0.1:8080") as client:
        ...     with client.chat(messages, stream=True) as stream:
        ...         first = next(stream)
        ...     stream.close()  # Does nothing more: the block has closed it.
        >>> first.choices[0].delta.role
        'assistant'
    """

    def __init__(self, response: Any, observer: StreamObserver | None) -> None:
        self._source = _chunks(response)
        self._response = response
        self._observer = observer
        self._chunks: Iterator[ChatResponse] = (
            self._source if observer is None else StreamWrapper(self._source, observer)
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ChatResponse:
        return next(self._chunks)

    def close(self) -> None:
        """Close the stream. The server stops generating."""
        self._close(None)

    def _close(self, error: BaseException | None) -> None:
        try:
            self._source.close()
            # Closing a generator that was never started does not close the response.
            self._response.close()
        finally:
            _finish(self._observer, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._close(error)


class AsyncChatStream:
    """The asynchronous version of `ChatStream`."""

    def __init__(self, response: Any, observer: StreamObserver | None) -> None:
        self._source = _chunks_async(response)
        self._response = response
        self._observer = observer
        self._chunks: AsyncIterator[ChatResponse] = (
            self._source if observer is None else AsyncStreamWrapper(self._source, observer)
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatResponse:
        return await anext(self._chunks)

    async def close(self) -> None:
        """Close the stream. The server stops generating."""
        await self._close(None)

    aclose = close

    async def _close(self, error: BaseException | None) -> None:
        try:
            await self._source.aclose()
            # Closing a generator that was never started does not close the response.
            await self._response.aclose()
        finally:
            _finish(self._observer, error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        await self._close(error)


def _finish(observer: StreamObserver | None, error: BaseException | None) -> None:
    if observer is None:
        return
    if error is None:
        observer.on_close()
    else:
        observer.on_error(error)
