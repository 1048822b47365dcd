"""The interface of an HTTP client library to this plugin, and the parsing of its responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

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
    from collections.abc import Callable, Mapping

    from llamatelemetry.genai import Observer
    from llamatelemetry_instrumentation_llamacpp._http_call import HttpCall
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


_STREAM_TYPES: Final = ("text/event-stream", "application/x-ndjson")
# The libraries pass on a body with any other `Content-Encoding`, such as `none`, as it is.
_COMPRESSIONS: Final = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})


class HttpClientAdapter(ABC):
    """Access to the requests and responses of one HTTP client library."""

    # Whether the bytes that `observe_body` passes on are decompressed.
    observes_decoded = False
    status_field = "status_code"
    # The library that sends the requests of this one, if another adapter is for it.
    sent_by: str | None = None
    library: str

    @abstractmethod
    def request_body(self, request: Any) -> Any:
        """Return the body if it is in memory: bytes, text, or JSON. A streamed body is not read."""

    @abstractmethod
    def is_part_of(self, client: Any, request: Any, outer: HttpCall, /) -> bool:
        """Return whether the request belongs to an outer one, such as a redirect or a cache."""

    def is_body(self, _body: Any, _request: Any, /) -> bool:
        """Return whether this is the body of the request, which another library sends."""
        return False

    def is_resend(self, _client: Any, _outer: HttpCall, /) -> bool:
        """Return whether a part of the outer request sends it again."""
        return True

    @abstractmethod
    def content(self, response: Any) -> bytes | None:
        """Return the decoded body if it has been read."""

    @abstractmethod
    def observe_body(self, response: Any, observer: Observer, encoding: str, /) -> None:
        """Pass the bytes of the body to `observer` while the application reads them."""

    def headers_ns(self, _response: Any, _passed_ns: int) -> int | None:
        """Return the time when the headers arrived, or `None` if the library does not record it.

        `_passed_ns` is the time when the library was called for this request or redirect.
        """
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


class RequestArguments:
    """A request that a library takes as the arguments of one function.

    Args:
        url: The absolute URL.
        body: The body, or the JSON value that becomes it.
        read_headers: Function that returns the headers. It is called only for a known server.
    """

    def __init__(self, url: str, body: Any, read_headers: Callable[[], Mapping[str, str]]) -> None:
        self.url = url
        self.body = body
        self._read_headers = read_headers
        self._given: dict[str, str] | None = None
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """A copy of the headers, with names in lower case."""
        if self._headers is None:
            headers = self._read_headers()
            self._given = self._headers = {name.lower(): headers[name] for name in headers}
        return self._headers

    @headers.setter
    def headers(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def added_headers(self) -> dict[str, str]:
        """Return the headers that were added, which the function does not have yet."""
        given, headers = self._given, self._headers
        if headers is given or headers is None:
            return {}
        return {name: headers[name] for name in headers if given is None or name not in given}


class HttpResponse:
    """The status, headers and body of a response.

    Each header is looked up on demand: a lookup in httpx takes a microsecond, which responses of
    other servers need not pay.
    """

    __slots__ = ("at_ns", "content", "headers", "response", "status")

    def __init__(self, adapter: HttpClientAdapter, response: Any) -> None:
        self.at_ns = perf_counter_ns()
        self.response = response
        self.status: int = getattr(response, adapter.status_field)
        self.headers = response.headers
        self.content = adapter.content(response)

    @property
    def provider(self) -> str | None:
        """The provider that the headers prove."""
        return provider_from_headers(self.headers)

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of server-sent events or JSON lines."""
        return self._content_type.startswith(_STREAM_TYPES)

    @property
    def is_json(self) -> bool:
        """Whether the body is one JSON value."""
        return self._content_type.startswith("application/json")

    @property
    def _content_type(self) -> str:
        return self.headers.get("content-type", "")

    @property
    def encoding(self) -> str:
        """The content encoding; empty if the body is not compressed."""
        encoding: str = self.headers.get("content-encoding", "")
        if not encoding or _COMPRESSIONS.isdisjoint(map(str.strip, encoding.lower().split(","))):
            return ""
        return encoding


def parse_content(
    match: RouteMatch, http: HttpResponse, request: Request, content_max_chars: int | None
) -> Response:
    """Parse a response with a complete body."""
    content = http.content or b""
    if http.is_stream and http.status < 300:
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
        # A server may send the error as the only event of a stream.
        first_event = next(iter(EventReader().feed(capture.body())), None)
        return _parse_error(status, first_event if body is None else body)
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
