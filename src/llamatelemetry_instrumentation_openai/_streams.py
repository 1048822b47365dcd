"""Streams and unread raw responses: the call ends when the application has read or closed them."""

from __future__ import annotations

import inspect
import sys
from types import MethodType
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    AsyncStreamWrapper,
    BodyCapture,
    EventReader,
    Response,
    StreamObserver,
    StreamWrapper,
    describe_reported_error,
    internal_errors,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from llamatelemetry.genai import Accumulator, Call
    from llamatelemetry_instrumentation_openai._routes import OpenAIRoute


def observe_stream(call: Call, route: OpenAIRoute, stream: Any, *, is_async: bool) -> None:
    """Observe a `Stream` or `AsyncStream` in place. Its type and methods do not change."""
    source: Any = stream._iterator

    def on_close(error: BaseException | None) -> None:
        if not _is_running(source):
            _end(observer, error)

    accumulator = route.make_accumulator(call.content_max_chars)
    response = stream.response
    hook = CloseHook(response, on_close, is_async=is_async)
    if _is_json(response):
        accumulator = _PlainBodyAccumulator(route, accumulator)
        accumulator.capture(response, is_async=is_async)
    observer = StreamObserver(call, accumulator, on_end=hook.remove)
    stream._iterator = (AsyncStreamWrapper if is_async else StreamWrapper)(source, observer)
    hook.install()  # Last: it uses the observer.


def _is_json(response: Any) -> bool:
    return str(response.headers.get("content-type", "")).startswith("application/json")


class _PlainBodyAccumulator:
    """Accumulator for a stream whose server sent a plain body, such as an error object, instead.

    The client finds no event in it, so the application gets an empty stream.
    """

    def __init__(self, route: OpenAIRoute, accumulator: Accumulator) -> None:
        self._accumulator = accumulator
        self._body = _BodyAccumulator(route)
        self._has_chunk = False

    def capture(self, response: Any, *, is_async: bool) -> None:
        """Keep the bytes of the body, the next time they are read."""
        name = "aiter_bytes" if is_async else "iter_bytes"
        original, feed = getattr(response, name), self._body.feed

        def iter_bytes(_response: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
            response.__dict__.pop(name, None)
            for data in original(*args, **kwargs):
                feed(data)
                yield data

        async def aiter_bytes(_response: Any, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
            response.__dict__.pop(name, None)
            async for data in original(*args, **kwargs):
                feed(data)
                yield data

        _replace_method(response, aiter_bytes if is_async else iter_bytes)

    def add(self, chunk: Any) -> bool:
        """Add one chunk. Return whether it carries a token."""
        self._has_chunk = True
        return self._accumulator.add(chunk)

    @property
    def model(self) -> Any:
        """The model that the chunks have named so far, if any."""
        return self._accumulator.model

    def response(self) -> Response:
        """Return the response: the plain body if no chunk has arrived."""
        return self._accumulator.response() if self._has_chunk else self._body.response()


class CloseHook:
    """Replaces `close` or `aclose` of one HTTP response, from `install` to `remove`.

    `Stream.close`, the end of a `with` block, the stream helpers and raw responses have only the
    method of the HTTP response in common. `on_close` is called before each close, with the
    exception that causes it: one that leaves a `with` block of the application, or the
    `GeneratorExit` of an iterator. `None` stands for any other reason.
    """

    def __init__(
        self, response: Any, on_close: Callable[[BaseException | None], None], *, is_async: bool
    ) -> None:
        self._response = response
        self._on_close = on_close
        self._is_async = is_async
        self._name = close_name(is_async=is_async)
        # An exception that was being handled before the stream existed does not end the stream.
        self._ambient = sys.exception()

    def install(self) -> None:
        """Replace the method."""
        original = getattr(self._response, self._name)
        # Not `self`, which would make the response part of a reference cycle.
        response, on_close, ambient = self._response, self._on_close, self._ambient

        def close(http: Any) -> Any:
            if http is not response:  # a deep copy
                return http.__class__.close(http)
            on_close(_cause(ambient))
            return original()

        async def aclose(http: Any) -> Any:
            if http is not response:
                return await http.__class__.aclose(http)
            on_close(_cause(ambient))
            return await original()

        _replace_method(self._response, aclose if self._is_async else close)

    def remove(self) -> None:
        """Restore the original method."""
        self._response.__dict__.pop(self._name, None)


def _replace_method(response: Any, function: Callable[..., Any]) -> None:
    """Replace the method of the function's name in one response.

    A bound method is pickled as its object and its name. So a pickled response loads in any process,
    with the method of its class.
    """
    response.__dict__[function.__name__] = MethodType(function, response)


def close_name(*, is_async: bool) -> str:
    """Return the name of the method that closes an HTTP response."""
    return "aclose" if is_async else "close"


def _cause(ambient: BaseException | None) -> BaseException | None:
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


def _is_running(generator: Any) -> bool:
    """Return whether the generator is executing.

    If it is, the client closes the response from inside its own iterator.
    """
    return bool(getattr(generator, "gi_running", False) or getattr(generator, "ag_running", False))


def _end(observer: StreamObserver, error: BaseException | None) -> None:
    """End a closed stream. `error` is the cause that `CloseHook` found."""
    if error is None:
        observer.on_close()
    elif isinstance(error, GeneratorExit):
        # The garbage collector may have raised it, in any thread and inside any code.
        observer.on_abandon()
    else:
        observer.on_error(error)


class RawResponseObserver:
    """Ends the call of a raw response when its body was read or is closed.

    The application may parse the body, read it, iterate over its bytes or lines, write it to a
    file, or close the response at any point. All of these use `iter_bytes` and `close` of the
    HTTP response, or `aiter_bytes` and `aclose`. Both are replaced in the instance until the call
    has ended. A raw stream that is parsed is observed like any other stream.

    `raw` is the object that the application received: one with `parse`, or the HTTP response
    itself. `is_stream` is what the application requested.
    """

    def __init__(
        self,
        call: Call,
        route: OpenAIRoute,
        raw: Any,
        http: Any,
        *,
        is_stream: bool,
        is_async: bool,
    ) -> None:
        self._raw = raw
        self._http = http
        self._is_async = is_async
        # Speech can arrive as server-sent events although the client regards it as a plain body.
        content_type = str(http.headers.get("content-type", ""))
        is_event_stream = content_type.startswith("text/event-stream")
        # A server may send a plain body, such as an error object, instead of a stream.
        self._is_stream = is_event_stream or (is_stream and not _is_json(http))
        self._body = _BodyAccumulator(route)
        self._events = EventReader()
        accumulator = (
            route.make_accumulator(call.content_max_chars) if self._is_stream else self._body
        )
        self._observer = StreamObserver(call, accumulator, on_end=self._remove)
        self._is_reading = False
        self._is_iterated = False
        self._parsed_source: Any = None
        self._bytes_name = "aiter_bytes" if is_async else "iter_bytes"
        self._original_bytes: Callable[..., Any] = getattr(http, self._bytes_name)
        # The hook is not kept: it refers to this object, which would be a reference cycle.
        CloseHook(http, self._on_close, is_async=is_async).install()
        self._replace_bytes()
        if self._is_stream and hasattr(raw, "parse"):
            self._replace_parse(raw.parse)

    def __del__(self) -> None:
        observer = self.__dict__.get("_observer")  # Missing if `__init__` has failed.
        if observer is not None:
            observer.on_abandon()

    def _remove(self) -> None:
        for name in (close_name(is_async=self._is_async), self._bytes_name):
            self._http.__dict__.pop(name, None)
        self._raw.__dict__.pop("parse", None)

    def _on_close(self, error: BaseException | None) -> None:
        if self._is_reading or _is_running(self._parsed_source):
            return  # Closed from inside an iterator, which reports how the stream ends.
        if error is None:
            self._finish()
        else:
            _end(self._observer, error)

    def _finish(self) -> None:
        if not self._is_iterated and self._parsed_source is None:
            # The response may come from a transport that has read its content already.
            content = self._http.__dict__.get("_content")
            if content:
                self._on_bytes(content)
        self._observer.on_end()

    def _replace_bytes(self) -> None:
        def iter_bytes(http: Any, *args: Any, **kwargs: Any) -> Any:
            if http is not self._http:  # a deep copy
                return getattr(http.__class__, self._bytes_name)(http, *args, **kwargs)
            return self._iter_bytes(*args, **kwargs)

        iter_bytes.__name__ = self._bytes_name
        _replace_method(self._http, iter_bytes)

    def _replace_parse(self, original: Callable[..., Any]) -> None:
        def parse(*args: Any, **kwargs: Any) -> Any:
            stream = original(*args, **kwargs)
            self._observe_parsed(stream)
            return stream

        async def parse_async(*args: Any, **kwargs: Any) -> Any:
            stream = await original(*args, **kwargs)
            self._observe_parsed(stream)
            return stream

        is_coroutine = inspect.iscoroutinefunction(original)
        self._raw.__dict__["parse"] = parse_async if is_coroutine else parse

    def _observe_parsed(self, stream: Any) -> None:
        source: Any = getattr(stream, "_iterator", None)
        if source is None or self._parsed_source is not None or self._is_iterated:
            return
        self._parsed_source = source
        stream._iterator = (AsyncStreamWrapper if self._is_async else StreamWrapper)(
            source, self._observer
        )

    def _iter_bytes(self, *args: Any, **kwargs: Any) -> Any:
        source = self._original_bytes(*args, **kwargs)
        if self._is_iterated or self._parsed_source is not None:
            return source
        self._is_iterated = True
        return self._observe_async(source) if self._is_async else self._observe(source)

    def _observe(self, source: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            self._is_reading = True
            try:
                data = next(source)
            except StopIteration:
                self._finish()
                return
            except BaseException as error:
                self._observer.on_error(error)
                raise
            finally:
                self._is_reading = False
            self._on_bytes(data)
            yield data

    async def _observe_async(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            self._is_reading = True
            try:
                data = await anext(source)
            except StopAsyncIteration:
                self._finish()
                return
            except GeneratorExit:
                # The coroutine is being destroyed, perhaps by the garbage collector.
                self._observer.on_abandon()
                raise
            except BaseException as error:
                self._observer.on_error(error)
                raise
            finally:
                self._is_reading = False
            self._on_bytes(data)
            yield data

    def _on_bytes(self, data: bytes) -> None:
        try:
            if not self._is_stream:
                self._body.feed(data)
                self._observer.on_bytes()
                return
            for event in self._events.feed(data):
                error = event.get("error")
                if error and "type" not in event:
                    self._observer.on_reported_error(describe_reported_error(error))
                else:
                    self._observer.on_chunk(event)
        except Exception as error:
            internal_errors.log_once("reading a raw response", error)


class _BodyAccumulator:
    """A plain body, accumulated like the chunks of a stream."""

    def __init__(self, route: OpenAIRoute) -> None:
        self._route = route
        self._capture = BodyCapture()

    def feed(self, data: bytes) -> None:
        """Add bytes of the body, if it is JSON."""
        if self._route.is_json:
            self._capture.feed(data)

    def add(self, _chunk: Any) -> bool:
        """Return `False`: a plain body has no chunks."""
        return False

    @property
    def model(self) -> Any:
        """The model, which is unknown before the end of the body."""
        return None

    def response(self) -> Response:
        """Return the parsed body."""
        route = self._route
        body = self._capture.parse(route.bulk, is_bulk_wanted=route.is_bulk_wanted)
        return Response() if body is None else route.parse_response(body)
