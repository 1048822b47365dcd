"""Replies over HTTP: what they say of themselves, and what is read from their bodies."""

from __future__ import annotations

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
    from llamatelemetry_instrumentation_llamacpp._dialect import Dialect
    from llamatelemetry_instrumentation_llamacpp._routes import Match


class Reply:
    """What the response says of itself before its body is looked at.

    Each header is read when it is asked for: finding one in httpx costs a microsecond, which
    replies of other servers need not pay.
    """

    __slots__ = ("_headers", "at_ns", "content", "response", "status")

    def __init__(self, dialect: Dialect, response: Any) -> None:
        self.at_ns = perf_counter_ns()
        self.response = response
        self.status: int = response.status_code
        self._headers = response.headers
        self.content = dialect.content(response)

    @property
    def is_llama_cpps(self) -> bool:
        """Whether its headers prove it to be llama.cpp's."""
        return provider_from_headers(self._headers) is not None

    @property
    def is_event_stream(self) -> bool:
        """Whether its body is a stream of events."""
        content_type: str = self._headers.get("content-type", "")
        return content_type.startswith("text/event-stream")

    @property
    def encoding(self) -> str:
        """How its body is compressed; empty if it is not."""
        return self._headers.get("content-encoding", "")


def read_content(
    match: Match, reply: Reply, request: Request, content_max_chars: int | None
) -> Response:
    """Read a reply whose body is there as a whole."""
    content = reply.content or b""
    if reply.is_event_stream and reply.status < 300:
        fold = match.route.fold(request, content_max_chars)
        for event in EventReader().feed(content):
            fold.add(event)
        return fold.response()
    capture = BodyCapture()
    capture.feed(content)
    return read_capture(match, reply.status, capture, request)


def read_capture(match: Match, status: int, capture: BodyCapture, request: Request) -> Response:
    """Read a body of which only what matters has been kept."""
    route = match.route
    if not route.is_bulk_wanted and capture.body()[:1] == b"[":
        return Response()  # vectors and nothing else
    body = capture.parse(route.bulk, is_bulk_wanted=route.is_bulk_wanted)
    if status >= 400:
        return _read_error(status, body)
    return Response() if body is None else route.read_reply(body, request)


def _read_error(status: int, body: Any) -> Response:
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
