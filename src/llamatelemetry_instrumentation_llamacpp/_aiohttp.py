"""Patch points of aiohttp: `ClientSession._request`, which every method of a session calls.

It follows redirects itself. `ClientRequest.send` is called for each of them, and starts the clock.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

import wrapt

from llamatelemetry.genai import Limit, PatchPoint, internal_errors, server_of
from llamatelemetry_instrumentation_llamacpp._http_adapter import (
    HttpClientAdapter,
    RequestArguments,
)
from llamatelemetry_instrumentation_llamacpp._http_call import (
    HttpCall,
    OutgoingRequest,
    current_http_call,
    start_http_call,
)
from llamatelemetry_instrumentation_llamacpp._observed_send import observe_send_async
from llamatelemetry_instrumentation_llamacpp._routes import match_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llamatelemetry.genai import Observer, Server
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
    from llamatelemetry_instrumentation_llamacpp._observed_send import Arguments, Keywords
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


def patch_points(instrumentor: LlamaCppInstrumentor, _library: str) -> tuple[PatchPoint, ...]:
    """Return the patch table. The wrapper reads `instrumentor` at each call: it can change."""

    def request(
        wrapped: Callable[..., Any], session: Any, args: Arguments, kwargs: Keywords
    ) -> Awaitable[Any]:
        method = args[0] if args else kwargs.get("method")
        if not isinstance(method, str) or method.upper() != "POST":
            return wrapped(*args, **kwargs)
        url = args[1] if len(args) > 1 else kwargs.get("str_or_url")
        target = _find_target(session, url)
        if target is None:
            return wrapped(*args, **kwargs)
        return _send(wrapped, (instrumentor, session, target), args, kwargs)

    return (
        PatchPoint("aiohttp.client", "ClientSession._request", request),
        PatchPoint("aiohttp.client_reqrep", "ClientRequest.send", _on_send, optional=True),
    )


def _on_send(
    wrapped: Callable[..., Any], _request: Any, args: Arguments, kwargs: Keywords
) -> Awaitable[Any]:
    http_call = current_http_call()
    if http_call is not None and isinstance(http_call.adapter, _AiohttpAdapter):
        http_call.on_sent()
    return wrapped(*args, **kwargs)


class _Target(NamedTuple):
    url: str
    server: Server | None
    match: RouteMatch


def _find_target(session: Any, url: Any) -> _Target | None:
    try:
        if session._base_url is not None:
            url = session._build_url(url)
        if not isinstance(url, str):
            if match_path(url.raw_path) is None:
                return None
            url = str(url)
        return _target_of(url, getattr(session.connector, "path", None))
    except Exception as error:  # Not a URL: the session raises its own error.
        internal_errors.raise_if_from_signal_handler(error)
        return None


@Limit("aiohttp_urls", 1024, "URLs of aiohttp, with their server").cached
def _target_of(url: str, socket: str | None) -> _Target | None:
    parts = urlsplit(url)
    match = match_path(parts.path)
    if match is None:
        return None
    server = server_of(parts.scheme, parts.hostname or "", parts.port, socket=socket)
    return _Target(url, server, match)


async def _send(
    wrapped: Callable[..., Any],
    sender: tuple[LlamaCppInstrumentor, Any, _Target],
    args: Arguments,
    kwargs: Keywords,
) -> Any:
    instrumentor, session, target = sender
    body = kwargs.get("data") if kwargs.get("json") is None else kwargs["json"]
    given: Any = kwargs.get("headers")
    if isinstance(given, Iterator):  # It can be read only once.
        given = tuple(cast("Iterator[Any]", given))
        kwargs = {**kwargs, "headers": given}

    def read_headers() -> Any:
        return {**session.headers, **_as_headers(given)}

    request = RequestArguments(target.url, body, read_headers)
    outgoing = OutgoingRequest(session, request, target.server, target.match)
    is_decoded = kwargs.get("auto_decompress")
    if is_decoded is None:
        is_decoded = session.auto_decompress
    adapter = ADAPTER if is_decoded else UNDECODED
    http_call = start_http_call(adapter, instrumentor, outgoing)
    if http_call is None:
        return await wrapped(*args, **kwargs)
    added = request.added_headers()
    if added:
        headers = _as_headers(given)
        headers.update(added)
        kwargs = {**kwargs, "headers": headers}
    return await observe_send_async(http_call, wrapped, args, kwargs)


def _as_headers(given: Any) -> Any:
    """Return a copy of headers, which may be a mapping or pairs."""
    return sys.modules["multidict"].CIMultiDict(given or ())


class _AiohttpAdapter(HttpClientAdapter):
    # `redirected_s` stays 0: `ClientRequest.send` is called for each redirect.
    library = "aiohttp"
    status_field = "status"

    def __init__(self, *, observes_decoded: bool = True) -> None:
        self.observes_decoded = observes_decoded

    def request_body(self, request: Any) -> Any:
        return request.body

    def is_part_of(self, _client: Any, request: Any, outer: HttpCall) -> bool:
        # A middleware may send the request again.
        return request.url == outer.request.url

    def content(self, response: Any) -> bytes | None:
        return getattr(response, "_body", None)

    def observe_body(self, response: Any, observer: Observer, _encoding: str) -> None:
        response.content = _ObservedContent(response.content, observer)


ADAPTER: Final = _AiohttpAdapter()
UNDECODED: Final = _AiohttpAdapter(observes_decoded=False)
"""The adapter for requests with `auto_decompress=False`, as reverse proxies send them."""


# The type parameters of wrapt's class do not describe the wrapped object.
_ObjectProxy: Any = wrapt.ObjectProxy


class _ObservedContent(_ObjectProxy):
    """A `StreamReader` that passes its bytes to an observer.

    Its own iterators, and the methods of the response, call the methods that are overridden here.
    """

    def __init__(self, source: Any, observer: Observer) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - the base class is `Any`
        self._self_observer = observer
        self._self_canceled: BaseException | None = None
        self._self_kind: Any = type(source)

    async def _read(self, reading: Awaitable[bytes]) -> bytes:
        try:
            data = await reading
        except asyncio.CancelledError as error:
            # The application may go on reading, for example after a time limit of one line.
            self._self_canceled = error
            raise
        except GeneratorExit:
            # The coroutine is being destroyed, perhaps by the garbage collector.
            self._self_observer.on_abandon()
            raise
        except BaseException as error:
            self._self_observer.on_error(error)
            raise
        self._pass_on(data)
        return data

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._self_observer.on_chunk(data)
        if self.__wrapped__.at_eof():
            self._self_observer.on_end()

    async def read(self, *args: Any, **kwargs: Any) -> bytes:
        """Read a part of the body, or all of it."""
        return await self._read(self.__wrapped__.read(*args, **kwargs))

    async def readany(self) -> bytes:
        """Read the available part of the body."""
        return await self._read(self.__wrapped__.readany())

    async def readexactly(self, *args: Any, **kwargs: Any) -> bytes:
        """Read a number of bytes."""
        return await self._read(self.__wrapped__.readexactly(*args, **kwargs))

    async def readline(self, *args: Any, **kwargs: Any) -> bytes:
        """Read a line."""
        return await self._read(self.__wrapped__.readline(*args, **kwargs))

    async def readuntil(self, *args: Any, **kwargs: Any) -> bytes:
        """Read until a separator."""
        return await self._read(self.__wrapped__.readuntil(*args, **kwargs))

    async def readchunk(self) -> tuple[bytes, bool]:
        """Read a chunk as the server sent it, and whether it is complete."""
        is_complete = False

        async def read() -> bytes:
            nonlocal is_complete
            data, is_complete = await self.__wrapped__.readchunk()
            return data

        return await self._read(read()), is_complete

    def read_nowait(self, *args: Any, **kwargs: Any) -> bytes:
        """Read what has arrived."""
        data = self.__wrapped__.read_nowait(*args, **kwargs)
        self._pass_on(data)
        return data

    def __aiter__(self) -> Any:
        return self._self_kind.__aiter__(self)

    def iter_chunked(self, n: int) -> Any:
        """Iterate over parts of a maximum size."""
        return self._self_kind.iter_chunked(self, n)

    def iter_any(self) -> Any:
        """Iterate over the parts of the body as they arrive."""
        return self._self_kind.iter_any(self)

    def iter_chunks(self) -> Any:
        """Iterate over the chunks of the body as the server sent them."""
        return self._self_kind.iter_chunks(self)

    def set_exception(self, *args: Any, **kwargs: Any) -> None:
        """Let further reads fail: the application closes or releases the response."""
        canceled = self._self_canceled
        if canceled is not None and sys.exception() is canceled:
            self._self_observer.on_error(canceled)
        else:
            self._self_observer.on_close()
        self.__wrapped__.set_exception(*args, **kwargs)

    def __del__(self) -> None:
        self._self_observer.on_abandon()
