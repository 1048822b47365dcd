"""What is wrapped in requests: ``Session.send``, which sees redirects by calling itself."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import wrapt

from llamatelemetry.genai import PatchPoint, StreamWrapper, server_of
from llamatelemetry_instrumentation_llamacpp._exchange import Exchange, Sent, begin
from llamatelemetry_instrumentation_llamacpp._routes import match_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry.genai import Instrumenter, Observer, Server
    from llamatelemetry_instrumentation_llamacpp._owner import Owner
    from llamatelemetry_instrumentation_llamacpp._routes import Match


def patch_points(owner: Owner) -> tuple[PatchPoint, ...]:
    """The patch table. What ``owner`` holds is looked up per call: it changes with re-instrumenting."""

    def send(
        wrapped: Callable[..., Any], session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        request = args[0] if args else kwargs.get("request")
        exchange = _begin(owner, session, request)
        if exchange is None:
            return wrapped(*args, **kwargs)
        try:
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            exchange.failed(error)
            raise
        exchange.answered(response)
        return response

    return (PatchPoint("requests.sessions", "Session.send", send),)


def _begin(owner: Owner, session: Any, request: Any) -> Exchange | None:
    try:
        if request.method != "POST":
            return None
        found = _match_url(request.url)
    except Exception:  # no prepared request: the session will say so
        return None
    if found is None:
        return None
    match, server = found
    return begin(DIALECT, owner, Sent(session, request, server, match))


@lru_cache(maxsize=1024)
def _match_url(url: str) -> tuple[Match, Server | None] | None:
    parts = urlsplit(url)
    match = match_path(parts.path)
    if match is None:
        return None
    return match, server_of(parts.scheme, parts.hostname or "", parts.port)


class _RequestsDialect:
    tells_decoded = True

    def request_body(self, request: Any) -> bytes | str | None:
        # A file or an iterator is being streamed, and not read for us.
        return request.body if isinstance(request.body, (bytes, str)) else None

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

    def is_part_of(self, client: Any, _request: Any, outer: Exchange) -> bool:
        return client is outer.client

    def content(self, response: Any) -> bytes | None:
        # `False` until it is read; `None` after reading nothing.
        content = response._content
        return None if content is False else content or b""

    def headers_ns(self, response: Any, sent_ns: int) -> int | None:
        return sent_ns + int(response.elapsed.total_seconds() * 1e9)

    def redirected_s(self, _response: Any) -> float:
        return 0.0  # each redirect is told as it is sent

    def is_networked(self, _response: Any) -> bool:
        return True

    def tap(self, response: Any, watch: Observer, encoding: str) -> None:
        if hasattr(response.raw, "stream"):
            response.raw = _TappedBody(response.raw, watch, encoding)
        else:  # no urllib3: somebody's adapter, with a file for a body
            watch.on_close()


DIALECT: Final = _RequestsDialect()


# Its type parameters are not those of what it is a proxy of.
_ObjectProxy: Any = wrapt.ObjectProxy


class _TappedBody(_ObjectProxy):
    """urllib3's response, which tells a watch what is read from it.

    requests reads by ``stream``, which decodes; the application may also read by any other
    method, and by those that are not told of here the end is known, and nothing else.
    """

    def __init__(self, source: Any, watch: Observer, encoding: str) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - see above
        self._self_watch = watch
        self._self_is_encoded = bool(encoding)

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        """Iterate over the body."""
        source: Any = self.__wrapped__.stream(*args, **kwargs)
        decode: Any = args[1] if len(args) > 1 else kwargs.get("decode_content")
        return self._told(source, decode)

    def read_chunked(self, *args: Any, **kwargs: Any) -> Any:
        """Iterate over the body as it was cut by the server."""
        source: Any = self.__wrapped__.read_chunked(*args, **kwargs)
        decode: Any = args[1] if len(args) > 1 else kwargs.get("decode_content")
        return self._told(source, decode)

    def __iter__(self) -> Any:
        return self._told(iter(self.__wrapped__), decode=True)

    def _told(self, source: Any, decode: Any) -> Any:
        if self._self_is_encoded and not decode:
            return source
        return StreamWrapper(source, self._self_watch)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Read some of the body, or all."""
        data = self._read(self.__wrapped__.read, args, kwargs)
        if (args[0] if args else kwargs.get("amt")) is None:
            self._self_watch.on_end()
        return data

    def read1(self, *args: Any, **kwargs: Any) -> Any:
        """Read what is there of the body."""
        return self._read(self.__wrapped__.read1, args, kwargs)

    def _read(
        self, read: Callable[..., bytes], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> bytes:
        try:
            data = read(*args, **kwargs)
        except BaseException as error:
            self._self_watch.on_error(error)
            raise
        if data and not self._self_is_encoded:
            self._self_watch.on_chunk(data)
        if not data:
            self._self_watch.on_end()
        return data

    def close(self) -> None:
        """The application has had enough."""
        self._self_watch.on_close()
        self.__wrapped__.close()

    def release_conn(self) -> None:
        """Likewise; requests calls it after ``close``."""
        self._self_watch.on_close()
        self.__wrapped__.release_conn()

    def __del__(self) -> None:
        self._self_watch.on_abandon()
