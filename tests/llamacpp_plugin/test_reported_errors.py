"""Errors that a server sends with HTTP 200, over each HTTP library."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, CallerRequest
from tests.support.recorder import Recorder
from tests.support.reported_errors import REPORTED_ERRORS

each_form = pytest.mark.parametrize(
    ("body", "error_type"), REPORTED_ERRORS.values(), ids=REPORTED_ERRORS
)


@each_form
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream requested"])
def test_error_body_with_status_200_fails_call(
    instrumented: Recorder, body: Any, error_type: str, caller: str, stream: bool
) -> None:
    with scripted(plain(json.dumps(body).encode())) as server:
        sent = {"model": "m", "messages": payloads.MESSAGES, "stream": stream}
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", sent))
    span = instrumented.call()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == error_type
    assert "swordfish" not in span.to_json()


@each_form
@pytest.mark.parametrize(
    "path", ["/completion", "/v1/embeddings", "/v1/responses", "/v1/messages", "/v1/rerank"]
)
def test_error_body_with_status_200_fails_call_of_other_endpoints(
    instrument: Callable[..., Recorder], body: Any, error_type: str, path: str
) -> None:
    if "choices" in body:
        pytest.skip("these endpoints have no choices")
    recorder = instrument()
    with scripted(plain(json.dumps(body).encode())) as server:
        CALLERS["httpx2"](CallerRequest(f"{server.origin}{path}", {"input": "x"}))
    assert recorder.spans()[0].attributes["error.type"] == error_type


@each_form
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/completion", "/v1/responses", "/v1/messages"]
)
def test_error_event_fails_stream(
    instrument: Callable[..., Recorder], body: Any, error_type: str, path: str
) -> None:
    if "choices" in body and path != "/v1/chat/completions":
        pytest.skip("the events of this endpoint have no choices")
    recorder = instrument()
    with scripted(chunked([payloads.sse([body])])) as server:
        CALLERS["httpx2-stream"](CallerRequest(f"{server.origin}{path}", {"stream": True}))
    assert recorder.spans()[0].attributes["error.type"] == error_type
