"""Streams of typed events: what they add up to, whatever becomes of them."""

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


def folded(*events: Any, **options: Any) -> Response:
    fold = ResponsesAccumulator(**options)
    for event in events:
        fold.add(event)
    response = fold.response()
    response.read_content = None
    return response


def test_the_last_response_is_what_counts():
    assert folded(CREATED, COMPLETED) == Response(
        id="resp_1",
        model="smol.gguf",
        finish_reasons=("stop",),
        usage=Usage(7, 3),
        service_tier="flex",
    )


def test_a_stream_that_was_broken_off_has_the_names_of_its_first_event():
    assert folded(CREATED) == Response(id="resp_1", model="smol.gguf")
    assert folded() == Response()


def test_what_is_repeated_while_a_response_is_made_is_not_read_again():
    again = {"type": "response.in_progress", "response": {"id": "other"}}
    assert folded(CREATED, again).id == "resp_1"
    assert folded(again).id == "other"


def test_timings_stand_beside_the_response():
    timings = {"prompt_n": 5, "prompt_ms": 2.0, "predicted_n": 3, "predicted_ms": 4.0}
    response = folded({**COMPLETED, "timings": timings})
    assert response.timings is not None
    assert response.timings.prefill_ms == 2.0
    assert folded({**COMPLETED, "timings": timings}, fetched=True).timings is None


def test_of_a_fetched_response_the_status_is_told_and_the_tokens_are_not():
    response = folded(CREATED, COMPLETED, fetched=True)
    assert response.status == "completed"
    assert response.usage == Usage()


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "error", "code": "rate_limit", "message": "SECRET"}, "rate_limit"),
        ({"type": "error", "error": {"code": None, "type": "server_error"}}, "server_error"),
        ({"type": "error", "error": "SECRET words"}, "_OTHER"),
        (
            {"type": "response.failed", "response": {**HEAD, "error": {"code": "server_error"}}},
            "server_error",
        ),
    ],
)
def test_an_error_that_is_told_is_kept_without_its_words(event, kind):
    assert folded(CREATED, event).error == ErrorInfo(kind, f"reported by the server: {kind}")


@pytest.mark.parametrize(
    ("event", "carries"),
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
def test_a_delta_with_something_in_it_is_a_token(event, carries):
    assert ResponsesAccumulator().add(event) is carries


def test_a_conversation_that_is_summed_up_on_the_way_stays_so():
    item = {"type": "response.output_item.done", "item": {"type": "compaction"}}
    assert folded(CREATED, item).compacted is True
    assert folded(CREATED, item, COMPLETED).compacted is True
    assert folded(CREATED, {**item, "item": {"type": "message"}}).compacted is None


@pytest.mark.parametrize(
    ("event", "carries"),
    [
        ({"type": "image_generation.partial_image", "b64_json": "aGk="}, True),
        ({"type": "image_edit.completed", "usage": USAGE}, True),
        ({"type": "transcript.text.delta", "delta": "a"}, True),
        ({"type": "speech.audio.delta", "audio": "aGk="}, True),
        ({"type": "transcript.text.done", "usage": USAGE}, False),
        ({"usage": USAGE}, False),
    ],
)
def test_a_piece_of_an_image_or_of_a_sound_is_what_was_asked_for(event, carries):
    assert MediaAccumulator().add(event) is carries


def test_media_count_their_tokens_at_the_end():
    fold = MediaAccumulator()
    for event in (
        {"type": "transcript.text.delta", "delta": "a"},
        {"type": "transcript.text.done", "usage": USAGE},
        {"type": "error", "error": {"code": "too_long"}},
    ):
        fold.add(event)
    assert fold.model is None
    assert fold.response().usage == Usage(7, 3)
    assert fold.response().error == ErrorInfo("too_long", "reported by the server: too_long")


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
def test_any_events_fold_without_error(events, fetched):
    response = folded(*events, fetched=fetched)
    assert response.id is None or isinstance(response.id, str)
    media = MediaAccumulator()
    for event in events:
        media.add(event)
    assert isinstance(media.response(), Response)
