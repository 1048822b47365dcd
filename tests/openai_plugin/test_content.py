"""Content on spans, in events and for completion hooks, with every setting."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from llamatelemetry.genai.content.completion_hook import load_completion_hook
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.llama_server import LlamaServer
from tests.support.openai_content import (
    CAPTURE,
    CONTENT,
    EMIT,
    EVENT,
    EXPECTED,
    HOOK,
    MESSAGES,
    REPLY,
    TOOLS,
    Recording,
    ask,
    event,
    in_event,
    of,
    on_span,
    stream,
)
from tests.support.recorder import Recorder


@pytest.mark.parametrize("emit", [None, "true", "false"])
@pytest.mark.parametrize(
    "setting",
    ["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT", "event_only", "true"],
)
def test_content_is_recorded_on_span_or_event_by_variables(
    instrument: Callable[..., None],
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    emit: str | None,
) -> None:
    monkeypatch.setenv(CAPTURE, setting)
    if emit is not None:
        monkeypatch.setenv(EMIT, emit)
    instrument()
    ask()
    on_spans = setting in {"SPAN_ONLY", "SPAN_AND_EVENT"}
    in_events = setting in {"EVENT_ONLY", "SPAN_AND_EVENT", "event_only"}
    assert on_span(recorder) == (EXPECTED if on_spans else {})
    if emit == "true" or (in_events and emit is None):
        assert in_event(recorder) == (EXPECTED if in_events else {})
    else:
        assert recorder.events() == []


def test_content_on_span_is_compact_json_without_escapes(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    ask(messages=[{"role": "user", "content": "天気は?"}], tools=openai.NOT_GIVEN)
    assert recorder.call().attributes["gen_ai.input.messages"] == (
        '[{"role":"user","parts":[{"type":"text","content":"天気は?"}]}]'
    )


def test_event_has_attributes_and_trace_of_span(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="event_only")
    ask()
    span, record = recorder.call(), event(recorder)
    assert record.log_record.event_name == EVENT
    assert record.log_record.severity_number is None
    assert record.log_record.severity_text is None
    assert record.log_record.body is None
    assert record.log_record.timestamp == span.end_time
    assert record.log_record.trace_id == span.context.trace_id
    assert record.log_record.span_id == span.context.span_id
    assert record.instrumentation_scope is not None
    assert record.instrumentation_scope.name == "llamatelemetry_instrumentation_openai"
    on_event = {name: value for name, value in of(record).items() if name not in CONTENT}
    assert on_event == dict(span.attributes or {})
    assert on_event["gen_ai.response.finish_reasons"] == ("tool_calls",)


def test_event_of_failed_call_has_input_messages(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="event_only")
    client = payloads.client(lambda _: payloads.error_response(429, code="rate_limit_exceeded"))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="smol", messages=MESSAGES)
    assert in_event(recorder) == {
        "gen_ai.input.messages": EXPECTED["gen_ai.input.messages"],
    }
    assert of(event(recorder))["error.type"] == "rate_limit_exceeded"


def test_embeddings_record_no_content_and_no_event(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    hook = Recording()
    instrument(hook, capture_content="span_and_event")
    payloads.client(lambda _: payloads.json_response(payloads.embeddings())).embeddings.create(
        model="embed", input="a secret"
    )
    assert on_span(recorder) == {}
    assert recorder.events() == []
    assert hook.calls == []


def test_text_completion_records_prompts_and_completions(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    payloads.client(lambda _: payloads.json_response(payloads.completion())).completions.create(
        model="smol", prompt=["Hi", "Ho"]
    )
    assert on_span(recorder) == {
        "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": "Hi"}]},
            {"role": "user", "parts": [{"type": "text", "content": "Ho"}]},
        ],
        "gen_ai.output.messages": [
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": " there"}],
                "finish_reason": "length",
            }
        ],
    }


def test_messages_of_custom_types_are_recorded_as_sent(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    """The message of a response is reused as history, and an iterator is sent completely."""
    instrument(capture_content="span_only")
    bodies: list[Any] = []

    def handle(request: Any) -> Any:
        bodies.append(json.loads(request.content))
        return payloads.json_response(REPLY)

    client = payloads.client(handle)
    create: Any = client.chat.completions.create
    answer = create(model="smol", messages=MESSAGES).choices[0].message
    recorder.clear_spans()
    result = {"role": "tool", "tool_call_id": "call_1", "content": iter([])}
    create(model="smol", messages=iter([*MESSAGES, answer, result]), tools=iter(TOOLS))
    assert [message["role"] for message in bodies[1]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert bodies[1]["tools"] == TOOLS
    found = on_span(recorder)
    assert found["gen_ai.tool.definitions"] == EXPECTED["gen_ai.tool.definitions"]
    assert found["gen_ai.input.messages"][2:] == [
        {"role": "assistant", "parts": EXPECTED["gen_ai.output.messages"][0]["parts"]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": []}]},
    ]


def test_content_in_extra_body_is_recorded(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    ask(extra_body={"messages": [{"role": "user", "content": "Instead."}]})
    assert on_span(recorder)["gen_ai.input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "Instead."}]}
    ]


def test_content_of_unparsed_raw_response_is_recorded(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    client = payloads.client(lambda _: payloads.json_response(REPLY))
    client.chat.completions.with_raw_response.create(model="smol", messages=MESSAGES, tools=TOOLS)
    assert on_span(recorder) == EXPECTED


CHUNKS = [
    payloads.chunk({"role": "assistant", "content": None}),
    payloads.chunk({"reasoning_content": "Hm."}),
    payloads.chunk({"content": "H"}),
    payloads.chunk({"content": "i"}),
    payloads.chunk({}, "stop"),
]
SAID = [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Hi"}]


def test_content_of_stream_equals_content_of_plain_response(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_and_event")
    assert len(list(stream(CHUNKS))) == 5
    expected = {
        "gen_ai.input.messages": EXPECTED["gen_ai.input.messages"],
        "gen_ai.output.messages": [{"role": "assistant", "parts": SAID, "finish_reason": "stop"}],
    }
    assert on_span(recorder) == expected
    assert in_event(recorder) == expected


def test_content_of_asynchronous_stream_is_recorded(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")

    async def talk() -> None:
        body = payloads.sse(CHUNKS)
        async with payloads.async_client(lambda _: payloads.stream_response(body)) as client:
            chunks: Any = await client.chat.completions.create(
                model="smol", messages=MESSAGES, stream=True
            )
            assert len([chunk async for chunk in chunks]) == 5

    asyncio.run(talk())
    assert on_span(recorder)["gen_ai.output.messages"] == [
        {"role": "assistant", "parts": SAID, "finish_reason": "stop"}
    ]


def test_content_of_stream_closed_early_is_recorded_up_to_close(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    with stream(CHUNKS) as chunks:
        for _ in range(3):
            next(chunks)
    assert on_span(recorder)["gen_ai.output.messages"] == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "H"},
            ],
            "finish_reason": "unknown",
        }
    ]


def test_content_of_stream_is_truncated_and_marked(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only", content_max_chars=10)
    list(stream([payloads.chunk({"content": "0123456789"}) for _ in range(100)]))
    (message,) = on_span(recorder)["gen_ai.output.messages"]
    assert message["parts"] == [
        {"type": "text", "content": "012345678…", "truncated": True, "original_chars": 1000}
    ]


def test_content_of_real_stream_equals_text_read_by_application(
    instrument: Callable[..., None], recorder: Recorder, llama_server: LlamaServer
) -> None:
    instrument(capture_content="span_only")
    with openai.OpenAI(base_url=llama_server.url, api_key="none") as client:
        chunks = client.chat.completions.create(
            model="smol", messages=MESSAGES, max_tokens=12, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    (message,) = on_span(recorder)["gen_ai.output.messages"]
    assert message["parts"] == [{"type": "text", "content": text}]


@pytest.mark.parametrize("sampled", [True, False])
def test_completion_hook_runs_for_every_capture_mode_and_sampler(
    recorder: Recorder, sampled: bool
) -> None:
    hook = Recording()
    providers = dict(recorder.providers)
    if not sampled:
        providers["tracer_provider"] = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    OpenAIInstrumentor().instrument(**providers, completion_hook=hook)
    try:
        ask()
        list(stream(CHUNKS))
    finally:
        OpenAIInstrumentor().uninstrument()
    plain_call, streamed = hook.calls
    assert plain_call["inputs"][1].parts[0].content == "Weather in Paris?"
    assert plain_call["outputs"][0].parts[0].arguments == {"city": "Paris"}
    assert plain_call["tool_definitions"][0].name == "weather"
    assert plain_call["log_record"] is None
    assert plain_call["span"].is_recording() is False  # The hook has run before the call returns.
    assert streamed["outputs"][0].parts[1].content == "Hi"
    assert [len(span.attributes or {}) > 0 for span in recorder.calls()] == [True, True] * sampled
    assert all(name not in (span.attributes or {}) for span in recorder.calls() for name in CONTENT)


def test_completion_hook_gets_untruncated_content(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    hook = Recording()
    instrument(hook, capture_content="span_only", content_max_chars=4)
    list(stream([payloads.chunk({"content": "0123456789"}) for _ in range(100)]))
    (given,) = hook.calls
    assert given["outputs"][0].parts[0].content == "0123456789" * 100
    assert given["inputs"][0].parts[0].content == "Be brief."
    assert on_span(recorder)["gen_ai.input.messages"][0]["parts"] == [
        {"type": "text", "content": "Be …", "truncated": True, "original_chars": 9}
    ]


def test_changes_of_completion_hook_are_recorded(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    class Masking:
        def on_completion(self, *, inputs: Any, span: Any, log_record: Any, **_more: Any) -> None:
            inputs[1].parts[0].content = "***"
            span.set_attribute("vault.reference", "ref-1")
            log_record.attributes = {**log_record.attributes, "vault.reference": "ref-1"}

    instrument(Masking(), capture_content="span_and_event")
    ask()
    masked = [{"type": "text", "content": "***"}]
    assert on_span(recorder)["gen_ai.input.messages"][1]["parts"] == masked
    assert in_event(recorder)["gen_ai.input.messages"][1]["parts"] == masked
    assert recorder.call().attributes["vault.reference"] == "ref-1"
    assert of(event(recorder))["vault.reference"] == "ref-1"
    assert of(event(recorder))["gen_ai.operation.name"] == "chat"


def test_failing_completion_hook_affects_neither_call_nor_content(
    instrument: Callable[..., None], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def on_completion(self, **_given: Any) -> None:
            raise RuntimeError("out of order")

    instrument(Broken(), capture_content="span_only")
    assert ask().id == "chatcmpl-1"
    assert on_span(recorder) == EXPECTED
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_environment_variable_selects_completion_hook(
    instrument: Callable[..., None], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, "upload")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_UPLOAD_BASE_PATH", str(tmp_path))
    load_completion_hook.cache_clear()
    instrument()
    ask()
    hook: Any = load_completion_hook("upload")
    load_completion_hook.cache_clear()
    hook.shutdown()
    stored = {path.name.split("_", 1)[1]: path.read_text() for path in tmp_path.iterdir()}
    assert set(stored) == {"inputs.json", "outputs.json", "tool.definitions.json"}
    assert "Weather in Paris?" in stored["inputs.json"]
