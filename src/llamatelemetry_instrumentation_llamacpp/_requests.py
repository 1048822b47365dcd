"""Patch point of requests: `Session.send`, which calls itself for each redirect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from llamatelemetry.genai import Limit, PatchPoint, internal_errors, server_of
from llamatelemetry_instrumentation_llamacpp._http_adapter import HttpClientAdapter
from llamatelemetry_instrumentation_llamacpp._http_call import (
    HttpCall,
    OutgoingRequest,
    start_http_call,
)
from llamatelemetry_instrumentation_llamacpp._observed_send import observe_send
from llamatelemetry_instrumentation_llamacpp._routes import match_path
from llamatelemetry_instrumentation_llamacpp._urllib3_body import observe_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai import Observer, Server
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
    from llamatelemetry_instrumentation_llamacpp._observed_send import Arguments, Keywords
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


def patch_points(instrumentor: LlamaCppInstrumentor, _library: str) -> tuple[PatchPoint, ...]:
    """Return the patch table. The wrapper reads `instrumentor` at each call: it can change."""

    def send(wrapped: Callable[..., Any], session: Any, args: Arguments, kwargs: Keywords) -> Any:
        request = args[0] if args else kwargs.get("request")
        http_call = _start(instrumentor, session, request)
        if http_call is None:
            return wrapped(*args, **kwargs)
        return observe_send(http_call, wrapped, args, kwargs)

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


@Limit("requests_urls", 1024, "URLs of requests, with their server").cached
def _match_url(url: str) -> tuple[RouteMatch, Server | None] | None:
    parts = urlsplit(url)
    match = match_path(parts.path)
    if match is None:
        return None
    return match, server_of(parts.scheme, parts.hostname or "", parts.port)


class _RequestsAdapter(HttpClientAdapter):
    # `redirected_s` stays 0: `Session.send` is called for each redirect.
    library = "requests"
    sent_by = "urllib3"
    observes_decoded = True

    def request_body(self, request: Any) -> bytes | str | None:
        # A file or an iterator would be consumed by reading it.
        return request.body if isinstance(request.body, (bytes, str)) else None

    def is_part_of(self, client: Any, request: Any, outer: HttpCall) -> bool:
        # A redirect has the same body. A hook may send another request with the session.
        return client is outer.client and request.body is outer.request.body

    def content(self, response: Any) -> bytes | None:
        # `False` before the body is read; `None` if the body is empty.
        content = response._content
        return None if content is False else content or b""

    def headers_ns(self, response: Any, passed_ns: int) -> int | None:
        return passed_ns + int(response.elapsed.total_seconds() * 1e9)

    def socket(self, response: Any) -> Any:
        # It is unknown after the end of the body, and with transport adapters other than urllib3's.
        return getattr(getattr(response.raw, "connection", None), "sock", None)

    def observe_body(self, response: Any, observer: Observer, encoding: str) -> None:
        observe_body(response.raw, observer, encoding)


ADAPTER: Final = _RequestsAdapter()
