"""Content is not parsed, kept or recorded unless an option turns it on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content import recorder as content_module
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_content import (
    EMIT,
    Recording,
    ask,
    on_span,
    stream,
)
from tests.support.recorder import Recorder

CHUNKS = payloads.chat_chunks()
SECRET = "c4n4ry-7f3a"


def talk_in_secret() -> None:
    """Send secrets in every place: prompts, responses, arguments, results, errors and streams."""
    reply = payloads.chat(
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
    ask(reply, **request)
    ask({"choices": SECRET, "usage": SECRET, "id": None, "error": SECRET}, **request)
    list(stream([payloads.chunk({"content": SECRET, "role": "assistant"})]))
    with stream([payloads.chunk({"content": SECRET})] * 3) as chunks:
        next(chunks)
    for status, error in ((400, openai.BadRequestError), (500, openai.InternalServerError)):
        body = {"error": {"message": SECRET, "param": SECRET, "code": f"{SECRET} {SECRET}"}}
        client = payloads.client(
            lambda _, status=status, body=body: payloads.json_response(body, status)
        )
        with pytest.raises(error):
            client.chat.completions.create(model="smol", **request)
    client = payloads.client(lambda _: payloads.json_response(payloads.completion()))
    client.completions.create(model="smol", prompt=SECRET, suffix=SECRET)
    client = payloads.client(lambda _: payloads.json_response(payloads.embeddings()))
    client.embeddings.create(model="smol", input=SECRET)


def all_that_was_recorded(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> str:
    spans = [span.to_json() for span in recorder.spans()]
    metrics = [metric.to_json() for metric in recorder.metrics().values()]
    events = [record.to_json() for record in recorder.events()]
    return "\n".join([*spans, *metrics, *events, caplog.text])


@pytest.mark.parametrize("emit", [None, "true"])
def test_telemetry_has_no_content_when_capture_is_off(
    instrument: Callable[..., None],
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    emit: str | None,
) -> None:
    if emit is not None:
        monkeypatch.setenv(EMIT, emit)
    internal_errors.set_strict(False)
    caplog.set_level(logging.DEBUG, "llamatelemetry")
    instrument()
    talk_in_secret()
    assert len(recorder.calls()) == 8
    assert len(recorder.events()) == (0 if emit is None else 7)
    assert SECRET not in all_that_was_recorded(recorder, caplog)


def test_canary_is_found_when_content_is_captured(
    instrument: Callable[..., None], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    instrument(capture_content="span_only")
    talk_in_secret()
    assert SECRET in all_that_was_recorded(recorder, caplog)
    has_secret = [SECRET in span.to_json() for span in recorder.calls()]
    assert has_secret == [True] * 7 + [False]  # The last call is the embeddings.


def test_content_is_not_parsed_when_call_is_not_recorded(
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


def test_event_is_not_created_without_logger_provider(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a logger provider, `event_only` costs as much as `no_content`."""
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


def test_unexpected_content_raises_no_error_into_application(
    instrument: Callable[..., None], recorder: Recorder
) -> None:
    """Internal errors are raised in tests instead of logged, and none is raised."""
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
    raw: Any = payloads.client(
        lambda _: payloads.json_response(odd)
    ).chat.completions.with_raw_response
    assert raw.create(model="smol", messages=[{}, {"content": 7}]).http_response.json() == odd
    assert len(on_span(recorder)["gen_ai.output.messages"]) == 5
