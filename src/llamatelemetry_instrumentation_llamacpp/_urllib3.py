"""Patch points of urllib3: `urlopen` of pools, and of pool managers, which follow redirects.

Both call themselves or each other for one request, and requests calls the one of a pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from llamatelemetry.genai import Limit, PatchPoint, internal_errors, server_of
from llamatelemetry_instrumentation_llamacpp._http_adapter import (
    HttpClientAdapter,
    RequestArguments,
)
from llamatelemetry_instrumentation_llamacpp._http_call import (
    HttpCall,
    OutgoingRequest,
    start_http_call,
)
from llamatelemetry_instrumentation_llamacpp._observed_send import observe_send
from llamatelemetry_instrumentation_llamacpp._routes import match_path
from llamatelemetry_instrumentation_llamacpp._urllib3_body import observe_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

    from llamatelemetry.genai import Observer
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
    from llamatelemetry_instrumentation_llamacpp._observed_send import Arguments, Keywords
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


# Positional arguments of `HTTPConnectionPool.urlopen`, the same in every supported version.
_POOL_ARGUMENTS: Final = (
    *("method", "url", "body", "headers", "retries", "redirect", "assert_same_host", "timeout"),
    *("pool_timeout", "release_conn", "chunked", "body_pos"),
)


def patch_points(instrumentor: LlamaCppInstrumentor, _library: str) -> tuple[PatchPoint, ...]:
    """Return the patch table. The wrappers read `instrumentor` at each call: it can change."""

    def open_with(names: tuple[str, ...]) -> Any:
        def urlopen(
            wrapped: Callable[..., Any], client: Any, args: Arguments, kwargs: Keywords
        ) -> Any:
            method = args[0] if args else kwargs.get("method")
            if method != "POST":
                return wrapped(*args, **kwargs)
            found = _match_url(args[1] if len(args) > 1 else kwargs.get("url"))
            if found is None or len(args) > len(names):
                return wrapped(*args, **kwargs)
            given = {**kwargs, **dict(zip(names, args, strict=False))} if args else kwargs
            request = _start(instrumentor, client, found, given)
            if request is None:
                return wrapped(*args, **kwargs)
            http_call, keywords = request
            return observe_send(http_call, wrapped, (), keywords)

        return urlopen

    return (
        PatchPoint(
            "urllib3.connectionpool",
            "HTTPConnectionPool.urlopen",
            open_with(_POOL_ARGUMENTS),
        ),
        PatchPoint(
            "urllib3.poolmanager", "PoolManager.urlopen", open_with(("method", "url", "redirect"))
        ),
    )


def _start(
    instrumentor: LlamaCppInstrumentor,
    client: Any,
    found: tuple[RouteMatch, SplitResult],
    given: Mapping[str, Any],
) -> tuple[HttpCall, Mapping[str, Any]] | None:
    """Return the call and the arguments, which may have more headers, or `None`."""
    match, parts = found
    try:
        url: str = given["url"]
        # A pool has the path only, unless it is that of a proxy.
        where = (parts.scheme, parts.hostname or "", parts.port)
        server = _server_of(*(where if parts.scheme else (client.scheme, client.host, client.port)))
        absolute = url if parts.scheme or server is None else server.origin + url
        headers: Any = given.get("headers")
        headers = client.headers if headers is None else headers
        request = RequestArguments(absolute, given.get("body"), lambda: headers)
    except Exception as error:  # Invalid arguments: urllib3 raises its own error.
        internal_errors.raise_if_from_signal_handler(error)
        return None
    outgoing = OutgoingRequest(client, request, server, match)
    http_call = start_http_call(ADAPTER, instrumentor, outgoing)
    if http_call is None:
        return None
    added = request.added_headers()
    if added:
        headers = headers.copy() if hasattr(headers, "copy") else dict(headers)
        headers.update(added)
        given = {**given, "headers": headers}
    return http_call, given


def _match_url(url: Any) -> tuple[RouteMatch, SplitResult] | None:
    try:
        return _match_text(url) if isinstance(url, str) else None
    except ValueError:  # Not a URL: urllib3 raises its own error.
        return None


@Limit("urllib3_urls", 1024, "URLs of urllib3, with their endpoint").cached
def _match_text(url: str) -> tuple[RouteMatch, SplitResult] | None:
    parts = urlsplit(url)
    match = match_path(parts.path)
    return None if match is None else (match, parts)


_server_of = Limit("urllib3_servers", 1024, "Servers of urllib3").cached(server_of)


class _Urllib3Adapter(HttpClientAdapter):
    # `redirected_s` stays 0: `urlopen` is called for each redirect.
    library = "urllib3"
    observes_decoded = True
    status_field = "status"

    def request_body(self, request: Any) -> Any:
        # A file or an iterator would be consumed by reading it.
        return request.body if isinstance(request.body, (bytes, str)) else None

    def is_part_of(self, _client: Any, _request: Any, _outer: HttpCall) -> bool:
        return True  # It runs no code of the application that could send another one.

    def is_resend(self, client: Any, outer: HttpCall) -> bool:
        return client is outer.client  # Else a manager calls a pool.

    def content(self, response: Any) -> bytes | None:
        # Reading `data` of an unread response would read its body.
        return getattr(response, "_body", None)

    def observe_body(self, response: Any, observer: Observer, encoding: str) -> None:
        observe_body(response, observer, encoding)


ADAPTER: Final = _Urllib3Adapter()
