"""Token counts in every spelling that servers have for them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given

from llamatelemetry.genai import EngineTimings
from llamatelemetry.genai.wire.openai_chat import find_usage, parse_usage
from tests.genai.strategies import REPLIES

TIMINGS = EngineTimings(5, 2.0, 6, 4.0, cached_tokens=16)


def known(usage: Any, timings: EngineTimings | None = None) -> dict[str, int]:
    read = asdict(parse_usage(usage, timings))
    return {name: value for name, value in read.items() if value is not None}


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
def test_read_usage_parses_every_spelling(usage, expected):
    assert known(usage) == expected


def test_read_usage_fills_missing_counts_from_timings():
    whole = {"input_tokens": 21, "output_tokens": 6, "cache_read_tokens": 16}
    assert known(None, TIMINGS) == whole
    assert known({"prompt_tokens": 30}, TIMINGS) == {**whole, "input_tokens": 30}
    assert known({"completion_tokens": 0}, TIMINGS) == {**whole, "output_tokens": 0}


USAGE = {"prompt_tokens": 21}


@pytest.mark.parametrize(
    "reply",
    [
        {"usage": USAGE, "x_groq": {"usage": {}}},
        {"usage": None, "x_groq": {"id": "req_1", "usage": USAGE}},
        {"choices": [{"usage": USAGE}]},
    ],
)
def test_find_usage_finds_every_location(reply):
    assert find_usage(reply) == USAGE


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": 3}, {"x_groq": {}}, None, "x"])
def test_find_usage_returns_none_when_missing(reply):
    assert find_usage(reply) is None


@given(reply=REPLIES)
def test_read_usage_accepts_any_value(reply):
    for usage in (reply, find_usage(reply)):
        assert all(type(value) is int and value >= 0 for value in known(usage).values())
