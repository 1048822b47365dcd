"""Patch point of requests: `Session.send`, which calls itself for each redirect."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import wrapt

from llamatelemetry.genai import PatchPoint, StreamWrapper, internal_errors, server_of
from llamatelemetry_instrumentation_llamacpp._http_adapter import HttpClientAdapter
from llamatelemetry_instrumentation_llamacpp._http_call import (
    HttpCall,
    OutgoingRequest,
    start_http_call,
)
from llamatelemetry_instrumentation_llamacpp._routes import match_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llamatelemetry.genai import Observer, Server
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch

    _Arguments = tuple[Any, ...]
    _Keywords = Mapping[str, Any]


def patch_points(instrumentor: LlamaCppInstrumentor) -> tuple[PatchPoint, ...]:
    """Return the patch table. The wrapper reads `instrumentor` at each call: it can change."""

    def send(wrapped: Callable[..., Any], session: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        request = args[0] if args else kwargs.get("request")
        http_call = _start(instrumentor, session, request)
        if http_call is None:
            return wrapped(*args, **kwargs)
        try:
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            http_call.on_error(error)
            raise
        http_call.on_response(response)
        return response

    return (PatchPoint("requests.sessions", "Session.send", send),)


def _start(instrumentor: LlamaCppInstrumentor, session: Any, request: Any) -> HttpCall | None:
    try:
        if request.method != "POST":
            return None
        found = _match_url(request.url)
    except Exception as error:  # Not a prepared request: the session raises its own error.
        internal_errors.raise_if_from_signal_handler(error)
        return None
    if found is None:
        return None
    match, server = found
    return start_http_call(ADAPTER, instrumentor, OutgoingRequest(session, request, server, match))


@lru_cache(maxsize=1024)
def _match_url(url: str) -> tuple[RouteMatch, Server | None] | None:
    parts = urlsplit(url)
    match = match_path(parts.path)
    if match is None:
        return None
    return match, server_of(parts.scheme, parts.hostname or "", parts.port)


class _RequestsAdapter(HttpClientAdapter):
    # `redirected_s` stays 0: `Session.send` is called for each redirect.
    observes_decoded = True

    def request_body(self, request: Any) -> bytes | str | None:
        # A file or an iterator would be consumed by reading it.
        return request.body if isinstance(request.body, (bytes, str)) else None

    def is_part_of(self, client: Any, _request: Any, outer: HttpCall) -> bool:
        return client is outer.client

    def content(self, response: Any) -> bytes | None:
        # `False` before the body is read; `None` if the body is empty.
        content = response._content
        return None if content is False else content or b""

    def headers_ns(self, response: Any, sent_ns: int) -> int | None:
        return sent_ns + int(response.elapsed.total_seconds() * 1e9)

    def socket(self, response: Any) -> Any:
        # The connection is released at the end of the body, and is no part of other adapters.
        return getattr(getattr(response.raw, "connection", None), "sock", None)

    def observe_body(self, response: Any, observer: Observer, encoding: str) -> None:
        if hasattr(response.raw, "stream"):
            response.raw = _ObservedBody(response.raw, observer, encoding)
        else:  # A custom transport adapter, which does not use urllib3.
            observer.on_close()


ADAPTER: Final = _RequestsAdapter()


# The type parameters of wrapt's class do not describe the wrapped object.
_ObjectProxy: Any = wrapt.ObjectProxy


class _ObservedBody(_ObjectProxy):
    """A response of urllib3 that passes its bytes to an observer.

    requests reads with `stream`, which decodes. The application may use any other method. If that
    method is not overridden here, only the end of the body is observed.
    """

    def __init__(self, source: Any, observer: Observer, encoding: str) -> None:
        super().__init__(source)  # pyright: ignore[reportUnknownMemberType] - the base class is `Any`
        self._self_observer = observer
        self._self_is_encoded = bool(encoding)

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        """Iterate over the body."""
        return self._observe(self.__wrapped__.stream(*args, **kwargs), args, kwargs)

    def read_chunked(self, *args: Any, **kwargs: Any) -> Any:
        """Iterate over the chunks of the body as the server sent them."""
        return self._observe(self.__wrapped__.read_chunked(*args, **kwargs), args, kwargs)

    def __iter__(self) -> Any:
        return StreamWrapper(iter(self.__wrapped__), self._self_observer)

    def _observe(self, source: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        is_decoded = args[1] if len(args) > 1 else kwargs.get("decode_content")
        if self._self_is_encoded and not is_decoded:
            return source
        return StreamWrapper(source, self._self_observer)

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Read a part of the body, or all of it."""
        data = self._read(self.__wrapped__.read, args, kwargs)
        if (args[0] if args else kwargs.get("amt")) is None:
            self._self_observer.on_end()
        return data

    def read1(self, *args: Any, **kwargs: Any) -> Any:
        """Read the available part of the body."""
        return self._read(self.__wrapped__.read1, args, kwargs)

    def _read(self, read: Callable[..., bytes], args: _Arguments, kwargs: _Keywords) -> bytes:
        try:
            data = read(*args, **kwargs)
        except BaseException as error:
            self._self_observer.on_error(error)
            raise
        if data and not self._self_is_encoded:
            self._self_observer.on_chunk(data)
        if not data:
            self._self_observer.on_end()
        return data

    def close(self) -> None:
        """Close the body. The stream ends here."""
        self._self_observer.on_close()
        self.__wrapped__.close()

    def release_conn(self) -> None:
        """Release the connection, as requests does after `close`."""
        self._self_observer.on_close()
        self.__wrapped__.release_conn()

    def __del__(self) -> None:
        self._self_observer.on_abandon()
