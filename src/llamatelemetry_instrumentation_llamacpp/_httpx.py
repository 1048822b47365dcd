"""What is wrapped in httpx and httpx2, which differ in name only.

``Client.send`` and ``AsyncClient.send`` are above authentication, redirects and every
transport, and above OpenTelemetry's own instrumentation, whose span becomes a child.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    AsyncStreamWrapper,
    PatchPoint,
    StreamWrapper,
    internal_errors,
    server_of,
)
from llamatelemetry_instrumentation_llamacpp._exchange import Exchange, Sent, begin
from llamatelemetry_instrumentation_llamacpp._routes import match_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from llamatelemetry.genai import Instrumenter, Observer, Server
    from llamatelemetry_instrumentation_llamacpp._owner import Owner
    from llamatelemetry_instrumentation_llamacpp._routes import Match

    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """The patch table, for whichever of the two is there."""
    points: list[PatchPoint] = []
    for package in ("httpx", "httpx2"):
        sends = _Sends(owner, HttpxDialect(package))
        module = f"{package}._client"
        points.append(PatchPoint(module, "Client.send", sends.sync))
        points.append(PatchPoint(module, "AsyncClient.send", sends.maybe_asynchronous))
    return tuple(points)


class _Sends:
    """The wrappers of ``send``. What ``owner`` holds is looked up per call: it changes."""

    def __init__(self, owner: Owner, dialect: HttpxDialect) -> None:
        self._owner = owner
        self._dialect = dialect

    def sync(
        self, wrapped: Callable[..., Any], client: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap ``Client.send``."""
        exchange = self._begin(client, args, kwargs)
        if exchange is None:
            return wrapped(*args, **kwargs)
        try:
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            exchange.failed(error)
            raise
        exchange.answered(response)
        return response

    async def _asynchronous(
        self, wrapped: Callable[..., Any], client: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        exchange = self._begin(client, args, kwargs)
        if exchange is None:
            return await wrapped(*args, **kwargs)
        try:
            response = await wrapped(*args, **kwargs)
        except GeneratorExit:
            exchange.destroyed()
            raise
        except BaseException as error:
            exchange.failed(error)
            raise
        exchange.answered(response)
        return response

    def maybe_asynchronous(
        self, wrapped: Callable[..., Any], client: Any, args: _Arguments, kwargs: _Keywords
    ) -> Any:
        """Wrap ``AsyncClient.send``. What is nothing to us is spared a coroutine around its own."""
        if _match(args, kwargs) is None:
            return wrapped(*args, **kwargs)
        return self._asynchronous(wrapped, client, args, kwargs)

    def _begin(self, client: Any, args: _Arguments, kwargs: _Keywords) -> Exchange | None:
        match = _match(args, kwargs)
        if match is None:
            return None
        request = _request(args, kwargs)
        try:
            url = request.url
            server = _describe_server(url.scheme, url.host, url.port, _socket(client))
        except Exception as error:
            internal_errors.log_once("reading a URL", error)
            return None
        return begin(self._dialect, self._owner, Sent(client, request, server, match))


def _request(args: _Arguments, kwargs: _Keywords) -> Any:
    return args[0] if args else kwargs.get("request")


def _match(args: _Arguments, kwargs: _Keywords) -> Match | None:
    try:
        request = _request(args, kwargs)
        if request.method != "POST":
            return None
        path: bytes = request.url.raw_path
        return match_path(path.partition(b"?")[0].decode("ascii"))
    except Exception:  # no request: the client will say so
        return None


@lru_cache(maxsize=1024)
def _describe_server(scheme: str, host: str, port: int | None, socket: str | None) -> Server | None:
    return server_of(scheme, host, port, socket=socket)


def _socket(client: Any) -> str | None:
    """The Unix socket that the client connects to instead of the URL's host."""
    try:
        return client._transport._pool._uds
    except AttributeError:  # somebody's own transport
        return None


class HttpxDialect:
    """httpx or httpx2."""

    tells_decoded = False

    def __init__(self, package: str) -> None:
        self._package = package

    def request_body(self, request: Any) -> bytes | None:
        # Only of a body that is in memory; one that is streamed has none, and is not read for us.
        return getattr(request, "_content", None)

    def propagate(self, instrumenter: Instrumenter, client: Any, request: Any) -> Any:
        original = request.headers
        headers = original.copy()
        instrumenter.propagation.inject(headers, client, request.url)
        if len(headers) == len(original):
            return None
        request.headers = headers
        return original

    def restore(self, request: Any, headers: Any) -> None:
        request.headers = headers

    def is_part_of(self, _client: Any, request: Any, outer: Exchange) -> bool:
        # A transport that sends the request with a client of its own: a cache, a retry.
        return getattr(outer.request, "url", None) == request.url

    def content(self, response: Any) -> bytes | None:
        return getattr(response, "_content", None)

    def headers_ns(self, _response: Any, _sent_ns: int) -> int | None:
        return None

    def redirected_s(self, response: Any) -> float:
        if not response.history:
            return 0.0
        return sum(hop.elapsed.total_seconds() for hop in response.history)

    def is_networked(self, response: Any) -> bool:
        return "network_stream" in response.extensions

    def tap(self, response: Any, watch: Observer, _encoding: str) -> None:
        stream = response.stream
        sync_kind, async_kind = _tapped_kinds(self._package)
        kind = async_kind if hasattr(stream, "__aiter__") else sync_kind
        response.stream = kind(stream, watch)


@lru_cache(maxsize=8)
def _tapped_kinds(package: str) -> tuple[type[Any], type[Any]]:
    """Make the streams that are tapped, of the kinds that the library demands."""
    library: ModuleType = sys.modules[package]

    class TappedStream(_Tapped, library.SyncByteStream):
        def __iter__(self) -> Any:
            return StreamWrapper(iter(self._source), self._watch)

        def close(self) -> None:
            self._watch.on_close()
            self._source.close()

    class TappedAsyncStream(_Tapped, library.AsyncByteStream):
        def __aiter__(self) -> Any:
            return _AsyncBytesTap(self._source.__aiter__(), self._watch)

        async def aclose(self) -> None:
            self._watch.on_close()
            await self._source.aclose()

    return TappedStream, TappedAsyncStream


class _Tapped:
    """A stream of bytes that tells a watch what passes; all else is the stream's own."""

    def __init__(self, source: Any, watch: Observer) -> None:
        self._watch = watch  # first: `__del__` runs also when the next line fails
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __del__(self) -> None:
        self._watch.on_abandon()


class _AsyncBytesTap(AsyncStreamWrapper):
    """The tap as httpx2 wants it: an asynchronous generator, which it closes."""

    async def aclose(self) -> None:
        """Close the source, where it can be closed."""
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    async def asend(self, value: Any) -> Any:
        """As an asynchronous generator; nobody sends."""
        return await self._source.asend(value)

    async def athrow(self, *error: Any) -> Any:
        """As an asynchronous generator; nobody throws."""
        return await self._source.athrow(*error)
