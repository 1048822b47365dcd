"""The complete span attributes of each operation, with their types."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_operations import (
    CASES,
    IGNORE_DEPRECATED,
    OPERATIONS,
    VERSION,
    Caller,
    Operation,
)
from tests.support.recorder import Recorder

pytestmark = IGNORE_DEPRECATED
SERVER = {"server.address": "llm.test", "server.port": 8080, "gen_ai.provider.name": "openai"}
CHAT_USAGE = {
    "gen_ai.usage.input_tokens": 21,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.cache_read.input_tokens": 16,
    "gen_ai.usage.reasoning.output_tokens": 2,
}
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "smol",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.model": "smol-v1",
    "gen_ai.response.finish_reasons": ("stop",),
    "openai.api.type": "chat_completions",
    **CHAT_USAGE,
    **SERVER,
}
RESPONSES = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "smol",
    "gen_ai.response.id": "resp_1",
    "gen_ai.response.model": "smol-v1",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.cache_write.input_tokens": 3,
    "openai.api.type": "responses",
    "openai.response.service_tier": "default",
    **CHAT_USAGE,
    **SERVER,
}
IMAGES = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.request.model": "paint",
    "gen_ai.output.type": "image",
    "gen_ai.usage.input_tokens": 50,
    "gen_ai.usage.output_tokens": 30,
    "gen_ai.usage.text.input_tokens": 10,
    "gen_ai.usage.image.input_tokens": 40,
    "gen_ai.usage.text.output_tokens": 0,
    "gen_ai.usage.image.output_tokens": 30,
    **SERVER,
}
TRANSCRIPT = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.request.model": "ear",
    "gen_ai.output.type": "text",
    "gen_ai.usage.input_tokens": 14,
    "gen_ai.usage.output_tokens": 9,
    "gen_ai.usage.text.input_tokens": 2,
    "gen_ai.usage.audio.input_tokens": 12,
    **SERVER,
}
EXPECTED: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "chat-parse": {**CHAT, "gen_ai.output.type": "json"},
    "text_completion": {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "smol",
        "gen_ai.response.id": "cmpl-1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("length",),
        **CHAT_USAGE,
        **SERVER,
    },
    "embeddings": {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "smol",
        "gen_ai.request.encoding_formats": ("float",),
        "gen_ai.response.model": "embed-v1",
        "gen_ai.usage.input_tokens": 7,
        **SERVER,
    },
    "responses": RESPONSES,
    "responses-parse": {**RESPONSES, "gen_ai.output.type": "json"},
    "fetch_response": {
        "gen_ai.operation.name": "fetch_response",
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.status": "completed",
        "gen_ai.response.finish_reasons": ("stop",),
        "openai.api.type": "responses",
        "openai.response.service_tier": "default",
        **SERVER,
    },
    "image_generation": {**IMAGES, "llamatelemetry.task": "image_generation"},
    "image_edit": {**IMAGES, "llamatelemetry.task": "image_edit"},
    "image_variation": {**IMAGES, "llamatelemetry.task": "image_variation"},
    "speech": {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.request.model": "voice",
        "gen_ai.output.type": "speech",
        "llamatelemetry.task": "speech",
        **SERVER,
    },
    "transcription": {**TRANSCRIPT, "llamatelemetry.task": "transcription"},
    "speech_translation": {**TRANSCRIPT, "llamatelemetry.task": "speech_translation"},
    "moderation": {
        "gen_ai.request.model": "mod",
        "gen_ai.response.id": "modr-1",
        "gen_ai.response.model": "mod-v1",
        "llamatelemetry.task": "moderation",
        **SERVER,
    },
}


@pytest.mark.parametrize(("operation", "is_async", "stream"), CASES)
async def test_span_has_exactly_the_attributes_of_its_operation(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    await Caller(is_async, lambda _: operation.reply(stream)).run(operation, stream)
    span = instrumented.call()
    found = dict(span.attributes or {})
    expected = dict(EXPECTED[operation.name])
    if stream and operation.is_measured:
        expected["gen_ai.request.stream"] = True
        assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in expected.items()
    }
    assert span.kind is SpanKind.CLIENT
    assert not span.events


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_span_has_own_operation_name_when_strict_names_are_off(
    recorder: Recorder, operation: Operation
) -> None:
    config = LlamaTelemetryConfig(strict_operation_names=False)
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        await Caller(False, lambda _: operation.reply(False)).run(operation, False)
    finally:
        OpenAIInstrumentor().uninstrument()
    span = recorder.call()
    expected = EXPECTED[operation.name]
    name = expected.get("llamatelemetry.task", expected.get("gen_ai.operation.name"))
    assert dict(span.attributes or {}) == {**expected, "gen_ai.operation.name": name}
    model = expected.get("gen_ai.request.model")
    assert span.name == (f"{name} {model}" if model else name)
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert duration.attributes["gen_ai.operation.name"] == name


def test_moderation_records_no_metric_without_operation_name(
    instrumented: Recorder,
) -> None:
    payloads.client(lambda _: payloads.json_response(payloads.moderation())).moderations.create(
        input="Hi"
    )
    assert instrumented.call().name == "moderation"
    assert instrumented.metrics() == {}


needs_responses = pytest.mark.skipif(VERSION < (1, 66), reason="this client has no responses")


@needs_responses
def test_fetch_response_records_duration_but_no_tokens(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.response()))
    client.responses.retrieve("resp_1")
    assert set(instrumented.metrics()) == {"gen_ai.client.operation.duration"}
    (duration,) = instrumented.points("gen_ai.client.operation.duration")
    assert dict(duration.attributes) == {
        "gen_ai.operation.name": "fetch_response",
        "gen_ai.provider.name": "openai",
        "gen_ai.response.model": "smol-v1",
        "openai.response.service_tier": "default",
        "server.address": "llm.test",
        "server.port": 8080,
    }


@needs_responses
def test_span_records_request_parameters_of_responses_api(instrumented: Recorder) -> None:
    reply = payloads.response(
        model="/models/smol.gguf",
        service_tier="flex",
        conversation={"id": "conv_1"},
        status="incomplete",
        incomplete_details={"reason": "max_output_tokens"},
    )
    payloads.client(lambda _: payloads.json_response(reply)).responses.create(
        model="smol",
        input=[{"role": "user", "content": "Hi"}],
        instructions="Be kind.",
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=5,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "g", "schema": {"type": "object"}}},
        service_tier="flex",
        previous_response_id="resp_0",
        extra_body={
            "top_k": 40,
            "seed": 7,
            "conversation": {"id": "conv_1"},
            "prompt": {"id": "pmpt_1", "version": "2", "variables": {"name": "SECRET"}},
        },
    )
    span = instrumented.call()
    assert "SECRET" not in span.to_json()
    assert dict(span.attributes or {}) == {
        **RESPONSES,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.seed": 7,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.request.previous_response.id": "resp_0",
        "gen_ai.output.type": "json",
        "gen_ai.conversation.id": "conv_1",
        "gen_ai.prompt.name": "pmpt_1",
        "gen_ai.prompt.version": "2",
        "gen_ai.response.model": "smol.gguf",
        "gen_ai.response.finish_reasons": ("length",),
        "openai.request.service_tier": "flex",
        "openai.response.service_tier": "flex",
    }


_SUMMARY = {"type": "compaction", "id": "cmp_1", "encrypted_content": "SECRET"}


@needs_responses
@pytest.mark.parametrize("where", ["input", "output", "stream"])
def test_span_marks_compacted_conversation(instrumented: Recorder, where: str) -> None:
    requested: list[Any] = [{"role": "user", "content": "Hi"}]
    if where == "stream":
        item = {"type": "response.output_item.done", "output_index": 0, "item": _SUMMARY}
        events = [*payloads.response_events()[:2], {**item, "sequence_number": 2}]
        client = payloads.client(
            lambda _: payloads.stream_response(payloads.sse(events, done=False))
        )
        list(client.responses.create(model="smol", input=requested, stream=True))
    else:
        output = [_SUMMARY] if where == "output" else []
        client = payloads.client(lambda _: payloads.json_response(payloads.response(output=output)))
        client.responses.create(
            model="smol", input=[_SUMMARY, *requested] if where == "input" else requested
        )
    span = instrumented.call()
    assert (span.attributes or {})["gen_ai.conversation.compacted"] is True
    assert "SECRET" not in span.to_json()


_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@needs_responses
@pytest.mark.parametrize(
    ("reply", "reasons"),
    [
        ({"status": "completed"}, ("stop",)),
        ({"status": "completed", "output": [_CALL]}, ("tool_calls",)),
        ({"status": "incomplete"}, ("incomplete",)),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            ("content_filter",),
        ),
        ({"status": "cancelled"}, ("error",)),
        ({"status": "in_progress"}, None),
        ({"status": "queued"}, None),
        ({"status": None}, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_finish_reason_is_derived_from_response_status(
    instrumented: Recorder, reply: dict[str, Any], reasons: Any, stream: bool
) -> None:
    body = payloads.sse(payloads.response_events(**reply), done=False)
    client = payloads.client(
        lambda _: (
            payloads.stream_response(body)
            if stream
            else payloads.json_response(payloads.response(**reply))
        )
    )
    result = client.responses.create(model="smol", input="Hi", stream=stream)
    if stream:
        list(result)
    span = instrumented.call()
    assert (span.attributes or {}).get("gen_ai.response.finish_reasons") == reasons
    assert "gen_ai.response.status" not in (span.attributes or {})


_FAILED = {"status": "failed", "error": {"code": "server_error", "message": "SECRET"}}


@needs_responses
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_call_fails_when_response_has_status_failed(instrumented: Recorder, stream: bool) -> None:
    """The client raises nothing; only the status in the response is `failed`."""
    events = [*payloads.response_events()[:-1]]
    events.append({"type": "response.failed", "response": payloads.response(**_FAILED)})
    client = payloads.client(
        lambda _: (
            payloads.stream_response(payloads.sse(events, done=False))
            if stream
            else payloads.json_response(payloads.response(**_FAILED))
        )
    )
    result = client.responses.create(model="smol", input="Hi", stream=stream)
    if stream:
        list(result)
    span = instrumented.call()
    found = span.attributes or {}
    assert not span.status.is_ok
    assert found["error.type"] == "server_error"
    assert found["gen_ai.response.finish_reasons"] == ("error",)
    assert found["gen_ai.usage.output_tokens"] == 5
    assert "SECRET" not in span.to_json()
    (duration,) = instrumented.points("gen_ai.client.operation.duration")
    assert duration.attributes["error.type"] == "server_error"


@needs_responses
def test_fetch_response_succeeds_when_fetched_response_has_failed(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.response(**_FAILED)))
    client.responses.retrieve("resp_1")
    span = instrumented.call()
    assert span.status.is_unset
    assert (span.attributes or {})["gen_ai.response.status"] == "failed"
    assert (span.attributes or {})["gen_ai.response.finish_reasons"] == ("error",)


@needs_responses
def test_error_event_of_responses_api_fails_call(instrumented: Recorder) -> None:
    """The client passes the event on like any other event."""
    error = {
        "type": "error",
        "code": "rate_limit_exceeded",
        "message": "SECRET",
        "param": None,
        "sequence_number": 3,
    }
    body = payloads.sse([*payloads.response_events()[:3], error], done=False)
    client = payloads.client(lambda _: payloads.stream_response(body))
    assert len(list(client.responses.create(model="smol", input="Hi", stream=True))) == 4
    span = instrumented.call()
    assert not span.status.is_ok
    assert (span.attributes or {})["error.type"] == "rate_limit_exceeded"
    assert "SECRET" not in span.to_json()


@pytest.mark.skipif(VERSION < (1, 88), reason="this client fetches no streams")
def test_resumed_stream_records_its_cursor(instrumented: Recorder) -> None:
    requested: list[Any] = []

    def handler(request: Any) -> Any:
        requested.append(request.url.params)
        return payloads.stream_response(payloads.sse(payloads.response_events(), done=False))

    client = payloads.client(handler)
    list(client.responses.retrieve("resp_1", stream=True, starting_after=3))
    assert requested[0]["starting_after"] == "3"
    found = dict(instrumented.call().attributes or {})
    assert found["gen_ai.request.stream_cursor"] == "3"
    assert set(instrumented.metrics()) == {"gen_ai.client.operation.duration"}


@needs_responses
def test_fetch_response_records_requested_id_when_it_fails(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.error_response(404, type="not_found_error"))
    with pytest.raises(Exception, match="SECRET"):
        client.responses.retrieve("resp_1")
    found = instrumented.call().attributes or {}
    assert found["gen_ai.response.id"] == "resp_1"
    assert found["error.type"] == "not_found_error"
    assert found["http.response.status_code"] == 404


@needs_responses
def test_subresources_of_a_response_are_not_recorded(instrumented: Recorder) -> None:
    items = {"object": "list", "data": [], "has_more": False}
    client = payloads.client(lambda _: payloads.json_response(items))
    list(client.responses.input_items.list("resp_1"))
    client.responses.delete("resp_1")
    client.files.list()
    client.batches.list()
    assert instrumented.spans() == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"n": 2}, {"gen_ai.request.choice.count": 2}),
        ({"n": 1}, {}),
        ({"modalities": ["text", "audio"]}, {"gen_ai.output.type": "speech"}),
        ({"modalities": ["text"]}, {}),
        ({"response_format": {"type": "text"}}, {"gen_ai.output.type": "text"}),
        ({"response_format": {"type": "grammar"}}, {}),
        ({"service_tier": "auto"}, {}),
        ({"stop": "END"}, {"gen_ai.request.stop_sequences": ("END",)}),
        ({"n_predict": 9}, {"gen_ai.request.max_tokens": 9}),
        ({"n_predict": -1}, {}),
        ({"top_logprobs": 3}, {}),
        ({"reasoning": {"effort": "high"}}, {"gen_ai.request.reasoning.level": "high"}),
        ({"temperature": "hot", "seed": True, "top_p": None}, {}),
    ],
    ids=json.dumps,
)
def test_parameters_in_extra_body_are_recorded(
    instrumented: Recorder, body: dict[str, Any], found: dict[str, Any]
) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES, extra_body=body)
    assert dict(instrumented.call().attributes or {}) == {**CHAT, **found}


def test_model_in_extra_body_is_recorded_as_request_model(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    client.chat.completions.create(
        model="smol", messages=payloads.MESSAGES, extra_body={"model": "other"}
    )
    assert instrumented.call().name == "chat other"
