"""Patch points of httpx and httpx2, which have the same API.

`Client.send` and `AsyncClient.send` are above authentication, redirects and every transport. They
are also above OpenTelemetry's own instrumentation, so that its span becomes a child.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    AsyncStreamWrapper,
    Limit,
    PatchPoint,
    StreamWrapper,
    internal_errors,
    server_of,
)
from llamatelemetry_instrumentation_llamacpp._http_adapter import HttpClientAdapter
from llamatelemetry_instrumentation_llamacpp._http_call import (
    HttpCall,
    OutgoingRequest,
    start_http_call,
)
from llamatelemetry_instrumentation_llamacpp._observed_send import observe_send, observe_send_async
from llamatelemetry_instrumentation_llamacpp._routes import match_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from llamatelemetry.genai import Observer
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
    from llamatelemetry_instrumentation_llamacpp._observed_send import Arguments, Keywords
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


def patch_points(instrumentor: LlamaCppInstrumentor, library: str) -> tuple[PatchPoint, ...]:
    """Return the patch table of httpx or httpx2."""
    wrappers = _SendWrappers(instrumentor, HttpxAdapter(library))
    module = f"{library}._client"
    return (
        PatchPoint(module, "Client.send", wrappers.send),
        PatchPoint(module, "AsyncClient.send", wrappers.send_async),
    )


class _SendWrappers:
    """The wrappers of `send`.

    They read the instrumentor at each call, because instrumenting again changes it.
    """

    def __init__(self, instrumentor: LlamaCppInstrumentor, adapter: HttpxAdapter) -> None:
        self._instrumentor = instrumentor
        self._adapter = adapter

    def send(
        self, wrapped: Callable[..., Any], client: Any, args: Arguments, kwargs: Keywords
    ) -> Any:
        """Wrap `Client.send`."""
        http_call = self._start(client, args, kwargs)
        if http_call is None:
            return wrapped(*args, **kwargs)
        return observe_send(http_call, wrapped, args, kwargs)

    async def send_async(
        self, wrapped: Callable[..., Any], client: Any, args: Arguments, kwargs: Keywords
    ) -> Any:
        """Wrap `AsyncClient.send`."""
        http_call = self._start(client, args, kwargs)
        if http_call is None:
            return await wrapped(*args, **kwargs)
        return await observe_send_async(http_call, wrapped, args, kwargs)

    def _start(self, client: Any, args: Arguments, kwargs: Keywords) -> HttpCall | None:
        request: Any = args[0] if args else kwargs.get("request")
        match = _match(request)
        if match is None:
            return None
        try:
            url = request.url
            server = _server_of(url.scheme, url.host, url.port, socket=_socket(client, url))
        except Exception as error:
            internal_errors.log_once("reading a URL", error)
            return None
        outgoing = OutgoingRequest(client, request, server, match)
        return start_http_call(self._adapter, self._instrumentor, outgoing)


def _match(request: Any) -> RouteMatch | None:
    try:
        if request.method != "POST":
            return None
        path: bytes = request.url.raw_path
        return match_path(path.partition(b"?")[0].decode("ascii"))
    except Exception as error:  # Not a request: the client raises its own error.
        internal_errors.raise_if_from_signal_handler(error)
        return None


_server_of = Limit("httpx_servers", 1024, "Servers of httpx").cached(server_of)


def _socket(client: Any, url: Any) -> str | None:
    """Return the path of the Unix socket that the client uses for a URL, if any."""
    try:
        transport = client._transport_for_url(url) if client._mounts else client._transport
        pool = getattr(transport, "_pool", None)
        return transport.uds if pool is None else pool._uds  # `uds` is that of httpx-aiohttp.
    except AttributeError:  # A custom transport.
        return None


class HttpxAdapter(HttpClientAdapter):
    """The adapter of httpx or httpx2."""

    def __init__(self, package: str) -> None:
        self.library = package

    def request_body(self, request: Any) -> bytes | None:
        # A request with a streamed body does not have this attribute.
        return getattr(request, "_content", None)

    def is_part_of(self, _client: Any, request: Any, outer: HttpCall) -> bool:
        # A transport may send the request with a client of its own, to cache or retry it.
        return getattr(outer.request, "url", None) == request.url

    def is_body(self, body: Any, request: Any) -> bool:
        # A transport gets the content or the stream, which is the same for each redirect.
        return body is not None and (body is request.stream or body is self.request_body(request))

    def content(self, response: Any) -> bytes | None:
        return getattr(response, "_content", None)

    def redirected_s(self, response: Any) -> float:
        try:
            return sum((hop.elapsed.total_seconds() for hop in response.history), 0.0)
        except RuntimeError:  # It has no duration if the transport has read the body.
            return 0.0

    def is_async(self, client: Any) -> bool | None:
        return hasattr(client, "aclose")

    def is_networked(self, response: Any) -> bool:
        return "network_stream" in response.extensions

    def observe_body(self, response: Any, observer: Observer, _encoding: str) -> None:
        stream = response.stream
        sync_kind, async_kind = _observed_kinds(self.library)
        kind = async_kind if hasattr(stream, "__aiter__") else sync_kind
        response.stream = kind(stream, observer)


@Limit("httpx_classes", 8, "Packages of httpx, with their stream classes").cached
def _observed_kinds(package: str) -> tuple[type[Any], type[Any]]:
    """Create the observed stream classes, derived from the library's own base classes."""
    library: ModuleType = sys.modules[package]

    class ObservedStream(_ObservedStreamBase, library.SyncByteStream):
        def __iter__(self) -> Any:
            return StreamWrapper(iter(self._source), self._observer)

        def close(self) -> None:
            self._observer.on_close()
            self._source.close()

    class ObservedAsyncStream(_ObservedStreamBase, library.AsyncByteStream):
        def __aiter__(self) -> Any:
            return _AsyncBytesWrapper(self._source.__aiter__(), self._observer)

        async def aclose(self) -> None:
            self._observer.on_close()
            await self._source.aclose()

    return ObservedStream, ObservedAsyncStream


class _ObservedStreamBase:
    """A byte stream that passes its bytes to an observer. All other attributes are the source's."""

    def __init__(self, source: Any, observer: Observer) -> None:
        self._observer = observer
        self._source = source

    def __getattr__(self, name: str) -> Any:
        # `self._source` would call this method again if it is not set yet.
        return getattr(object.__getattribute__(self, "_source"), name)

    def __del__(self) -> None:
        try:  # noqa: SIM105 - `suppress` takes longer than the rest
            self._observer.on_abandon()
        except AttributeError:
            pass  # A signal handler has raised in the constructor.


class _AsyncBytesWrapper(AsyncStreamWrapper):
    """An iterator with the methods of `AsyncGenerator`: httpx2 closes only those."""

    async def aclose(self) -> None:
        """Close the source if it can be closed."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    async def asend(self, value: Any) -> Any:
        """Send a value to the source."""
        return await self._source.asend(value)

    async def athrow(self, *error: Any) -> Any:
        """Throw an exception into the source."""
        return await self._source.athrow(*error)
