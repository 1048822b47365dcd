"""Observers of the body of a response, for the call that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.genai import BodyBytesObserver, content_decoder, event_bytes_observer
from llamatelemetry_instrumentation_llamacpp._http_adapter import parse_capture

if TYPE_CHECKING:
    from llamatelemetry.genai import Call, EventBytesObserver
    from llamatelemetry_instrumentation_llamacpp._routes import RouteMatch


def event_observer(match: RouteMatch, call: Call, encoding: str) -> EventBytesObserver:
    """Return an observer of a stream of events. `encoding` is that of the bytes it will get."""
    route = match.route
    accumulator = route.make_accumulator(call.request, call.content_max_chars)
    return event_bytes_observer(call, accumulator, encoding, is_typed=route.is_typed)


def body_observer(match: RouteMatch, call: Call, status: int, encoding: str) -> BodyBytesObserver:
    """Return an observer of any other body. `encoding` is that of the bytes it will get."""
    request = call.request
    return BodyBytesObserver(
        call,
        lambda body: parse_capture(match, status, body, request),
        content_decoder(encoding),
    )
