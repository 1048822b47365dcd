"""Calls of inference servers by plain HTTP clients: each engine's figures, and its proof."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from llamatelemetry.genai import known_servers
from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.engine_formats import (
    MESSAGES,
    OLLAMA_COUNTS,
    OLLAMA_EMBED,
    OLLAMA_HEAD,
    SGLANG_META,
    SGLANG_REPLY,
    as_events,
    as_lines,
    ollama_chat,
    ollama_chat_objects,
    ollama_generate_objects,
    sglang_events,
)
from tests.support.http_callers import CALLERS, PLAIN, STREAMED, CallerRequest
from tests.support.recorder import Recorder

REPLIES = Path(__file__).parents[1] / "support" / "engine_replies" / "vllm"
UVICORN = "Server: uvicorn\r\n"
# One way of reading per library.
EACH_LIBRARY = [*PLAIN, "httpx-async-stream", "requests-stream", "urllib3-stream", "aiohttp-stream"]
each_library = pytest.mark.parametrize("caller", EACH_LIBRARY)
each_streaming = pytest.mark.parametrize("caller", STREAMED)


def answer_json(body: Any, *headers: str, status: str = "200 OK") -> list[bytes]:
    return plain(json.dumps(body).encode(), *headers, status=status, server=UVICORN)


def answer_lines(objects: Sequence[dict[str, Any]], **more: Any) -> list[bytes]:
    kind = "application/x-ndjson"
    return chunked(as_lines(list(objects)), server="", kind=kind, **more)


def call(caller: str, path: str, body: dict[str, Any], *answers: list[bytes]) -> Any:
    """Send one request per answer, and return the last observation of the application."""
    with scripted(*answers) as server:
        for _ in answers:
            seen = CALLERS[caller](CallerRequest(f"{server.origin}{path}", body))
    return seen


PHASES = {
    "gen_ai.prefill_ms": 250.0,
    "gen_ai.decode_ms": 1000.0,
    "gen_ai.tpot_ms": 250.0,
    "gen_ai.usage.input_tokens": 20,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.cache_read.input_tokens": 8,
    "gen_ai.response.finish_reasons": ("stop",),
}
QUEUE = {"llamatelemetry.queue_duration": 0.5, "llamatelemetry.queue_source": "engine"}
OLLAMA_BODY = {
    "model": "smol",
    "messages": MESSAGES,
    "options": {"temperature": 0.5, "num_predict": 9, "seed": 3, "stop": ["x"], "top_k": 2},
    "format": "json",
    "think": "high",
}
OLLAMA_PARAMETERS = {
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.max_tokens": 9,
    "gen_ai.request.seed": 3,
    "gen_ai.request.stop_sequences": ("x",),
    "gen_ai.request.top_k": 2,
    "gen_ai.output.type": "json",
    "gen_ai.request.reasoning.level": "high",
}
SGLANG_BODY = {
    "text": "SECRET question",
    "sampling_params": {"max_new_tokens": 9, "temperature": 0.5},
}
SGLANG_PARAMETERS = {"gen_ai.request.max_tokens": 9, "gen_ai.request.temperature": 0.5}

# Path, body, answer, and attributes of the span beside those of all.
NATIVE: dict[str, tuple[str, dict[str, Any], list[bytes], dict[str, Any]]] = {
    "ollama-chat": (
        "/api/chat",
        {**OLLAMA_BODY, "stream": False},
        answer_json(ollama_chat()),
        {"gen_ai.provider.name": "ollama", "gen_ai.operation.name": "chat", **OLLAMA_PARAMETERS},
    ),
    "ollama-chat-stream": (
        "/api/chat",
        OLLAMA_BODY,
        answer_lines(ollama_chat_objects()),
        {"gen_ai.provider.name": "ollama", "gen_ai.operation.name": "chat", **OLLAMA_PARAMETERS},
    ),
    "ollama-generate-stream": (
        "/prefix/api/generate",
        {"model": "smol", "prompt": "SECRET question"},
        answer_lines(ollama_generate_objects()),
        {"gen_ai.provider.name": "ollama", "gen_ai.operation.name": "text_completion"},
    ),
    "sglang": (
        "/generate",
        SGLANG_BODY,
        answer_json(SGLANG_REPLY),
        {
            "gen_ai.provider.name": "sglang",
            "gen_ai.operation.name": "text_completion",
            "gen_ai.response.id": "rid-1",
            **SGLANG_PARAMETERS,
            **QUEUE,
        },
    ),
    "sglang-stream": (
        "/generate",
        {**SGLANG_BODY, "stream": True},
        chunked(as_events(sglang_events()), server=UVICORN),
        {
            "gen_ai.provider.name": "sglang",
            "gen_ai.operation.name": "text_completion",
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.tpot_ms": 500.0,
            **SGLANG_PARAMETERS,
            **QUEUE,
        },
    ),
}


@pytest.mark.parametrize("case", NATIVE)
@each_library
def test_native_route_is_recorded_from_the_first_call(
    instrumented: Recorder, caller: str, case: str
) -> None:
    path, body, answer, expected = NATIVE[case]
    call(caller, path, body, answer, answer)
    spans = instrumented.calls()
    assert len(spans) == 2
    for span in spans:
        found = dict(span.attributes or {})
        wanted = {**PHASES, **expected}
        assert {name: found.get(name) for name in wanted} == wanted
        assert found["server.address"] == "127.0.0.1"
        assert ("gen_ai.request.stream" in found) is ("stream" in case)
        # Without the queue it is unknown when the prefill began.
        phases = {"queue", "prefill", "decode"} if "sglang" in case else set[str]()
        assert set(instrumented.phases(span)) == phases
        assert span.status.status_code is StatusCode.UNSET
        assert "SECRET" not in str(found)
    assert instrumented.tokens("input") == 40
    has_request_metric = "sglang" in case  # Ollama reports no queue, so the total is unknown.
    assert bool(instrumented.points("gen_ai.server.request.duration")) is has_request_metric


@each_streaming
def test_known_server_of_native_stream_has_time_to_first_chunk_and_traceparent(
    instrumented: Recorder, caller: str
) -> None:
    answer = answer_lines(ollama_chat_objects())
    with scripted(answer, answer) as server:
        for _ in range(2):
            CALLERS[caller](CallerRequest(f"{server.origin}/api/chat", OLLAMA_BODY))
        assert b"traceparent" not in server.requests[0].lower()
        (span,) = instrumented.calls()[1:]
        sent = f"traceparent: 00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
        assert sent.encode() in server.requests[1]
    assert (span.attributes or {})["gen_ai.response.time_to_first_chunk"] > 0


@each_library
def test_embeddings_of_ollama_are_recognized_behind_long_vectors(
    instrumented: Recorder, caller: str
) -> None:
    body = {"model": "smol", "input": ["a", "b"], "dimensions": 4000}
    call(caller, "/api/embed", body, answer_json(OLLAMA_EMBED))
    found = dict(instrumented.call().attributes or {})
    assert found["gen_ai.provider.name"] == "ollama"
    assert found["gen_ai.operation.name"] == "embeddings"
    assert found["gen_ai.usage.input_tokens"] == 8
    assert found["gen_ai.embeddings.dimension.count"] == 4000


def test_old_embeddings_of_ollama_prove_nothing_but_are_recorded_if_it_is_known(
    instrumented: Recorder,
) -> None:
    old = answer_json({"embedding": [0.1, 0.2]})
    with scripted(old, answer_json(ollama_chat()), old) as server:
        for path in ("/api/embeddings", "/api/chat", "/api/embeddings"):
            CALLERS["httpx2"](CallerRequest(server.origin + path, {"model": "smol"}))
    assert [span.name for span in instrumented.calls()] == ["chat smol", "embeddings smol"]


def recorded(name: str) -> dict[str, Any]:
    return json.loads((REPLIES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        *("chat_plain", "chat_plain_again_cached", "chat_stream_usage", "completion_plain"),
        *("completion_stream_usage", "responses_plain", "responses_stream", "speculative_chat"),
    ],
)
@pytest.mark.parametrize("caller", ["httpx2", "requests", "urllib3", "aiohttp", "aiohttp-stream"])
def test_phases_of_true_vllm_replies_equal_its_figures(
    instrumented: Recorder, caller: str, name: str
) -> None:
    record = recorded(name)
    request = record["request"]
    if "events" in record:
        lines = [line for _, line in record["events"] if line]
        ended = [f"{line}\n\n" if line.startswith("data:") else f"{line}\n" for line in lines]
        answer = chunked([line.encode() for line in ended], server=UVICORN)
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        found = [chunk.get("response", chunk).get("metrics") for chunk in chunks]
        metrics = next(each for each in reversed(found) if each)
    else:
        answer, metrics = answer_json(record["body"]), record["body"]["metrics"]
    call(caller, request["path"], request["body"], answer)
    attributes = dict(instrumented.call().attributes or {})
    assert attributes["gen_ai.provider.name"] == "vllm"
    assert attributes["gen_ai.prefill_ms"] == pytest.approx(metrics["time_to_first_token_ms"])
    assert attributes["gen_ai.decode_ms"] == pytest.approx(metrics["generation_time_ms"])
    queue_s = attributes["llamatelemetry.queue_duration"]
    assert queue_s == pytest.approx(metrics["queue_time_ms"] / 1000)
    assert attributes["llamatelemetry.queue_source"] == "engine"
    assert len(instrumented.points("gen_ai.server.request.duration")) == 1


@pytest.mark.parametrize("name", ["default_chat_plain", "default_chat_stream_usage"])
def test_vllm_without_metrics_has_its_name_and_no_phases(instrumented: Recorder, name: str) -> None:
    record = recorded(name)
    lines = [f"{line}\n\n".encode() for _, line in record.get("events", ()) if line]
    answer = chunked(lines, server=UVICORN) if lines else answer_json(record["body"])
    call("httpx2", "/v1/chat/completions", record["request"]["body"], answer)
    found = dict(instrumented.call().attributes or {})
    assert found["gen_ai.provider.name"] == "vllm"
    assert not {"gen_ai.prefill_ms", "llamatelemetry.queue_duration"} & {*found}


LM_STUDIO = payloads.chat(
    stats={"generation_time": 1.0, "time_to_first_token": 0.3},
    model_info={"arch": "llama"},
    runtime={"name": "llama.cpp"},
)
TGI_HEADERS = (
    *("x-queue-time: 500", "x-validation-time: 1", "x-time-per-token: 250"),
    *("x-generated-tokens: 5", "x-inference-time: 1250"),
)
CHAT = {"model": "smol", "messages": MESSAGES}
COMPATIBLE: dict[str, tuple[str, list[bytes], dict[str, Any]]] = {
    "lm studio": (
        "/api/v0/chat/completions",
        answer_json(LM_STUDIO),
        {"gen_ai.provider.name": "lm_studio", "gen_ai.decode_ms": 1000.0},
    ),
    "tgi": (
        "/v1/chat/completions",
        answer_json(payloads.chat(), *TGI_HEADERS),
        {"gen_ai.provider.name": "tgi", **QUEUE},
    ),
    "sglang": (
        "/v1/chat/completions",
        answer_json(payloads.chat(metadata={"weight_version": "default"})),
        {"gen_ai.provider.name": "sglang"},
    ),
    "ollama": (
        "/v1/chat/completions",
        answer_json(payloads.chat(system_fingerprint="fp_ollama")),
        {"gen_ai.provider.name": "ollama"},
    ),
    "dynamo": (
        "/v1/chat/completions",
        answer_json(payloads.chat(nvext={"timing": {"ttft_ms": 800, "total_time_ms": 1800}})),
        {"gen_ai.provider.name": "dynamo", "gen_ai.decode_ms": 1000.0},
    ),
    "ollama stream": (
        "/v1/chat/completions",
        chunked(
            as_events(
                [{**each, "system_fingerprint": "fp_ollama"} for each in payloads.chat_chunks()]
            ),
            server="",
        ),
        {"gen_ai.provider.name": "ollama"},
    ),
    "llama.cpp at the path of Ollama": (
        "/api/chat",
        plain(json.dumps(payloads.chat(timings=payloads.TIMINGS)).encode()),
        {"gen_ai.provider.name": "llama_cpp", "gen_ai.prefill_ms": 2.0},
    ),
}


@pytest.mark.parametrize("case", COMPATIBLE)
@each_library
def test_engine_behind_openai_api_is_recorded(
    instrumented: Recorder, caller: str, case: str
) -> None:
    path, answer, expected = COMPATIBLE[case]
    call(caller, path, CHAT, answer)
    found = dict(instrumented.call().attributes or {})
    assert {name: found.get(name) for name in expected} == expected
    assert found["gen_ai.operation.name"] == "chat"


def test_engine_is_remembered_and_its_failures_are_recorded(instrumented: Recorder) -> None:
    failed = answer_json({"error": "SECRET model not found"}, status="404 Not Found")
    with scripted(answer_json(ollama_chat()), failed, answer_lines([])) as server:
        for _ in range(3):
            CALLERS["requests"](CallerRequest(f"{server.origin}/api/chat", OLLAMA_BODY))
    _, error, empty = instrumented.calls()
    assert {(span.attributes or {})["gen_ai.provider.name"] for span in (error, empty)} == {
        "ollama"
    }
    assert (error.attributes or {})["error.type"] == "404"
    assert error.status.status_code is StatusCode.ERROR
    assert "SECRET" not in str(error.to_json())


@each_library
def test_error_inside_a_native_stream_fails_the_call(instrumented: Recorder, caller: str) -> None:
    objects = [*ollama_chat_objects()[:3], {"error": "SECRET failure"}]
    call(caller, "/api/chat", OLLAMA_BODY, answer_json(ollama_chat()), answer_lines(objects))
    found = dict(instrumented.calls()[1].attributes or {})
    assert found["error.type"] == "_OTHER"
    assert "gen_ai.prefill_ms" not in found


@pytest.mark.parametrize("caller", [each for each in STREAMED if each != "requests-raw"])
def test_native_stream_closed_early_keeps_what_arrived(instrumented: Recorder, caller: str) -> None:
    objects = [*ollama_chat_objects()[:3], *[{**OLLAMA_HEAD, "x": "y" * 600}] * 40]
    with scripted(answer_json(ollama_chat()), answer_lines(objects)) as server:
        url = f"{server.origin}/api/chat"
        CALLERS[caller](CallerRequest(url, OLLAMA_BODY))
        CALLERS[caller](CallerRequest(url, OLLAMA_BODY, chunks=2))
    span = instrumented.calls()[1]
    assert span.status.status_code is StatusCode.UNSET
    found = dict(span.attributes or {})
    assert found["gen_ai.response.model"] == "smol"
    assert found["gen_ai.response.time_to_first_chunk"] > 0
    assert "gen_ai.usage.output_tokens" not in found


OTHERS: dict[str, tuple[str, list[bytes]]] = {
    "chat of an application": ("/api/chat", answer_json({"message": {"content": "Hi"}})),
    "imitated Ollama with zeros": (
        "/api/chat",
        answer_json({**ollama_chat(), **dict.fromkeys(OLLAMA_COUNTS, 0)}),
    ),
    "stream of an application": ("/api/chat", answer_lines([{"done": True, "text": "x"}])),
    "generate of another server": (
        "/generate",
        answer_json({"text": "Hi", "meta_info": {"queue_time": 0.5}}),
    ),
    "tgi's own generate": ("/generate", answer_json([{"generated_text": "Hi"}], *TGI_HEADERS)),
    "llama.cpp without this route": ("/generate", plain(b"{}", status="404 Not Found")),
    "embed of an application": ("/api/embed", answer_json({"embeddings": [[0.1]]})),
    "vllm's shape without proof": (
        "/v1/chat/completions",
        answer_json(payloads.chat(metrics=recorded("chat_plain")["body"]["metrics"])),
    ),
    "text that mentions it": (
        "/v1/chat/completions",
        answer_json(payloads.chat(note='"timings": {"prompt_n": 1}, "eval_duration": 5')),
    ),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("caller", ["httpx2", "requests", "urllib3", "aiohttp", "urllib3-stream"])
def test_same_route_of_other_software_records_nothing(
    instrumented: Recorder, caller: str, other: str
) -> None:
    path, answer = OTHERS[other]
    with scripted(answer) as server:
        CALLERS[caller](CallerRequest(server.origin + path, {"messages": []}))
        assert b"traceparent" not in server.requests[0].lower()
    assert instrumented.spans() == []
    assert instrumented.metrics() == {}


def test_known_engine_does_not_claim_routes_of_other_engines(
    instrument: Callable[..., Recorder],
) -> None:
    """The origin may be a proxy that has an application's own routes, too."""
    recorder = instrument()
    answers = [answer_json(recorded("chat_plain")["body"]), *[answer_json({"text": "Hi"})] * 2]
    with scripted(*answers) as server:
        for path in ("/v1/chat/completions", "/api/chat", "/generate"):
            CALLERS["httpx2"](CallerRequest(server.origin + path, CHAT))
    assert [span.name for span in recorder.calls()] == ["chat smol"]
    assert known_servers.providers == {server.origin: "vllm"}


@pytest.mark.parametrize("value", [-1, "250", True, None, [], 1e300])
@pytest.mark.parametrize(
    ("path", "field", "missing"),
    [
        ("/api/chat", "prompt_eval_duration", "gen_ai.prefill_ms"),
        ("/api/chat", "eval_count", "gen_ai.usage.output_tokens"),
        ("/api/chat", "prompt_eval_count", "gen_ai.usage.input_tokens"),
        ("/generate", "queue_time", "llamatelemetry.queue_duration"),
        ("/generate", "prefill_finished_time", "gen_ai.prefill_ms"),
        ("/generate", "completion_tokens", "gen_ai.usage.output_tokens"),
    ],
)
def test_impossible_figure_is_not_recorded(
    instrumented: Recorder, path: str, field: str, missing: str, value: Any
) -> None:
    reply: dict[str, Any] = (
        {**ollama_chat(), field: value}
        if path == "/api/chat"
        else {**SGLANG_REPLY, "meta_info": {**SGLANG_META, field: value}}
    )
    call("urllib3", path, CHAT, answer_json(reply))
    found = dict(instrumented.call().attributes or {})
    assert missing not in found
    assert found["gen_ai.response.finish_reasons"] == ("stop",)


CONTENT = {
    "ollama-chat-stream": (
        '[{"role":"user","parts":[{"type":"text","content":"SECRET question"}]}]',
        [
            {"type": "reasoning", "content": "SECRET thought"},
            {"type": "text", "content": "SECRET answer"},
            {"type": "tool_call", "name": "weather", "arguments": {"city": "Oslo"}},
        ],
    ),
    "ollama-chat": (None, [{"type": "text", "content": "SECRET answer"}]),
    "ollama-generate-stream": (None, [{"type": "text", "content": "SECRET answer"}]),
    "sglang": (None, [{"type": "text", "content": "SECRET answer"}]),
    "sglang-stream": (None, [{"type": "text", "content": "SECRET answer"}]),
}


@pytest.mark.parametrize("case", CONTENT)
@pytest.mark.parametrize("caller", ["httpx-stream", "requests-stream", "urllib3", "aiohttp"])
def test_content_is_captured_on_request(
    instrument: Callable[..., Recorder], monkeypatch: Any, caller: str, case: str
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    recorder = instrument()
    path, body, answer, _ = NATIVE[case]
    call(caller, path, body, answer, answer)
    found = dict(recorder.calls()[1].attributes or {})  # The first one was recognized at its end.
    asked = json.loads(str(found["gen_ai.input.messages"]))
    assert asked == [{"role": "user", "parts": [{"type": "text", "content": "SECRET question"}]}]
    (said,) = json.loads(str(found["gen_ai.output.messages"]))
    assert said["parts"] == CONTENT[case][1]
    assert said["finish_reason"] == "stop"
