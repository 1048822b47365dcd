"""Property tests: for any response of a server, each HTTP library gives the application the same result."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest
import requests
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import Span, SpanProcessor

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support import payloads
from tests.support.byte_server import LLAMA, chunked, head, plain, scripted
from tests.support.http_callers import CALLERS, CallerRequest, Observation
from tests.support.json_strategies import REPLIES
from tests.support.llama_cpp_responses import BODY
from tests.support.patch_points import POINTS
from tests.support.recorder import Recorder

GOOD = json.dumps(payloads.chat(timings=payloads.TIMINGS)).encode()
STREAM = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE, timings=payloads.TIMINGS))
BODIES = st.one_of(
    st.sampled_from([GOOD, STREAM, b"", b"<html>", b"data: {\n\n"]),
    REPLIES.map(lambda reply: json.dumps(reply).encode()),
    REPLIES.map(lambda reply: b"data: " + json.dumps(reply).encode() + b"\n\n" + STREAM),
    st.binary(max_size=50),
)
STATUSES = st.sampled_from(["200 OK", "200 OK", "201 Created", "400 Bad", "429 Slow", "503 Busy"])
ENCODINGS = st.sampled_from([(), (), (), ("Content-Encoding: gzip",), ("Content-Encoding: x",)])
SERVERS = st.sampled_from([LLAMA, LLAMA, "Server: uvicorn\r\n", "", "x-queue-time: nan\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """Generate the bytes of a response: plain or in chunks, complete or cut anywhere."""
    body, headers, server = draw(BODIES), draw(ENCODINGS), draw(SERVERS)
    if draw(st.booleans()):
        answer = plain(body, *headers, status=draw(STATUSES), server=server)
    elif draw(st.integers(0, 5)):
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=4)))
        bounds = pairwise([0, *cuts, len(body)])
        pieces = [body[start:end] for start, end in bounds if start != end]
        answer = chunked(pieces, *headers, server=server, is_ended=draw(st.booleans()))
    else:
        answer = [head(draw(STATUSES), *headers, server=server), body]
    if draw(st.integers(0, 3)):
        return answer
    whole = b"".join(answer)
    return [whole[: draw(st.integers(0, len(whole)))]]


def observed(caller: str, answer: list[bytes], chunks: int | None) -> tuple[Observation, list[Any]]:
    """Return what the application sees, and what the server has received."""
    with scripted(answer) as server:
        request = CallerRequest(f"{server.origin}/v1/chat/completions", BODY, chunks=chunks)
        seen = CALLERS[caller](request)
        port = server.origin.rpartition(":")[2]
    if seen.error is not None:
        # How much arrives before the error depends on the network.
        error = seen.error.replace(port, "PORT").partition(" object at 0x")[0]
        seen = replace(seen, error=error, body=b"")
    if chunks is not None:
        # So does what is in the first chunks.
        seen = replace(seen, error=None, body=b"")
    bodies = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
    return seen, bodies


class StartedSpans(SpanProcessor):
    """Keeps every span that was started."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.spans.append(span)


def check_same_when_instrumented(run: Callable[[], Any], *, capture: bool) -> None:
    """Check that the plugin changes no observation, and that no span stays open."""
    expected = run()
    recorder, started = Recorder(), StartedSpans()
    recorder.tracer_provider.add_span_processor(started)
    content = "span_and_event" if capture else "no_content"
    config = LlamaTelemetryConfig(capture_content=content, llamacpp_props=False)
    LlamaCppInstrumentor().instrument(**recorder.providers, config=config)
    try:
        assert run() == expected
    finally:
        LlamaCppInstrumentor().uninstrument()
    recorder.spans()
    assert [span.name for span in started.spans if span.end_time is None] == []


COMMON: dict[str, Any] = {
    "max_examples": 15,
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


@pytest.mark.slow
@pytest.mark.parametrize("caller", CALLERS)
@settings(**COMMON)
@example(answer=plain(GOOD), chunks=None, capture=True)
@example(answer=chunked([STREAM]), chunks=None, capture=False)
@example(answer=chunked([STREAM[:90], STREAM[90:]], is_ended=False), chunks=1, capture=False)
@given(answer=answers(), chunks=st.sampled_from([None, None, 1, 2]), capture=st.booleans())
def test_any_response_is_passed_on_unchanged(
    caller: str, answer: list[bytes], chunks: int | None, capture: bool
) -> None:
    check_same_when_instrumented(lambda: observed(caller, answer, chunks), capture=capture)


def with_httpx(url: str) -> Any:
    with httpx.Client() as client:
        return client.post(url, json=BODY)


def with_requests(url: str) -> Any:
    with requests.Session() as session:
        return session.post(url, json=BODY)


def with_urllib3(url: str) -> Any:
    with urllib3.PoolManager() as pools:
        return pools.request("POST", url, body=json.dumps(BODY).encode(), retries=False)


def described(send: Callable[[str], Any], answer: list[bytes]) -> Any:
    """Return what the application can find out about a response, and about copies of it."""
    with scripted(answer) as server:
        try:
            response = send(f"{server.origin}/v1/chat/completions")
        except Exception as error:  # The client may raise any error.
            return type(error), type(error.__cause__), type(error.__context__)
    return (
        type(response),
        {name: type(value) for name, value in vars(response).items()},
        *(copied(response, make) for make in (copy.copy, copy.deepcopy, pickled)),
    )


def pickled(response: Any) -> Any:
    return pickle.loads(pickle.dumps(response))


def copied(response: Any, make: Callable[[Any], Any]) -> Any:
    try:
        copied = make(response)
        body = getattr(copied, "data", None) or getattr(copied, "content", None)
    except Exception as error:  # A response of urllib3 cannot be pickled.
        return type(error), re.sub(r"0x[0-9a-f]+", "", str(error))
    return type(copied), sorted(vars(copied)), body


@pytest.mark.slow
@pytest.mark.parametrize("send", [with_httpx, with_requests, with_urllib3])
@settings(**COMMON)
@example(answer=plain(GOOD), capture=True)
@given(answer=answers(), capture=st.booleans())
def test_any_response_has_the_same_parts_and_copies(
    send: Callable[[str], Any], answer: list[bytes], capture: bool
) -> None:
    check_same_when_instrumented(lambda: described(send, answer), capture=capture)


def test_every_patched_library_sends_requests_here() -> None:
    packages = {point.module.partition(".")[0] for point in POINTS}
    assert packages & {"httpx", "httpx2", "requests", "aiohttp", "urllib3"} == {
        name.partition("-")[0] for name in CALLERS
    }
