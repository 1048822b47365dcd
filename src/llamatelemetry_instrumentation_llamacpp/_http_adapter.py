"""The interface of an HTTP client library to this plugin, and the parsing of its responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import (
    BodyCapture,
    EventReader,
    Request,
    Response,
    as_count,
    describe_status,
    get_field,
    provider_from_headers,
)
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from llamatelemetry.genai import Observer
    from llamatelemetry_instrumentation_llamacpp._http_call import HttpCall
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


class HttpClientAdapter(ABC):
    """Access to the requests and responses of one HTTP client library."""

    # Whether the bytes that `observe_body` passes on are decompressed.
    observes_decoded = False

    @abstractmethod
    def request_body(self, request: Any) -> bytes | str | None:
        """Return the body if it is in memory. A streamed body is not read."""

    @abstractmethod
    def is_part_of(self, client: Any, request: Any, outer: HttpCall, /) -> bool:
        """Return whether the request belongs to an outer one, such as a redirect or a cache."""

    @abstractmethod
    def content(self, response: Any) -> bytes | None:
        """Return the decoded body if it has been read."""

    @abstractmethod
    def observe_body(self, response: Any, observer: Observer, encoding: str, /) -> None:
        """Pass the bytes of the body to `observer` while the application reads them."""

    def headers_ns(self, _response: Any, _sent_ns: int) -> int | None:
        """Return the time when the headers arrived, or `None` if the library does not record it."""
        return None

    def redirected_s(self, _response: Any) -> float:
        """Return the seconds that were spent on redirects before the last request."""
        return 0.0

    def is_async(self, _client: Any) -> bool | None:
        """Return whether the client is asynchronous; `None` if its requests cannot be observed."""
        return None

    def socket(self, _response: Any) -> Any:
        """Return the socket of a response with an unread body; `None` if it is unknown."""
        return None

    def is_networked(self, _response: Any) -> bool:
        """Return whether the response came over a network, unlike in an application's tests."""
        return True


class HttpResponse:
    """The status, headers and body of a response.

    Each header is looked up on demand: a lookup in httpx takes a microsecond, which responses of
    other servers need not pay.
    """

    __slots__ = ("_headers", "at_ns", "content", "response", "status")

    def __init__(self, adapter: HttpClientAdapter, response: Any) -> None:
        self.at_ns = perf_counter_ns()
        self.response = response
        self.status: int = response.status_code
        self._headers = response.headers
        self.content = adapter.content(response)

    @property
    def is_llama_cpp(self) -> bool:
        """Whether the headers prove that the server is llama.cpp."""
        return provider_from_headers(self._headers) is not None

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        content_type: str = self._headers.get("content-type", "")
        return content_type.startswith("text/event-stream")

    @property
    def encoding(self) -> str:
        """The content encoding; empty if the body is not compressed."""
        return self._headers.get("content-encoding", "")


def parse_content(
    match: RouteMatch, http: HttpResponse, request: Request, content_max_chars: int | None
) -> Response:
    """Parse a response with a complete body."""
    content = http.content or b""
    if http.is_event_stream and http.status < 300:
        accumulator = match.route.make_accumulator(request, content_max_chars)
        for event in EventReader().feed(content):
            accumulator.add(event)
        return accumulator.response()
    capture = BodyCapture()
    capture.feed(content)
    return parse_capture(match, http.status, capture, request)


def parse_capture(
    match: RouteMatch, status: int, capture: BodyCapture, request: Request
) -> Response:
    """Parse a body that was reduced to its recorded parts."""
    route = match.route
    if not route.is_bulk_wanted and capture.body()[:1] == b"[":
        return Response()  # A bare array of vectors has no other fields.
    body = capture.parse(route.bulk, is_bulk_wanted=route.is_bulk_wanted)
    if status >= 400:
        return _parse_error(status, body)
    return Response() if body is None else route.parse_response(body, request)


def _parse_error(status: int, body: Any) -> Response:
    response = Response(error=describe_status(status, body))
    error = get_field(body, "error")
    for name, field in (
        (names.ERROR_PROMPT_TOKENS, "n_prompt_tokens"),
        (names.ERROR_CONTEXT_SIZE, "n_ctx"),
    ):
        value = as_count(get_field(error, field))
        if value is not None:
            response.attributes[name] = value
    return response
