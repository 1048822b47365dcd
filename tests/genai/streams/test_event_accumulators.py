"""Accumulation of the typed events of responses, images and audio into a response."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import ErrorInfo, MediaAccumulator, Response, ResponsesAccumulator, Usage
from tests.support.json_strategies import REPLIES, TIMINGS

HEAD = {"id": "resp_1", "model": "/models/smol.gguf"}
CREATED = {"type": "response.created", "response": {**HEAD, "status": "in_progress"}}
USAGE = {"input_tokens": 7, "output_tokens": 3}
COMPLETED = {
    "type": "response.completed",
    "response": {**HEAD, "status": "completed", "usage": USAGE, "service_tier": "flex"},
}


def response_of(*events: Any, **options: Any) -> Response:
    accumulator = ResponsesAccumulator(**options)
    for event in events:
        accumulator.add(event)
    response = accumulator.response()
    response.read_content = None
    return response


def test_last_response_event_is_used():
    assert response_of(CREATED, COMPLETED) == Response(
        id="resp_1",
        model="smol.gguf",
        finish_reasons=("stop",),
        usage=Usage(7, 3),
        service_tier="flex",
    )


def test_interrupted_stream_has_id_and_model_of_first_event():
    assert response_of(CREATED) == Response(id="resp_1", model="smol.gguf")
    assert response_of() == Response()


def test_id_is_parsed_from_first_event_only():
    repeated = {"type": "response.in_progress", "response": {"id": "other"}}
    assert response_of(CREATED, repeated).id == "resp_1"
    assert response_of(repeated).id == "other"


def test_timings_are_parsed_from_created_stream_only():
    timings = {"prompt_n": 5, "prompt_ms": 2.0, "predicted_n": 3, "predicted_ms": 4.0}
    response = response_of({**COMPLETED, "timings": timings})
    assert response.timings is not None
    assert response.timings.prefill_ms == 2.0
    assert response_of({**COMPLETED, "timings": timings}, fetched=True).timings is None


def test_fetched_stream_has_status_and_no_usage():
    response = response_of(CREATED, COMPLETED, fetched=True)
    assert response.status == "completed"
    assert response.usage == Usage()


@pytest.mark.parametrize(
    ("event", "error_type"),
    [
        ({"type": "error", "code": "rate_limit", "message": "SECRET"}, "rate_limit"),
        ({"type": "error", "error": {"code": None, "type": "server_error"}}, "server_error"),
        ({"type": "error", "error": "SECRET message"}, "_OTHER"),
        (
            {"type": "response.failed", "response": {**HEAD, "error": {"code": "server_error"}}},
            "server_error",
        ),
    ],
)
def test_error_event_is_recorded_without_message(event, error_type):
    assert response_of(CREATED, event).error == ErrorInfo(
        error_type, f"reported by the server: {error_type}"
    )


@pytest.mark.parametrize(
    ("event", "carries_token"),
    [
        ({"type": "response.output_text.delta", "delta": "a"}, True),
        ({"type": "response.output_text.delta", "delta": ""}, False),
        ({"type": "response.reasoning_summary_text.delta", "delta": "a"}, True),
        ({"type": "response.function_call_arguments.delta", "delta": "{"}, True),
        ({"type": "response.output_text.done", "text": "a"}, False),
        (CREATED, False),
        (COMPLETED, False),
        ({"delta": "a"}, False),
    ],
)
def test_delta_event_with_content_carries_token(event, carries_token):
    assert ResponsesAccumulator().add(event) is carries_token


def test_compaction_item_marks_response_as_compacted():
    item = {"type": "response.output_item.done", "item": {"type": "compaction"}}
    assert response_of(CREATED, item).compacted is True
    assert response_of(CREATED, item, COMPLETED).compacted is True
    assert response_of(CREATED, {**item, "item": {"type": "message"}}).compacted is None


@pytest.mark.parametrize(
    ("event", "carries_token"),
    [
        ({"type": "image_generation.partial_image", "b64_json": "aGk="}, True),
        ({"type": "image_edit.completed", "usage": USAGE}, True),
        ({"type": "transcript.text.delta", "delta": "a"}, True),
        ({"type": "speech.audio.delta", "audio": "aGk="}, True),
        ({"type": "transcript.text.done", "usage": USAGE}, False),
        ({"usage": USAGE}, False),
    ],
)
def test_image_and_audio_events_carry_token(event, carries_token):
    assert MediaAccumulator().add(event) is carries_token


def test_media_stream_has_usage_of_final_event():
    accumulator = MediaAccumulator()
    for event in (
        {"type": "transcript.text.delta", "delta": "a"},
        {"type": "transcript.text.done", "usage": USAGE},
        {"type": "error", "error": {"code": "too_long"}},
    ):
        accumulator.add(event)
    assert accumulator.model is None
    assert accumulator.response().usage == Usage(7, 3)
    assert accumulator.response().error == ErrorInfo("too_long", "reported by the server: too_long")


KINDS = st.sampled_from(
    [
        *("response.created", "response.completed", "response.failed", "response.output_item.done"),
        *("response.output_text.delta", "error", "image_edit.completed", ""),
    ]
)
EVENTS = st.one_of(
    REPLIES,
    st.fixed_dictionaries(
        {"type": st.one_of(KINDS, REPLIES)},
        optional={
            "response": REPLIES,
            "item": REPLIES,
            "delta": REPLIES,
            "usage": REPLIES,
            "timings": TIMINGS,
            "error": REPLIES,
            "code": REPLIES,
        },
    ),
)


@given(events=st.lists(EVENTS, max_size=6), fetched=st.booleans())
def test_any_events_are_accepted(events, fetched):
    response = response_of(*events, fetched=fetched)
    assert response.id is None or isinstance(response.id, str)
    media = MediaAccumulator()
    for event in events:
        media.add(event)
    assert isinstance(media.response(), Response)
