"""Accumulation of the content of a stream of the Responses API."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.genai import Content, ResponsesAccumulator
from llamatelemetry.genai.content.limits import limit_messages
from llamatelemetry.genai.content.responses_accumulator import ResponsesContentAccumulator
from llamatelemetry.genai.content.responses_messages import parse_responses_content
from tests.genai.conftest import recorded_messages
from tests.genai.responses_api import (
    TEXT,
    function_call,
    message,
    response,
)


def delta(name: str, text: str, output_index: int = 0, content_index: int = 0) -> dict[str, Any]:
    return {
        "type": f"response.{name}.delta",
        "output_index": output_index,
        "content_index": content_index,
        "delta": text,
    }


def added(item: dict[str, Any], output_index: int, *, done: bool = False) -> dict[str, Any]:
    event_type = f"response.output_item.{'done' if done else 'added'}"
    return {"type": event_type, "output_index": output_index, "item": item}


INTERRUPTED = [
    {"type": "response.created", "response": response(status="in_progress")},
    added({"type": "reasoning", "id": "rs", "summary": []}, 0),
    delta("reasoning_summary_text", "H"),
    delta("reasoning_summary_text", "m."),
    added(
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}, 0, done=True
    ),
    added(message(), 1),
    delta("output_text", "He", 1),
    delta("output_text", "llo", 1),
    delta("refusal", "No", 1, 1),
    added(function_call(arguments=""), 2),
    delta("function_call_arguments", '{"city": ', 2),
]


def content_of(events: list[dict[str, Any]], max_chars: int = 1000) -> Content:
    accumulator = ResponsesContentAccumulator(max_chars)
    for event in events:
        accumulator.add(event)
    return accumulator.content()


def test_interrupted_stream_has_content_received_so_far() -> None:
    assert recorded_messages(content_of(INTERRUPTED).outputs) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Hello"},
                {"type": "text", "content": "No", "refusal": True},
                {
                    "type": "tool_call",
                    "id": "call-1",
                    "name": "weather",
                    "arguments": '{"city": ',
                },
            ],
        }
    ]


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
def test_finished_stream_has_content_of_final_event(status: str) -> None:
    final_response = response(message(TEXT), status=status)
    last = {"type": f"response.{status}", "response": final_response}
    assert content_of([*INTERRUPTED, last]) == parse_responses_content(final_response)


@pytest.mark.parametrize("fetched", [False, True])
def test_fetched_stream_alone_has_the_instructions(fetched: bool) -> None:
    # The request that creates a response has them already.
    accumulator = ResponsesAccumulator(1000, fetched=fetched)
    last = response(message(TEXT), instructions="Be brief")
    accumulator.add({"type": "response.completed", "response": last})
    read = accumulator.response().read_content
    assert read is not None
    expected = [{"type": "text", "content": "Be brief"}] if fetched else []
    assert list(read().instructions) == expected


def test_text_beyond_limit_is_counted_and_not_kept() -> None:
    events = [added(message(), 0), *(delta("output_text", "abc") for _ in range(100))]
    (parsed,) = limit_messages(content_of(events, 10).outputs, 10)
    assert parsed["parts"] == [
        {"type": "text", "content": "abcabcabc…", "truncated": True, "original_chars": 300}
    ]
    done = added(message({"type": "output_text", "text": "abc" * 100}), 0, done=True)
    kept = content_of([*events, done], 10).outputs
    assert kept[0]["parts"][0]["content"] == "abcabcabc…"  # Truncated on arrival.
    (parsed,) = limit_messages(kept, 10)
    assert parsed["parts"] == [
        {"type": "text", "content": "abcabcabc…", "truncated": True, "original_chars": 300}
    ]


@pytest.mark.parametrize("fetched", [False, True])
def test_stream_keeps_no_content_when_capture_is_off(fetched: bool) -> None:
    final_response = response(message(TEXT))
    for max_chars in (None, 10):
        accumulator = ResponsesAccumulator(max_chars, fetched=fetched)
        for event in [*INTERRUPTED, {"type": "response.completed", "response": final_response}]:
            accumulator.add(event)
        parsed = accumulator.response().read_content
        assert (parsed is None) is (max_chars is None)


def test_number_of_items_and_parts_is_bounded() -> None:
    events = [delta("output_text", "a", index, index) for index in range(5000)]
    (parsed,) = content_of(events).outputs
    assert len(parsed["parts"]) == 256
    (parsed,) = content_of([delta("output_text", "a", 0, index) for index in range(5000)]).outputs
    assert len(parsed["parts"]) == 256
