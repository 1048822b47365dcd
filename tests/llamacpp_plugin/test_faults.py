"""Faulty responses: the application gets the same result as without the plugin, and one span."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import pytest
import requests
from opentelemetry.trace import StatusCode

from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from tests.support.byte_server import chunked, head, plain, scripted
from tests.support.http_callers import CALLERS, PLAIN, STREAMED, CallerRequest, Observation
from tests.support.llama_cpp_responses import BODY, CHAT, EVENTS
from tests.support.recorder import Recorder

LONG_LINE = b'data: {"image": "' + b"A" * 10_000_000 + b'"}\n\n'


def _zlib(data: bytes) -> bytes:
    return zlib.compress(data)


def _raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


def _split(data: bytes, size: int = 40) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@dataclass(frozen=True)
class Fault:
    """A response, the output tokens that can be recorded, and whether the call fails."""

    answer: Sequence[bytes]
    tokens: int | None = 5
    fails: bool = False


FAULTS: dict[str, Fault] = {
    "good-plain": Fault(plain(CHAT)),
    "good-stream": Fault(chunked([*EVENTS, b"data: [DONE]\n\n"])),
    "stream-in-small-pieces": Fault(chunked(_split(b"".join(EVENTS)))),
    "stream-with-crlf": Fault(chunked([event.replace(b"\n", b"\r\n") for event in EVENTS])),
    "stream-with-pings": Fault(chunked([part for event in EVENTS for part in (b":\n\n", event)])),
    "stream-without-last-line-end": Fault(chunked([*EVENTS[:-1], EVENTS[-1].rstrip()]), None),
    "stream-of-invalid-utf8": Fault(chunked([b'data: {"x": "\xff\xfe"}\n\n', *EVENTS])),
    "stream-with-10-MB-line": Fault(chunked([*EVENTS[:2], LONG_LINE, *EVENTS[2:]])),
    "stream-of-nonsense": Fault(chunked([b"data: {nonsense\n\n", b"data: 7\n\n", b"\0\0"]), None),
    "stream-cut-off": Fault(chunked(EVENTS[:2], is_ended=False), None, fails=True),
    "stream-cut-inside-a-chunk": Fault(
        [*chunked(EVENTS[:2], is_ended=False), b"ff\r\ndata: {"], None, fails=True
    ),
    "stream-gzipped": Fault(
        chunked(_split(gzip.compress(b"".join(EVENTS))), "Content-Encoding: gzip")
    ),
    "stream-not-gzip-after-all": Fault(chunked(EVENTS, "Content-Encoding: gzip"), None, fails=True),
    "plain-gzipped": Fault(plain(gzip.compress(CHAT), "Content-Encoding: gzip")),
    "plain-deflated": Fault(plain(_zlib(CHAT), "Content-Encoding: deflate")),
    "plain-deflated-without-header": Fault(plain(_raw_deflate(CHAT), "Content-Encoding: deflate")),
    "plain-with-encoding-none": Fault(plain(CHAT, "Content-Encoding: none")),
    "stream-with-encoding-utf-8": Fault(chunked(EVENTS, "Content-Encoding: UTF-8")),
    "plain-in-unknown-encoding": Fault(plain(CHAT[::-1], "Content-Encoding: x-secret"), None),
    "plain-not-gzip-after-all": Fault(plain(CHAT, "Content-Encoding: gzip"), None, fails=True),
    "plain-of-invalid-utf8": Fault(plain(CHAT.replace(b"Hi", b"H\xff"))),
    "plain-no-json": Fault(plain(b"<html>"), None),
    "plain-a-list": Fault(plain(b"[1, 2]"), None),
    "plain-empty": Fault(plain(b""), None),
    "length-too-long": Fault(plain(CHAT, f"Content-Length: {len(CHAT) + 9}"), None, fails=True),
    "length-too-short": Fault(plain(CHAT, f"Content-Length: {len(CHAT) - 9}"), None),
    "no-length-and-closed": Fault([head("200 OK", "Content-Type: application/json"), CHAT]),
    "closed-at-once": Fault([], None, fails=True),
    "closed-inside-the-head": Fault([b"HTTP/1.1 200 OK\r\nServer: lla"], None, fails=True),
    "no-http": Fault([b"SSH-2.0-OpenSSH\r\n"], None, fails=True),
    "error-json": Fault(
        plain(b'{"error": {"code": 503, "type": "unavailable_error"}}', status="503 Busy"),
        None,
        fails=True,
    ),
    "error-event": Fault(
        [
            head("503 Busy", "Content-Type: text/event-stream"),
            b'data: {"error": {"code": 503}}\n\n',
        ],
        None,
        fails=True,
    ),
    "error-empty-stream": Fault(
        [head("503 Busy", "Content-Type: text/event-stream")], None, fails=True
    ),
    "error-html": Fault(plain(b"<html>", status="500 Oops"), None, fails=True),
}


def outcome(
    call: Callable[[CallerRequest], Observation], answers: Sequence[Sequence[bytes]], **request: Any
) -> Observation:
    """Return the observations of an application, without the port, which differs each time."""
    with scripted(*answers) as server:
        url = request.pop("url", f"{server.origin}/v1/chat/completions")
        seen = call(CallerRequest(url, BODY, **request))
        if seen.error is not None:
            seen.error = seen.error.replace(server.origin.rpartition(":")[2], "PORT")
            seen.error = seen.error.partition(" object at 0x")[0]
        return seen


# Each fault with each way of reading. The about 1000 combinations run with the slow tests.
URLLIB3 = int(version("urllib3").partition(".")[0])
QUICK = {("httpx-stream", True), ("httpx2-async-stream", False), ("requests", False)}
QUICK |= {("httpx2", True), ("requests-stream", True), ("requests-raw", False)}
QUICK |= {("urllib3-stream", True), ("aiohttp-stream", False)}
MATRIX = [
    pytest.param(
        caller,
        fault,
        known,
        id=f"{caller}-{fault}-{'known' if known else 'unknown'}",
        marks=() if (caller, known) in QUICK and "10-MB" not in fault else pytest.mark.slow,
    )
    for caller in CALLERS
    for fault in FAULTS
    for known in (True, False)
]


@pytest.mark.parametrize(("caller", "fault", "known"), MATRIX)
def test_application_gets_same_result_as_uninstrumented(
    instrument: Callable[..., Recorder], caller: str, fault: str, known: bool
) -> None:
    if fault == "length-too-long" and "requests" in caller and URLLIB3 < 2:
        pytest.skip("urllib3 1 does not raise for a body that is too short")
    call, answer = CALLERS[caller], FAULTS[fault].answer
    recorder = instrument(llamacpp_allow=("127.0.0.1",) if known else ())
    ours = outcome(call, [answer])
    LlamaCppInstrumentor().uninstrument()
    # If there are more bytes than announced, what aiohttp reports depends on how many arrive at once.
    is_race = fault == "length-too-short" and "aiohttp" in caller
    for _ in range(20 if is_race else 1):
        bare = outcome(call, [answer])
        if ours == bare:
            break
    assert ours == bare

    spans = recorder.calls()
    reads_before_it_returns = caller in PLAIN and caller != "aiohttp"
    if not known and (
        bare.headers.get("server") != "llama.cpp"
        or (reads_before_it_returns and bare.error is not None)
    ):
        assert spans == []  # Nothing identified the server, or the library returned no response.
        return
    (span,) = spans
    assert span.name == "chat smol"
    expected = FAULTS[fault]
    _check(
        span, replace(expected, fails=bare.error is not None) if is_race else expected, bare, caller
    )


def _check(span: Any, fault: Fault, bare: Observation, caller: str) -> None:
    is_decoded_above_us = "Decod" in (bare.error or "") and "httpx" in caller and caller in STREAMED
    if (bare.error is not None or (bare.status or 0) >= 400) and not is_decoded_above_us:
        assert fault.fails
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"]
    else:
        # Faults that the client does not detect are not errors: a short length, an undecoded read.
        assert span.status.status_code is StatusCode.UNSET
    if bare.error is None and not (caller == "requests-raw" and _is_encoded(bare)):
        assert span.attributes.get("gen_ai.usage.output_tokens") == fault.tokens


def _is_encoded(seen: Observation) -> bool:
    return "content-encoding" in seen.headers


@pytest.mark.parametrize("caller", STREAMED)
def test_stream_closed_early_ends_call_without_error(instrumented: Recorder, caller: str) -> None:
    answer = chunked([*EVENTS, *[b": ping" + b"." * 600 + b"\n\n"] * 40])
    seen = outcome(STREAMED[caller], [answer], chunks=2)
    assert seen.error is None
    assert 0 < len(seen.body) < 3000
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["gen_ai.response.id"] == "chatcmpl-1"
    assert span.attributes["gen_ai.request.stream"] is True


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("status", ["307 Temporary Redirect", "308 Permanent Redirect"])
def test_redirected_request_is_one_call(
    instrument: Callable[..., Recorder], caller: str, status: str
) -> None:
    moved = [head(status, "Location: /elsewhere/v1/chat/completions", "Content-Length: 0")]
    answers = [moved, moved, plain(CHAT)]
    bare = outcome(CALLERS[caller], answers)
    recorder = instrument()
    assert outcome(CALLERS[caller], answers) == bare
    assert (bare.status, bare.hops) == (200, 2)
    span = recorder.call()
    assert span.attributes["gen_ai.usage.output_tokens"] == 5


def test_other_request_of_a_response_hook_is_a_call_of_its_own(
    instrument: Callable[..., Recorder],
) -> None:
    """Both use the same session, which also sends redirects from inside `send`."""
    recorder = instrument(llamacpp_allow=("127.0.0.1",))

    def embed(response: requests.Response, **_options: Any) -> None:
        if response.url.endswith("/chat/completions"):
            session.post(f"{server.origin}/v1/embeddings", json={"model": "smol", "input": "Hi"})

    with scripted(plain(CHAT)) as server, requests.Session() as session:
        session.hooks["response"].append(embed)
        session.post(f"{server.origin}/v1/chat/completions", json=BODY)
    spans = {span.name: span for span in recorder.calls()}
    assert spans.keys() == {"chat smol", "embeddings smol"}
    assert "http.request.resend_count" not in spans["chat smol"].attributes


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("caller", CALLERS)
def test_endless_redirect_fails_as_uninstrumented(
    instrument: Callable[..., Recorder], caller: str, known: bool
) -> None:
    moved = [head("307 Moved", "Location: /v1/chat/completions", "Content-Length: 0")]
    bare = outcome(CALLERS[caller], [moved])
    recorder = instrument(llamacpp_allow=("127.0.0.1",) if known else ())
    assert outcome(CALLERS[caller], [moved]) == bare
    assert bare.error is not None
    assert "redirect" in bare.error.lower()
    assert len(recorder.calls()) == known


@pytest.mark.parametrize("caller", CALLERS)
def test_server_behind_http_proxy_is_recorded_instead_of_proxy(
    instrument: Callable[..., Recorder], caller: str
) -> None:
    def send_through_proxy() -> Observation:
        with scripted(plain(CHAT)) as proxy:
            url = "http://llama.example:8080/v1/chat/completions"
            seen = CALLERS[caller](CallerRequest(url, BODY, proxy=proxy.origin))
            assert proxy.requests[0].startswith(f"POST {url}".encode())
            return seen

    bare = send_through_proxy()
    recorder = instrument()
    assert send_through_proxy() == bare
    span = recorder.call()
    assert span.attributes["server.address"] == "llama.example"
    assert span.attributes["server.port"] == 8080


@pytest.mark.parametrize("caller", PLAIN)
def test_refused_connection_is_recorded_for_allowed_server_only(
    instrument: Callable[..., Recorder], caller: str
) -> None:
    request = CallerRequest("http://127.0.0.1:9/v1/chat/completions", BODY)
    bare = PLAIN[caller](request)
    recorder = instrument()
    seen = PLAIN[caller](request)
    assert recorder.calls() == []
    LlamaCppInstrumentor().uninstrument()
    instrument(llamacpp_allow=("127.0.0.1:9",))
    assert PLAIN[caller](request).status is bare.status is seen.status is None
    assert recorder.call().status.status_code is StatusCode.ERROR
