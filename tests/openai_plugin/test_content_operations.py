"""Content of the Responses API, of operations without content, and of nested calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import Content, Instrumenter, Request, Response
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_content import CONTENT, Recording, ask, event, in_event, of, on_span
from tests.support.openai_operations import IGNORE_DEPRECATED, OPERATIONS, VERSION, Operation
from tests.support.recorder import Recorder

needs_responses = pytest.mark.skipif(VERSION < (1, 66), reason="this client has no responses")
FETCHES_STREAMS = VERSION >= (1, 88)
SENT: dict[str, Any] = {
    "model": "smol",
    "instructions": "Be brief.",
    "input": [{"role": "user", "content": "Hi"}],
    "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
}
EXPECTED = {
    "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
    "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}],
    "gen_ai.tool.definitions": [{"type": "function", "name": "f", "parameters": {}}],
    "gen_ai.output.messages": [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": '{"greeting": "Hi"}'}],
            "finish_reason": "stop",
        }
    ],
}


def responses(reply: Any) -> Any:
    return payloads.client(lambda _: reply).responses


@needs_responses
def test_response_records_instructions_separately_from_messages(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_and_event")
    responses(payloads.json_response(payloads.response())).create(**SENT)
    assert on_span(recorder) == EXPECTED
    assert in_event(recorder) == EXPECTED


@needs_responses
def test_content_of_streamed_response_equals_content_of_plain_one(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    body = payloads.sse(payloads.response_events(), done=False)
    assert len(list(responses(payloads.stream_response(body)).create(**SENT, stream=True))) == 7
    assert on_span(recorder) == EXPECTED


@needs_responses
def test_content_of_response_stream_closed_early_is_recorded_up_to_close(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    instrument(capture_content="span_only")
    body = payloads.sse(payloads.response_events(), done=False)
    with responses(payloads.stream_response(body)).create(**SENT, stream=True) as events:
        for _ in range(5):
            next(events)
    assert on_span(recorder)["gen_ai.output.messages"] == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": '{"greeting"'}],
            "finish_reason": "unknown",
        }
    ]


@needs_responses
@pytest.mark.parametrize("streamed", [False, True] if FETCHES_STREAMS else [False])
def test_fetched_response_records_output_and_no_event(
    instrument: Callable[..., None], recorder: Recorder, streamed: bool
) -> None:
    instrument(capture_content="span_and_event")
    more = {"instructions": "Be brief.", "tools": SENT["tools"]}
    if streamed:
        body = payloads.sse(payloads.response_events(**more), done=False)
        list(responses(payloads.stream_response(body)).retrieve("resp_1", stream=True))
    else:
        responses(payloads.json_response(payloads.response(**more))).retrieve("resp_1")
    recorded = {name: value for name, value in EXPECTED.items() if name != "gen_ai.input.messages"}
    assert on_span(recorder) == recorded
    assert recorder.events() == []


@needs_responses
@pytest.mark.parametrize("streamed", [False, True])
def test_content_of_raw_response_is_recorded_when_read(
    instrument: Callable[..., None], recorder: Recorder, streamed: bool
) -> None:
    instrument(capture_content="span_only")
    if streamed:
        body = payloads.sse(payloads.response_events(), done=False)
        raw = responses(payloads.stream_response(body)).with_streaming_response
        with raw.create(**SENT, stream=True) as response:
            assert b"".join(response.iter_bytes()) == body
    else:
        raw = responses(payloads.json_response(payloads.response())).with_streaming_response
        with raw.create(**SENT) as response:
            response.read()
    assert on_span(recorder) == EXPECTED


@IGNORE_DEPRECATED
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_only_text_operations_record_content(
    instrument: Callable[..., None], recorder: Recorder, operation: Operation
) -> None:
    hook = Recording()
    instrument(hook, capture_content="span_and_event")
    operation.call(payloads.client(lambda _: operation.reply(stream=False)))
    found = set(on_span(recorder))
    talks = {"gen_ai.input.messages", "gen_ai.output.messages"} <= found
    assert talks is (operation.span_name.split()[0] in {"chat", "text_completion"})
    assert len(recorder.events()) == talks
    is_fetched = operation.name == "fetch_response"
    assert bool(found) is (talks or is_fetched)
    assert len(hook.calls) == (talks or is_fetched)


def test_event_of_unsampled_call_has_request_parameters(recorder: Recorder) -> None:
    providers = {
        **recorder.providers,
        "tracer_provider": TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False),
    }
    OpenAIInstrumentor().instrument(
        **providers, config=LlamaTelemetryConfig(capture_content="event_only")
    )
    try:
        ask(temperature=0.5)
    finally:
        OpenAIInstrumentor().uninstrument()
    recorded = of(event(recorder))
    assert recorded["gen_ai.request.temperature"] == 0.5
    assert recorded["gen_ai.usage.input_tokens"] == 21


def test_content_is_left_to_enclosing_call_of_other_instrumentation(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    hook = Recording()
    instrument(hook, capture_content="span_and_event")
    tracer = recorder.tracer_provider.get_tracer("their.framework")
    other_attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
    with tracer.start_as_current_span(
        "chat smol", kind=SpanKind.CLIENT, attributes=other_attributes
    ):
        ask()
    (span,) = recorder.calls()
    assert not set(span.attributes or {}) & set(CONTENT)
    assert recorder.events() == []
    assert hook.calls == []


def test_content_is_recorded_once_when_two_plugins_record_call(recorder: Recorder) -> None:
    hooks = Recording(), Recording()
    config = LlamaTelemetryConfig(capture_content="span_and_event")
    outer_plugin, inner_plugin = (
        Instrumenter(name, "1", config=config, completion_hook=hook, **recorder.providers)
        for name, hook in zip(("outer", "inner"), hooks, strict=True)
    )

    def content_of(text: str) -> Content:
        return Content(
            outputs=[
                {
                    "role": "assistant",
                    "parts": [{"type": "text", "content": text}],
                    "finish_reason": "stop",
                }
            ]
        )

    def request() -> Request:
        return Request("chat", "openai", "smol", read_content=Content)

    outer = outer_plugin.start(request())
    assert outer is not None
    token = outer.activate()
    inner = inner_plugin.start(request())
    assert inner is not None
    assert inner.content_max_chars is None
    inner.finish(Response(read_content=lambda: content_of("nested")))
    outer.deactivate(token)
    # The values of the enclosing plugin take precedence, if it could parse the response.
    outer.finish(Response())
    assert on_span(recorder) == {"gen_ai.output.messages": content_of("nested").outputs}
    assert in_event(recorder) == {"gen_ai.output.messages": content_of("nested").outputs}
    assert [len(hook.calls) for hook in hooks] == [1, 0]
