"""Identification of llama.cpp servers. Other servers are not affected."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from llamatelemetry.genai import known_servers, server_metadata_cache, server_of
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_llamacpp._origins import Origins
from llamatelemetry_instrumentation_llamacpp._routes import match_path
from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_cpp_responses import BODY, CHAT, EVENTS
from tests.support.recorder import Recorder

both = pytest.mark.parametrize("library", ["httpx", "httpx2"])


def mock(library: str, answer: Callable[[Any], Any] | None = None, **headers: str) -> Any:
    """Return a client with a mock transport. By default its responses do not identify the server."""
    http = importlib.import_module(library)
    reply = answer or (lambda _: http.Response(200, json=payloads.chat(), headers=headers))
    return http.Client(transport=http.MockTransport(reply))


@pytest.mark.parametrize(
    ("path", "operation", "prefix"),
    [
        ("/completion", "text_completion", ""),
        ("/completions", "text_completion", ""),
        ("/v1/completions", "text_completion", ""),
        ("/infill", "infill", ""),
        ("/embedding", "embeddings", ""),
        ("/embeddings", "embeddings", ""),
        ("/v1/embeddings", "embeddings", ""),
        ("/rerank", "rerank", ""),
        ("/reranking", "rerank", ""),
        ("/v1/rerank", "rerank", ""),
        ("/v1/reranking", "rerank", ""),
        ("/chat/completions", "chat", ""),
        ("/v1/chat/completions", "chat", ""),
        ("/responses", "chat", ""),
        ("/v1/responses", "chat", ""),
        ("/v1/messages", "chat", ""),
        ("/v1/audio/transcriptions", "transcription", ""),
        ("/any/prefix/v1/chat/completions", "chat", "/any/prefix"),
        ("/any/prefix/completion", "text_completion", "/any/prefix"),
    ],
)
def test_match_path_finds_endpoint_behind_any_prefix(
    path: str, operation: str, prefix: str
) -> None:
    match = match_path(path)
    assert match is not None
    assert (match.route.operation or match.route.task) == operation
    assert match.prefix == prefix


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/tokenize",
        "/detokenize",
        "/apply-template",
        "/props",
        "/slots",
        "/health",
        "/v1/health",
        "/metrics",
        "/models",
        "/v1/models",
        "/lora-adapters",
        "/v1/chat/completions/input_tokens",
        "/v1/messages/count_tokens",
        "/v1/chat/completions/control",
        "/autocompletion",
        "completion",
        "/v1/chat/completions/",
    ],
)
def test_match_path_ignores_endpoints_that_run_no_model(path: str) -> None:
    assert match_path(path) is None


@both
def test_requests_to_other_endpoints_are_not_recorded(library: str, instrument: Any) -> None:
    recorder = instrument(llamacpp_allow=("llama.test",))
    with mock(library, Server="llama.cpp") as client:
        client.post("http://llama.test/tokenize", json={"content": "Hi"})
        client.get("http://llama.test/v1/chat/completions")
    assert recorder.spans() == []


@pytest.mark.parametrize("caller", CALLERS)
def test_first_call_to_unknown_server_has_actual_start_time(
    instrumented: Recorder, caller: str
) -> None:
    """The response identifies the server, and the span includes the time before it."""
    with scripted(plain(CHAT), plain(CHAT)) as server:
        for _ in range(2):
            CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    first, second = instrumented.calls()
    assert first.name == second.name == "chat smol"
    for name in ("gen_ai.provider.name", "gen_ai.usage.output_tokens", "server.port"):
        assert first.attributes[name] == second.attributes[name]
    for span in (first, second):
        assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
        # There is a pause of 2 ms between two parts. A span without it would have no duration.
        assert (span.end_time - span.start_time) > 1.5e6


@pytest.mark.parametrize("caller", STREAMED)
def test_timings_in_stream_identify_llama_cpp_without_server_header(
    instrumented: Recorder, caller: str
) -> None:
    answer = chunked([*EVENTS, b"data: [DONE]\n\n"], server="Server: nginx\r\n")
    with scripted(answer) as server:
        request = CallerRequest(f"{server.origin}/v1/chat/completions", BODY)
        CALLERS[caller](request)
        CALLERS[caller](request)
    first, second = instrumented.calls()
    for span in (first, second):
        assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
        assert span.attributes["gen_ai.response.id"] == "chatcmpl-1"
        assert span.attributes["gen_ai.prefill_ms"] == 2.0
        assert span.attributes["llamatelemetry.queue_source"] == "header"
        first_chunk_s = span.attributes["gen_ai.response.time_to_first_chunk"]
        assert 0 < first_chunk_s < (span.end_time - span.start_time) / 1e9
    if caller != "requests-raw":  # It reads 512 bytes at a time.
        # A stream that identifies its server only at the end has no time of the first token.
        # The server's own time is recorded instead.
        server_s = first.attributes["gen_ai.server.time_to_first_token"]
        assert first.attributes["gen_ai.ttft_ms"] == pytest.approx(server_s * 1000)
        assert second.attributes["gen_ai.ttft_ms"] != pytest.approx(server_s * 1000)


@pytest.mark.parametrize("cut", [1, 7, 40, 200])
@pytest.mark.parametrize("caller", ["httpx-stream", "requests-stream"])
def test_timings_identify_llama_cpp_for_any_split_of_stream(
    instrumented: Recorder, caller: str, cut: int
) -> None:
    body = b"".join(EVENTS)
    chunks = [body[at : at + cut] for at in range(0, len(body), cut)]
    with scripted(chunked(chunks, server="Server: nginx\r\n")) as server:
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("caller", CALLERS)
def test_timings_in_plain_response_identify_llama_cpp(instrumented: Recorder, caller: str) -> None:
    with scripted(plain(CHAT, server="Server: nginx\r\n")) as server:
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("caller", CALLERS)
def test_timings_in_stream_with_encoding_none_identify_llama_cpp(
    instrumented: Recorder, caller: str
) -> None:
    """Servers send `none` so that a proxy does not compress the stream."""
    answer = chunked(EVENTS, "Content-Encoding: none", server="Server: nginx\r\n")
    with scripted(answer) as server:
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5


@both
def test_server_is_that_of_transport_for_url(library: str, instrumented: Recorder) -> None:
    http = importlib.import_module(library)
    with (
        mock(library, Server="llama.cpp") as other,
        http.Client(
            transport=http.HTTPTransport(uds="/nowhere.sock"),
            mounts={"http://llama.test": other._transport},
        ) as client,
    ):
        client.post("http://llama.test/v1/chat/completions", json=BODY)
    attributes = instrumented.call().attributes or {}
    assert (attributes["server.address"], attributes["server.port"]) == ("llama.test", 80)


@both
def test_other_service_of_gateway_is_not_recorded(library: str, instrumented: Recorder) -> None:
    """The proof of a server counts for its prefix of the path, not for all of the host."""
    http = importlib.import_module(library)

    def reply(request: Any) -> Any:
        is_model = request.url.path.startswith("/llm/")
        headers = {"Server": "llama.cpp"} if is_model else {}
        return http.Response(200, json=payloads.chat() if is_model else {"id": 7}, headers=headers)

    def busy(_: Any) -> Any:
        return http.Response(503, json={})

    with mock(library, reply) as client:
        client.post("http://gateway.test/llm/v1/chat/completions", json=BODY)
        client.post("http://gateway.test/users/7/messages", json={"text": "Hi"})
        client.post("http://gateway.test/llms/responses", json={"text": "Hi"})
    with mock(library, busy) as client:
        client.post("http://gateway.test/llm/v1/embeddings", json={"input": "Hi"})
    assert [span.name for span in instrumented.calls()] == ["chat smol", "embeddings"]


@both
def test_task_that_outlives_request_has_calls_of_its_own(library: str, instrument: Any) -> None:
    """A hook of the first request creates the task, so the task has a copy of its context."""
    recorder = instrument(llamacpp_allow=("llama.test",))
    http = importlib.import_module(library)
    url, tasks = "http://llama.test/v1/chat/completions", []

    async def main() -> None:
        transport = http.MockTransport(lambda _: http.Response(200, json=payloads.chat()))
        is_done = asyncio.Event()

        async def work() -> None:
            await is_done.wait()
            async with http.AsyncClient(transport=transport) as client:
                await client.post(url, json=BODY)

        async def start(_request: Any) -> None:
            tasks.append(asyncio.create_task(work()))

        async with http.AsyncClient(
            transport=transport, event_hooks={"request": [start]}
        ) as client:
            await client.post(url, json=BODY)
        is_done.set()
        await tasks[0]

    asyncio.run(main())
    assert len(recorder.calls()) == 2


OTHERS = {
    "no-name": plain(json.dumps(payloads.chat()).encode(), server=""),
    "another-name": plain(json.dumps(payloads.chat()).encode(), server="Server: uvicorn\r\n"),
    "stream": chunked(
        [f"data: {json.dumps(event)}\n\n".encode() for event in payloads.chat_chunks()],
        server="",
    ),
    "stream-that-says-timings": chunked([b'data: {"text": "\\"timings\\": {}"}\n\n'], server=""),
    "timings-of-another-kind": plain(b'{"timings": {"total": 3}}', server=""),
    "stream-with-timings-of-another-kind": chunked([b'data: {"timings": {}}\n\n'], server=""),
    "error": plain(b'{"error": "timings"}', status="500 Oops", server=""),
    "embeddings": plain(json.dumps(payloads.embeddings()).encode(), server=""),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("caller", CALLERS)
def test_call_to_other_server_records_nothing(
    instrumented: Recorder, caller: str, other: str
) -> None:
    with scripted(OTHERS[other]) as server:
        CALLERS[caller](CallerRequest(f"{server.origin}/v1/chat/completions", BODY))
        assert b"traceparent" not in server.requests[0]
    assert instrumented.spans() == []
    assert instrumented.metrics() == {}


@both
def test_thousand_calls_to_other_hosts_record_nothing(library: str, instrumented: Recorder) -> None:
    with mock(library) as client:
        for number in range(1000):
            client.post(f"http://host{number % 50}.test/v1/chat/completions", json=BODY)
    assert instrumented.spans() == []
    assert instrumented.metrics() == {}


@both
def test_denied_server_is_not_recorded(library: str, instrument: Any) -> None:
    recorder = instrument(llamacpp_deny=("http://llama.test",), llamacpp_allow=("llama.test",))
    with mock(library, Server="llama.cpp") as client:
        client.post("http://llama.test/v1/chat/completions", json=BODY)
    assert recorder.spans() == []


@pytest.mark.parametrize(
    ("entry", "url", "matches"),
    [
        ("http://gpu1:8080", "http://gpu1:8080", True),
        ("http://gpu1:8080/v1", "http://gpu1:8080", True),
        ("http://GPU1:8080", "http://gpu1:8080", True),
        ("http://gpu1", "http://gpu1:80", True),
        ("http://gpu1", "http://gpu1:8080", False),
        ("https://gpu1", "http://gpu1:80", False),
        ("gpu1:8080", "http://gpu1:8080", True),
        ("gpu1:8080", "https://gpu1:8080", True),
        ("gpu1:8080", "http://gpu1:8081", False),
        ("gpu1", "http://gpu1:8081", True),
        ("gpu1", "http://gpu11:8081", False),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("nonsense:port", "http://nonsense:80", True),
        ("", "http://gpu1:80", False),
    ],
)
def test_allow_and_deny_entries_match_origin_or_host(entry: str, url: str, matches: bool) -> None:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rpartition(":")
    server = server_of(scheme, host.strip("[]"), int(port))
    assert server is not None
    match = match_path("/completion")
    assert match is not None
    assert Origins((entry,), ()).has_route(server, match) is (True if matches else None)
    assert Origins((), (entry,)).has_route(server, match) is (False if matches else None)


@both
def test_host_of_known_provider_is_not_recorded(library: str, instrumented: Recorder) -> None:
    with mock(library, Server="llama.cpp") as client:
        client.post("https://api.openai.com/v1/chat/completions", json=BODY)
    assert instrumented.spans() == []


@both
def test_plugin_requests_no_props_of_mock_transport(
    library: str, instrument: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    instrumented = instrument(llamacpp_props=True)
    fetched: list[Any] = []
    monkeypatch.setattr(server_metadata_cache, "fetch", lambda *args: fetched.append(args))
    with mock(library, Server="llama.cpp") as client:
        client.post("http://llama.test/v1/chat/completions", json=BODY)
    assert fetched == []
    instrumented.call()


@both
def test_identified_server_stays_known_after_uninstrument(library: str, instrument: Any) -> None:
    recorder = instrument()
    with mock(library, Server="llama.cpp") as client:
        client.post("http://llama.test/v1/chat/completions", json=BODY)
    LlamaCppInstrumentor().uninstrument()
    instrument()
    with mock(library) as client:  # These responses do not identify the server.
        client.post("http://llama.test/v1/chat/completions", json=BODY)
    assert len(recorder.calls()) == 2
    known_servers.forget()
    with mock(library) as client:
        client.post("http://llama.test/v1/chat/completions", json=BODY)
    assert len(recorder.calls()) == 2
