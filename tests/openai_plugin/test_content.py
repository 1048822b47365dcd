"""Content on spans, in events and for hooks, by every setting."""

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
from tests.openai_plugin import replies
from tests.openai_plugin.content import (
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
from tests.recorder import Recorder
from tests.servers import LlamaServer

# --- where content goes -------------------------------------------------------------------


@pytest.mark.parametrize("emit", [None, "true", "false"])
@pytest.mark.parametrize(
    "setting",
    ["NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT", "event_only", "true"],
)
def test_content_goes_where_the_variables_say(
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


def test_content_on_a_span_is_compact_json_in_the_letters_it_was_written_in(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    ask(messages=[{"role": "user", "content": "天気は?"}], tools=openai.NOT_GIVEN)
    assert recorder.call().attributes["gen_ai.input.messages"] == (
        '[{"role":"user","parts":[{"type":"text","content":"天気は?"}]}]'
    )


def test_the_event_has_all_that_the_span_has_and_is_part_of_its_trace(
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
    told = {name: value for name, value in of(record).items() if name not in CONTENT}
    assert told == dict(span.attributes or {})
    assert told["gen_ai.response.finish_reasons"] == ("tool_calls",)


def test_an_event_tells_of_a_failed_call_what_was_asked(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="event_only")
    client = replies.client(lambda _: replies.error_reply(429, code="rate_limit_exceeded"))
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="smol", messages=MESSAGES)
    assert in_event(recorder) == {
        "gen_ai.input.messages": EXPECTED["gen_ai.input.messages"],
    }
    assert of(event(recorder))["error.type"] == "rate_limit_exceeded"


def test_embeddings_have_no_content_and_no_event(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    hook = Recording()
    instrument(hook, capture_content="span_and_event")
    replies.client(lambda _: replies.json_reply(replies.embeddings())).embeddings.create(
        model="embed", input="a secret"
    )
    assert on_span(recorder) == {}
    assert recorder.events() == []
    assert hook.calls == []


def test_text_completions_have_prompts_and_texts(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    replies.client(lambda _: replies.json_reply(replies.completion())).completions.create(
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


def test_messages_of_the_applications_own_types_are_read_as_they_are_sent(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    """A reply's message goes back into the history; an iterator reaches the server whole."""
    instrument(capture_content="span_only")
    bodies: list[Any] = []

    def handle(request: Any) -> Any:
        bodies.append(json.loads(request.content))
        return replies.json_reply(REPLY)

    client = replies.client(handle)
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


def test_what_extra_body_says_is_what_is_recorded(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    ask(extra_body={"messages": [{"role": "user", "content": "Instead."}]})
    assert on_span(recorder)["gen_ai.input.messages"] == [
        {"role": "user", "parts": [{"type": "text", "content": "Instead."}]}
    ]


def test_a_raw_response_is_read_without_being_parsed(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    client = replies.client(lambda _: replies.json_reply(REPLY))
    client.chat.completions.with_raw_response.create(model="smol", messages=MESSAGES, tools=TOOLS)
    assert on_span(recorder) == EXPECTED


# --- streams ------------------------------------------------------------------------------

CHUNKS = [
    replies.chunk({"role": "assistant", "content": None}),
    replies.chunk({"reasoning_content": "Hm."}),
    replies.chunk({"content": "H"}),
    replies.chunk({"content": "i"}),
    replies.chunk({}, "stop"),
]
SAID = [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Hi"}]


def test_a_stream_is_recorded_like_a_plain_reply(
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


def test_an_asynchronous_stream_is_recorded_too(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")

    async def talk() -> None:
        body = replies.sse(CHUNKS)
        async with replies.async_client(lambda _: replies.stream_reply(body)) as client:
            chunks: Any = await client.chat.completions.create(
                model="smol", messages=MESSAGES, stream=True
            )
            assert len([chunk async for chunk in chunks]) == 5

    asyncio.run(talk())
    assert on_span(recorder)["gen_ai.output.messages"] == [
        {"role": "assistant", "parts": SAID, "finish_reason": "stop"}
    ]


def test_a_stream_that_is_closed_early_is_recorded_as_far_as_it_came(
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
        }
    ]


def test_a_stream_is_cut_to_the_limit_and_says_so(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only", content_max_chars=10)
    list(stream([replies.chunk({"content": "0123456789"}) for _ in range(100)]))
    (message,) = on_span(recorder)["gen_ai.output.messages"]
    assert message["parts"] == [
        {"type": "text", "content": "012345678…", "truncated": True, "original_chars": 1000}
    ]


def test_what_a_real_server_streams_is_recorded_as_the_application_reads_it(
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


# --- hooks --------------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [True, False])
def test_a_hook_runs_whatever_is_captured_or_sampled(recorder: Recorder, sampled: bool) -> None:
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
    assert plain_call["span"].is_recording() is False  # by now
    assert streamed["outputs"][0].parts[1].content == "Hi"
    assert [len(span.attributes or {}) > 0 for span in recorder.calls()] == [True, True] * sampled
    assert all(name not in (span.attributes or {}) for span in recorder.calls() for name in CONTENT)


def test_a_hook_gets_what_is_cut_elsewhere_whole(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    hook = Recording()
    instrument(hook, capture_content="span_only", content_max_chars=4)
    list(stream([replies.chunk({"content": "0123456789"}) for _ in range(100)]))
    (given,) = hook.calls
    assert given["outputs"][0].parts[0].content == "0123456789" * 100
    assert given["inputs"][0].parts[0].content == "Be brief."
    assert on_span(recorder)["gen_ai.input.messages"][0]["parts"] == [
        {"type": "text", "content": "Be …", "truncated": True, "original_chars": 9}
    ]


def test_what_a_hook_changes_is_what_is_recorded(
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


def test_a_hook_that_raises_costs_neither_the_call_nor_its_content(
    instrument: Callable[..., None], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def on_completion(self, **_given: Any) -> None:
            raise RuntimeError("out of order")

    instrument(Broken(), capture_content="span_only")
    assert ask().id == "chatcmpl-1"
    assert on_span(recorder) == EXPECTED
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_variable_names_a_hook(
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
