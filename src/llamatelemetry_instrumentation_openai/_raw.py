"""Raw responses whose body has not been read: ``with_streaming_response``, and raw streams.

The application may parse the body, read it, iterate over its bytes or lines, write it to a
file, or close the response at any point. All of that goes through ``iter_bytes`` and ``close``
of the HTTP response (``aiter_bytes`` and ``aclose``): they are shadowed in the instance until
the call has ended. A raw stream that is parsed is tapped like any other.
"""

from __future__ import annotations

import inspect
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
    parse_body,
)
from llamatelemetry_instrumentation_openai._closing import CloseHook, end, is_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from llamatelemetry.genai import Call
    from llamatelemetry_instrumentation_openai._routes import Route


def read_content(route: Route, content: bytes) -> Response:
    """Read a body that is there as a whole. What is no JSON says nothing."""
    if not route.is_json:
        return Response()
    reply = parse_body(content, route.bulk, is_bulk_wanted=route.is_bulk_wanted)
    return Response() if reply is None else route.read_reply(reply)


class RawReply:
    """Ends the call of a raw response when its body has been read, or will not be.

    Args:
        call: the call.
        route: its endpoint.
        raw: what the client gave to the application, with ``parse``; or the HTTP response itself.
        http: the HTTP response.
        is_async: whether it belongs to an asynchronous client.
    """

    def __init__(self, call: Call, route: Route, raw: Any, http: Any, *, is_async: bool) -> None:
        self._raw = raw
        self._http = http
        self._is_async = is_async
        self._is_stream = call.request.stream or _is_event_stream(http)
        self._body = _BodyFold(route)
        self._events = EventReader()
        fold = route.fold(call.content_max_chars) if self._is_stream else self._body
        self._watch = StreamObserver(call, fold, on_end=self._remove)
        self._is_reading = False
        self._is_iterated = False
        self._parsed_source: Any = None
        self._bytes_name = "aiter_bytes" if is_async else "iter_bytes"
        self._original_bytes: Callable[..., Any] = getattr(http, self._bytes_name)
        self._close_hook = CloseHook(http, is_async, self._closing)
        http.__dict__[self._bytes_name] = self._iter_bytes
        if self._is_stream and hasattr(raw, "parse"):
            self._shadow_parse(raw.parse)

    def __del__(self) -> None:
        watch = self.__dict__.get("_watch")  # not there if making it has failed
        if watch is not None:
            watch.on_abandon()

    def _remove(self) -> None:
        self._close_hook.remove()
        self._http.__dict__.pop(self._bytes_name, None)
        self._raw.__dict__.pop("parse", None)

    # --- closed ---------------------------------------------------------------------------

    def _closing(self, error: BaseException | None) -> None:
        if self._is_reading or is_running(self._parsed_source):
            return  # from within: what reads hears how that ends
        if error is None:
            self._finish()
        else:
            end(self._watch, error)

    def _finish(self) -> None:
        if not self._is_iterated and self._parsed_source is None:
            # A transport may hand out a response that has its content already.
            content = self._http.__dict__.get("_content")
            if content:
                self._came(content)
        self._watch.on_end()

    # --- parsed ---------------------------------------------------------------------------

    def _shadow_parse(self, original: Callable[..., Any]) -> None:
        def parse(*args: Any, **kwargs: Any) -> Any:
            stream = original(*args, **kwargs)
            self._tap(stream)
            return stream

        async def parse_async(*args: Any, **kwargs: Any) -> Any:
            stream = await original(*args, **kwargs)
            self._tap(stream)
            return stream

        is_coroutine = inspect.iscoroutinefunction(original)
        self._raw.__dict__["parse"] = parse_async if is_coroutine else parse

    def _tap(self, stream: Any) -> None:
        source: Any = getattr(stream, "_iterator", None)
        if source is None or self._parsed_source is not None or self._is_iterated:
            return
        self._parsed_source = source
        stream._iterator = (AsyncStreamWrapper if self._is_async else StreamWrapper)(
            source, self._watch
        )

    # --- read or iterated -----------------------------------------------------------------

    def _iter_bytes(self, *args: Any, **kwargs: Any) -> Any:
        source = self._original_bytes(*args, **kwargs)
        if self._is_iterated or self._parsed_source is not None:
            return source
        self._is_iterated = True
        return self._tee_async(source) if self._is_async else self._tee(source)

    def _tee(self, source: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            self._is_reading = True
            try:
                data = next(source)
            except StopIteration:
                self._finish()
                return
            except BaseException as error:
                self._watch.on_error(error)
                raise
            finally:
                self._is_reading = False
            self._came(data)
            yield data

    async def _tee_async(self, source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while True:
            self._is_reading = True
            try:
                data = await anext(source)
            except StopAsyncIteration:
                self._finish()
                return
            except GeneratorExit:
                # The coroutine is being destroyed, perhaps by the garbage collector.
                self._watch.on_abandon()
                raise
            except BaseException as error:
                self._watch.on_error(error)
                raise
            finally:
                self._is_reading = False
            self._came(data)
            yield data

    def _came(self, data: bytes) -> None:
        try:
            if not self._is_stream:
                self._body.feed(data)
                self._watch.on_bytes()
                return
            for event in self._events.feed(data):
                error = event.get("error")
                if error and "type" not in event:
                    self._watch.on_reported_error(describe_reported_error(error))
                else:
                    self._watch.on_chunk(event)
        except Exception as error:
            internal_errors.log_once("reading a raw response", error)


def _is_event_stream(http: Any) -> bool:
    # Speech can be asked for as a stream of events without being a stream for the client.
    return str(http.headers.get("content-type", "")).startswith("text/event-stream")


class _BodyFold:
    """A plain body in place of a stream's chunks."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._capture = BodyCapture()

    def feed(self, data: bytes) -> None:
        """Take in bytes, if they can say anything."""
        if self._route.is_json:
            self._capture.feed(data)

    def add(self, _chunk: Any) -> bool:
        """A plain body has no chunks."""
        return False

    @property
    def model(self) -> Any:
        """Not known before the end."""
        return None

    def response(self) -> Response:
        """Give what the body says."""
        route = self._route
        reply = self._capture.parse(route.bulk, is_bulk_wanted=route.is_bulk_wanted)
        return Response() if reply is None else route.read_reply(reply)
