"""Responses and streams of llama.cpp's native completion endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from llamatelemetry.genai import (
    LlamaCppAccumulator,
    Response,
    Usage,
    parse_native_completion,
)
from tests.support.json_strategies import json_values

TIMINGS = {"cache_n": 9, "prompt_n": 1, "prompt_ms": 7.0, "predicted_n": 3, "predicted_ms": 24.0}


def native(**changes: Any) -> dict[str, Any]:
    return {
        "index": 0,
        "content": " runs",
        "id_slot": 1,
        "stop": True,
        "model": "/models/smol.gguf",
        "tokens_predicted": 3,
        "tokens_evaluated": 10,
        "prompt": "SECRET",
        "generation_settings": {"seed": 1},
        "truncated": False,
        "stop_type": "limit",
        "timings": TIMINGS,
        **changes,
    }


def test_parse_native_completion_returns_all_fields() -> None:
    response = parse_native_completion(native())
    assert response.model == "smol.gguf"
    assert response.finish_reasons == ("length",)
    assert response.usage == Usage(input_tokens=10, output_tokens=3, cache_read_tokens=9)
    assert response.timings is not None
    assert response.timings.prefill_ms == 7.0
    assert response.attributes == {"llamatelemetry.slot": 1}


@pytest.mark.parametrize(
    ("stop_type", "reasons"),
    [("eos", ("stop",)), ("word", ("stop",)), ("limit", ("length",)), ("none", ()), (None, ())],
)
def test_stop_type_becomes_finish_reason_of_chat(stop_type: Any, reasons: Any) -> None:
    assert parse_native_completion(native(stop_type=stop_type)).finish_reasons == reasons


def test_unfinished_choice_beside_a_finished_one_has_the_reason_error() -> None:
    response = parse_native_completion([native(), native(index=1, stop_type="none")])
    assert response.finish_reasons == ("length", "error")


def test_error_of_plain_response_is_returned_without_message() -> None:
    error = parse_native_completion({"error": {"code": 503, "message": "SECRET"}}).error
    assert error is not None
    assert error.type == "503"
    assert "SECRET" not in error.description


def test_truncated_prompt_is_an_attribute() -> None:
    assert (
        parse_native_completion(native(truncated=True)).attributes["llamatelemetry.truncated"]
        is True
    )


def test_missing_fields_are_unknown() -> None:
    assert parse_native_completion({"content": " runs"}) == Response()


def test_tokens_of_several_prompts_are_added() -> None:
    response = parse_native_completion(
        [native(), native(index=1, tokens_evaluated=5, stop_type="eos")]
    )
    assert response.finish_reasons == ("length", "stop")
    assert response.usage == Usage(input_tokens=15, output_tokens=6, cache_read_tokens=18)


def test_prompt_is_counted_once_when_it_has_several_choices() -> None:
    response = parse_native_completion([native(), native(index=1)], answers_per_prompt=2)
    assert response.usage == Usage(input_tokens=10, output_tokens=6, cache_read_tokens=9)


def test_sum_is_unknown_when_one_count_is_missing() -> None:
    response = parse_native_completion([native(), native(tokens_predicted=None)])
    assert response.usage.output_tokens is None


def native_chunk(content: str, predicted: int, index: int = 0) -> dict[str, Any]:
    return {
        "index": index,
        "content": content,
        "stop": False,
        "id_slot": -1,
        "tokens_predicted": predicted,
        "tokens_evaluated": 10,
    }


def test_stream_yields_same_response_as_plain_request() -> None:
    accumulator = LlamaCppAccumulator()
    progress = native_chunk("", 0) | {"prompt_progress": {"total": 10, "processed": 5}}
    token_flags = [
        accumulator.add(event)
        for event in (progress, native_chunk(" r", 1), native_chunk("uns", 2), native())
    ]
    assert token_flags == [False, True, True, True]
    assert accumulator.model == "/models/smol.gguf"
    assert accumulator.response() == parse_native_completion(native())


def test_interrupted_stream_has_counts_of_last_chunk() -> None:
    accumulator = LlamaCppAccumulator()
    for event in (native_chunk(" r", 1), native_chunk("uns", 2)):
        accumulator.add(event)
    assert accumulator.response() == Response(usage=Usage(input_tokens=10, output_tokens=2))


def test_stream_keeps_choices_separate() -> None:
    accumulator = LlamaCppAccumulator(answers_per_prompt=2)
    for event in (
        native_chunk("a", 1),
        native_chunk("b", 1, 1),
        native(),
        native(index=1, stop_type="eos"),
    ):
        accumulator.add(event)
    response = accumulator.response()
    assert response.finish_reasons == ("length", "stop")
    assert response.usage == Usage(input_tokens=10, output_tokens=6, cache_read_tokens=9)


def test_stream_has_the_content_of_each_choice() -> None:
    accumulator = LlamaCppAccumulator(content_max_chars=100)
    ends = [native(content=""), native(content="", index=1, stop_type="eos")]
    for event in (native_chunk("a", 1), native_chunk("b", 1, 1), native_chunk("c", 2), *ends):
        accumulator.add(event)
    read = accumulator.response().read_content
    assert read is not None
    assert read().outputs == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": text}],
            "finish_reason": reason,
        }
        for text, reason in (("ac", "length"), ("b", "stop"))
    ]


def test_error_in_stream_is_returned_without_message() -> None:
    accumulator = LlamaCppAccumulator()
    accumulator.add({"error": {"code": 500, "type": "server_error", "message": "SECRET"}})
    error = accumulator.response().error
    assert error is not None
    assert error.type == "server_error"
    assert "SECRET" not in error.description


@given(json_values())
def test_any_json_is_accepted(value: Any) -> None:
    parse_native_completion(value)
    accumulator = LlamaCppAccumulator()
    accumulator.add(value)
    accumulator.add({"index": value, "stop": value, "timings": value})
    accumulator.response()
