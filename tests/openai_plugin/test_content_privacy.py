"""Nothing of what was said is read, kept or recorded unless somebody asked."""

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
from tests.openai_plugin import replies
from tests.openai_plugin.content import (
    EMIT,
    Recording,
    ask,
    on_span,
    stream,
)
from tests.recorder import Recorder

CHUNKS = replies.chat_chunks()
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
    internal_errors.set_strict(False)
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
