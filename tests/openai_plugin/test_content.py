"""Content on spans, in events and for hooks; and none of it anywhere unless somebody asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import content as content_module
from llamatelemetry.genai import guard
from llamatelemetry.genai.completion_hook import load_completion_hook
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.genai.message_schemas import check
from tests.openai_plugin import replies
from tests.recorder import Recorder

EVENT = "gen_ai.client.inference.operation.details"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
EMIT = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
HOOK = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"
CONTENT = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS},
    }
]
MESSAGES: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]},
]
REPLY = replies.chat(
    choices=[
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Paris"}'},
                    }
                ],
            },
        }
    ]
)
EXPECTED = {
    "gen_ai.input.messages": [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    ],
    "gen_ai.output.messages": [
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": {"city": "Paris"},
                }
            ],
            "finish_reason": "tool_call",
        }
    ],
    "gen_ai.tool.definitions": [
        {
            "type": "function",
            "name": "weather",
            "description": "Tell it.",
            "parameters": PARAMETERS,
        }
    ],
}


@pytest.fixture
def instrument(recorder: Recorder) -> Iterator[Callable[..., None]]:
    """Switch the plugin on for this test; arguments are the instrumentor's, or options."""

    def instrument(completion_hook: Any = None, **options: Any) -> None:
        OpenAIInstrumentor().instrument(
            **recorder.providers,
            completion_hook=completion_hook,
            config=LlamaTelemetryConfig(**options),
        )

    yield instrument
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()


def ask(reply: Any = REPLY, **request: Any) -> Any:
    request = {"model": "smol", "messages": MESSAGES, "tools": TOOLS, **request}
    client = replies.client(lambda _: replies.json_reply(reply))
    return client.chat.completions.create(**request)


def stream(chunks: list[dict[str, Any]]) -> Any:
    client = replies.client(lambda _: replies.stream_reply(replies.sse(chunks)))
    return client.chat.completions.create(model="smol", messages=MESSAGES, stream=True)


def on_span(recorder: Recorder) -> dict[str, Any]:
    """The content of the one call's span, decoded and held against its schemas."""
    found = {}
    for name in CONTENT:
        text = (recorder.call().attributes or {}).get(name)
        if text is not None:
            assert isinstance(text, str)
            found[name] = json.loads(text)
            check(name, found[name])
    return found


def in_event(recorder: Recorder) -> dict[str, Any]:
    """The content of the one event, which is structured."""
    found = {name: of(event(recorder)).get(name) for name in CONTENT}
    found = {name: plain(value) for name, value in found.items() if value is not None}
    for name, value in found.items():
        check(name, value)
    return found


def event(recorder: Recorder) -> ReadableLogRecord:
    (found,) = recorder.events()
    return found


def of(record: ReadableLogRecord) -> dict[str, Any]:
    return dict(record.log_record.attributes or {})


def plain(value: Any) -> Any:
    """The SDK keeps sequences as tuples."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "items"):
        return {name: plain(item) for name, item in value.items()}
    return value


class Recording:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def on_completion(self, **given: Any) -> None:
        self.calls.append(given)


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


# --- nothing unless somebody asked --------------------------------------------------------

SECRET = "c4n4ry-7f3a"


def talk_in_secret() -> None:
    """Every way for content to go: prompt, reply, arguments, results, errors, streams, odd shapes."""
    said = replies.chat(
        choices=[
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "content": SECRET,
                    "reasoning_content": SECRET,
                    "refusal": SECRET,
                    "tool_calls": [
                        {
                            "id": SECRET,
                            "type": "function",
                            "function": {"name": SECRET, "arguments": json.dumps({"a": SECRET})},
                        }
                    ],
                },
            }
        ]
    )
    request: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": SECRET, "name": SECRET},
            {"role": "tool", "tool_call_id": SECRET, "content": SECRET},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": SECRET, "description": SECRET, "parameters": {}},
            }
        ],
        "user": SECRET,
    }
    ask(said, **request)
    ask({"choices": SECRET, "usage": SECRET, "id": None, "error": SECRET}, **request)
    list(stream([replies.chunk({"content": SECRET, "role": "assistant"})]))
    with stream([replies.chunk({"content": SECRET})] * 3) as chunks:
        next(chunks)
    for status, error in ((400, openai.BadRequestError), (500, openai.InternalServerError)):
        body = {"error": {"message": SECRET, "param": SECRET, "code": f"{SECRET} {SECRET}"}}
        client = replies.client(
            lambda _, status=status, body=body: replies.json_reply(body, status)
        )
        with pytest.raises(error):
            client.chat.completions.create(model="smol", **request)
    client = replies.client(lambda _: replies.json_reply(replies.completion()))
    client.completions.create(model="smol", prompt=SECRET, suffix=SECRET)
    client = replies.client(lambda _: replies.json_reply(replies.embeddings()))
    client.embeddings.create(model="smol", input=SECRET)


def all_that_was_recorded(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> str:
    spans = [span.to_json() for span in recorder.spans()]
    metrics = [metric.to_json() for metric in recorder.metrics().values()]
    events = [record.to_json() for record in recorder.events()]
    return "\n".join([*spans, *metrics, *events, caplog.text])


@pytest.mark.parametrize("emit", [None, "true"])
def test_nothing_that_was_said_is_anywhere_when_content_is_not_captured(
    instrument: Callable[..., None],
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    emit: str | None,
) -> None:
    if emit is not None:
        monkeypatch.setenv(EMIT, emit)
    guard.set_strict(False)
    caplog.set_level(logging.DEBUG, "llamatelemetry")
    instrument()
    talk_in_secret()
    assert len(recorder.calls()) == 8
    assert len(recorder.events()) == (0 if emit is None else 7)
    assert SECRET not in all_that_was_recorded(recorder, caplog)


def test_the_canary_would_be_found(
    instrument: Callable[..., None], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    instrument(capture_content="span_only")
    talk_in_secret()
    assert SECRET in all_that_was_recorded(recorder, caplog)
    told = [SECRET in span.to_json() for span in recorder.calls()]
    assert told == [True] * 7 + [False]  # the last are the embeddings


def test_nothing_is_read_of_a_call_that_nobody_records(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = content_module._read
    monkeypatch.setattr(
        content_module,
        "_read",
        lambda read_it, doing: read.append(doing) or original(read_it, doing),
    )
    providers = {
        **recorder.providers,
        "tracer_provider": TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
    }
    for mode, expected in (("no_content", 0), ("span_only", 0), ("event_only", 4)):
        OpenAIInstrumentor().instrument(
            **providers, config=LlamaTelemetryConfig(capture_content=mode)
        )
        try:
            ask()
            list(stream(CHUNKS))
        finally:
            OpenAIInstrumentor().uninstrument()
        assert len(read) == expected, mode


def test_an_event_that_nobody_receives_is_not_made(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a logger provider, `event_only` costs what `no_content` does."""
    read: list[str] = []
    monkeypatch.setattr(content_module, "_read", lambda _read_it, doing: read.append(doing))
    providers = {**recorder.providers, "logger_provider": None}
    OpenAIInstrumentor().instrument(
        **providers, config=LlamaTelemetryConfig(capture_content="event_only")
    )
    try:
        ask()
    finally:
        OpenAIInstrumentor().uninstrument()
    assert on_span(recorder) == {}
    assert read == []


def test_odd_content_never_reaches_the_application_as_an_error(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    """What our guard would swallow is raised in tests: there is nothing for it to swallow."""
    instrument(Recording(), capture_content="span_and_event")
    odd: Any = {
        "choices": [
            None,
            7,
            {"message": 7},
            {"message": {"content": 7, "tool_calls": {"a": 1}, "role": 7}},
            {"message": {"tool_calls": [None, {"function": {"arguments": {"a": 1}}}]}},
        ]
    }
    raw: Any = replies.client(lambda _: replies.json_reply(odd)).chat.completions.with_raw_response
    assert raw.create(model="smol", messages=[{}, {"content": 7}]).http_response.json() == odd
    assert len(on_span(recorder)["gen_ai.output.messages"]) == 5
