"""Token counts under every field name that servers use, and their correction for llama.cpp."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given

from llamatelemetry.genai import EngineTimings, Request, Usage, parse_response
from llamatelemetry.genai.wire.openai_chat import correct_undercount, find_usage, parse_usage
from tests.support.json_strategies import REPLIES

TIMINGS = EngineTimings(5, 2.0, 6, 4.0, cached_tokens=16)


def known_counts(usage: Any, timings: EngineTimings | None = None) -> dict[str, int]:
    counts = asdict(parse_usage(usage, timings))
    return {name: value for name, value in counts.items() if value is not None}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 21, "completion_tokens": 5}, {"input_tokens": 21, "output_tokens": 5}),
        ({"input_tokens": 21, "output_tokens": 5}, {"input_tokens": 21, "output_tokens": 5}),
        ({"prompt_tokens": 0, "input_tokens": 9}, {"input_tokens": 0}),
        ({"seconds": 3.5, "type": "duration"}, {}),
        (
            {"prompt_tokens": 21, "prompt_cache_hit_tokens": 16, "prompt_cache_miss_tokens": 5},
            {"input_tokens": 21, "cache_read_tokens": 16},
        ),
        (
            {
                "prompt_tokens": 21,
                "prompt_cache_hit_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 16},
            },
            {"input_tokens": 21, "cache_read_tokens": 16},
        ),
        (
            {"cache_read_input_tokens": 4, "cache_creation_input_tokens": 3},
            {"cache_read_tokens": 4, "cache_write_tokens": 3},
        ),
        (
            {
                "input_token_details": {
                    "text_tokens": 1,
                    "image_tokens": 2,
                    "audio_tokens": 3,
                    "cached_tokens": 6,
                    "cache_write_tokens": 7,
                    "cached_tokens_details": {
                        "text_tokens": 4,
                        "image_tokens": 5,
                        "audio_tokens": 8,
                    },
                },
                "output_token_details": {
                    "text_tokens": 9,
                    "image_tokens": 10,
                    "audio_tokens": 11,
                    "reasoning_tokens": 12,
                },
            },
            {
                "text_input_tokens": 1,
                "image_input_tokens": 2,
                "audio_input_tokens": 3,
                "text_cache_read_tokens": 4,
                "image_cache_read_tokens": 5,
                "audio_cache_read_tokens": 8,
                "cache_read_tokens": 6,
                "cache_write_tokens": 7,
                "text_output_tokens": 9,
                "image_output_tokens": 10,
                "audio_output_tokens": 11,
                "reasoning_tokens": 12,
            },
        ),
        ({"prompt_tokens": "21", "completion_tokens": -5, "prompt_tokens_details": [3]}, {}),
        (None, {}),
        (7, {}),
    ],
)
def test_parse_usage_accepts_every_field_name(usage, expected):
    assert known_counts(usage) == expected


def test_parse_usage_takes_missing_counts_from_timings():
    whole = {"input_tokens": 21, "output_tokens": 6, "cache_read_tokens": 16}
    assert known_counts(None, TIMINGS) == whole
    assert known_counts({"prompt_tokens": 30}, TIMINGS) == {**whole, "input_tokens": 30}
    assert known_counts({"completion_tokens": 0}, TIMINGS) == {**whole, "output_tokens": 0}


USAGE = {"prompt_tokens": 21}


@pytest.mark.parametrize(
    "body",
    [
        {"usage": USAGE, "x_groq": {"usage": {}}},
        {"usage": None, "x_groq": {"id": "req_1", "usage": USAGE}},
        {"choices": [{"usage": USAGE}]},
    ],
)
def test_find_usage_finds_every_location(body):
    assert find_usage(body) == USAGE


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": 3}, {"x_groq": {}}, None, "x"])
def test_find_usage_returns_none_when_missing(body):
    assert find_usage(body) is None


@given(body=REPLIES)
def test_parse_usage_accepts_any_value(body):
    for usage in (body, find_usage(body)):
        assert all(type(value) is int and value >= 0 for value in known_counts(usage).values())


LLAMA_CPP_TIMINGS = {
    "cache_n": 9,
    "prompt_n": 1,
    "prompt_ms": 7.0,
    "predicted_n": 3,
    "predicted_ms": 24.0,
}
TWO_CHOICES: Any = {"gen_ai.request.choice.count": 2}


def response_with_choices(count: int) -> dict[str, Any]:
    return {
        "model": "smol",
        "choices": [{"index": index, "finish_reason": "stop"} for index in range(count)],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
        "timings": LLAMA_CPP_TIMINGS,
    }


def test_correct_undercount_drops_output_tokens_of_first_choice_only() -> None:
    response = parse_response(response_with_choices(2))
    correct_undercount(
        response, Request("chat", "llama_cpp", choice_count=2, parameters=TWO_CHOICES)
    )
    assert response.usage == Usage(input_tokens=10, output_tokens=None, cache_read_tokens=9)


def test_correct_undercount_drops_input_tokens_when_request_has_several_prompts() -> None:
    for parameters, choice_count in (({}, 2), (TWO_CHOICES, 4)):
        response = parse_response(response_with_choices(choice_count))
        request = Request("text_completion", "llama_cpp", parameters={**parameters})
        request.choice_count = choice_count
        correct_undercount(response, request)
        assert response.usage == Usage()


def test_correct_undercount_keeps_count_of_all_choices() -> None:
    body = response_with_choices(2)
    body["usage"] = {"prompt_tokens": 10, "completion_tokens": 7}
    response = parse_response(body)
    correct_undercount(response, Request("chat", "llama_cpp", choice_count=2))
    assert response.usage.output_tokens == 7


def test_correct_undercount_keeps_count_for_one_choice_or_without_timings() -> None:
    for body, choice_count in (
        (response_with_choices(1), 1),
        (response_with_choices(2) | {"timings": None}, 2),
    ):
        response = parse_response(body)
        correct_undercount(response, Request("chat", "llama_cpp", choice_count=choice_count))
        assert response.usage.output_tokens == 3


def with_reasoning(output: int, reasoning: int, total: int | None) -> dict[str, Any]:
    return {
        "prompt_tokens": 20,
        "completion_tokens": output,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@pytest.mark.parametrize(
    ("usage", "output_tokens"),
    [
        pytest.param(with_reasoning(100, 80, 120), 100, id="OpenAI: included"),
        pytest.param(with_reasoning(100, 80, 200), 180, id="xAI: counted separately"),
        pytest.param(with_reasoning(100, 80, None), 100, id="no total"),
        pytest.param(with_reasoning(100, 80, 150), 100, id="another total"),
        pytest.param(with_reasoning(100, 0, 120), 100, id="no reasoning"),
        pytest.param(with_reasoning(5, 80, None), 85, id="more reasoning than output"),
        pytest.param(
            {
                "prompt_tokens": 33,
                "completion_tokens": 7163,
                "total_tokens": 7196,
                "reasoning_tokens": 73995,
            },
            81158,
            id="Perplexity: beside the totals",
        ),
        pytest.param(
            {
                "input_tokens": 20,
                "output_tokens": 100,
                "total_tokens": 200,
                "output_tokens_details": {"reasoning_tokens": 80},
            },
            180,
            id="Responses API",
        ),
    ],
)
def test_reasoning_tokens_are_part_of_output_tokens(
    usage: dict[str, Any], output_tokens: int
) -> None:
    assert known_counts(usage)["output_tokens"] == output_tokens


def test_counts_with_a_fraction_of_zero_are_counts() -> None:
    usage = {
        "prompt_tokens": 20.0,
        "completion_tokens": 5.0,
        "prompt_tokens_details": {"cached_tokens": 16.0},
    }
    assert known_counts(usage) == {
        "input_tokens": 20,
        "output_tokens": 5,
        "cache_read_tokens": 16,
    }
    assert known_counts({"prompt_tokens": 20.5, "completion_tokens": float("inf")}) == {}
