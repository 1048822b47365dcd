"""Responses of the OpenAI wire format, as JSON and as models of the openai client."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from llamatelemetry.genai import EngineTimings, Response, Usage, parse_response
from llamatelemetry.genai.engines import parse_timings
from tests.genai.engines.formats import FORMATS
from tests.support.json_strategies import REPLIES, TIMINGS, exportable

LLAMA_CPP_TIMINGS = {
    "cache_n": 5,
    "prompt_n": 7,
    "prompt_ms": 21.5,
    "prompt_per_token_ms": 3.07,
    "prompt_per_second": 325.6,
    "predicted_n": 4,
    "predicted_ms": 33.0,
    "predicted_per_token_ms": 11.0,
    "predicted_per_second": 90.9,
    "draft_n": 3,
    "draft_n_accepted": 2,
}
LLAMA_CPP: dict[str, Any] = {"provider": "llama_cpp", "is_queue_derivable": True}
PARSED_TIMINGS = EngineTimings(
    prompt_tokens=7,
    prefill_ms=21.5,
    predicted_tokens=4,
    decode_ms=33.0,
    cached_tokens=5,
    drafted_tokens=3,
    accepted_tokens=2,
    **LLAMA_CPP,
)
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "/models/smol.gguf",
    "system_fingerprint": "b1-abc",
    "service_tier": "default",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}},
        {"index": 1, "finish_reason": "length", "message": {"role": "assistant", "content": "Ho"}},
    ],
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 9,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 1, "cache_write_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 4},
    },
    "timings": LLAMA_CPP_TIMINGS,
}
PARSED_CHAT = Response(
    id="chatcmpl-1",
    model="smol.gguf",
    finish_reasons=("stop", "length"),
    usage=Usage(
        input_tokens=12,
        output_tokens=9,
        cache_read_tokens=5,
        cache_write_tokens=2,
        reasoning_tokens=3,
        audio_input_tokens=1,
        audio_output_tokens=4,
    ),
    timings=PARSED_TIMINGS,
    provider="llama_cpp",
    service_tier="default",
    system_fingerprint="b1-abc",
)
EMBEDDINGS = {
    "object": "list",
    "model": "smol",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 4, "total_tokens": 4},
}
COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "smol",
    "choices": [{"index": 0, "finish_reason": "length", "text": "Hi", "logprobs": None}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CHAT, PARSED_CHAT),
        (ChatCompletion.model_validate(CHAT), PARSED_CHAT),
        (ChatCompletion.construct(**CHAT), PARSED_CHAT),
        (
            CreateEmbeddingResponse.model_validate(EMBEDDINGS),
            Response(model="smol", usage=Usage(input_tokens=4)),
        ),
        (
            Completion.model_validate(COMPLETION),
            Response(
                id="cmpl-1",
                model="smol",
                finish_reasons=("length",),
                usage=Usage(input_tokens=1, output_tokens=2),
            ),
        ),
    ],
    ids=["json", "model_validate", "construct", "embeddings", "completion"],
)
def test_parse_response_accepts_json_and_models_of_client(body, expected):
    assert parse_response(body) == expected


@pytest.mark.parametrize("body", [None, {}, [], "garbage", 5, b"{}", object(), {"usage": None}])
def test_parse_response_of_invalid_body_is_empty(body):
    assert parse_response(body) == Response()


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (["stop"], ("stop",)),
        (["stop", None], ("stop", "error")),
        ([None, ""], ()),
        ([], ()),
        ([5], ()),
        (["tool_calls", "stop", "length"], ("tool_calls", "stop", "length")),
    ],
)
def test_finish_reasons_has_one_entry_per_choice(reasons, expected):
    body = {"choices": [{"finish_reason": reason} for reason in reasons]}
    assert parse_response(body).finish_reasons == expected


@pytest.mark.parametrize("choices", [None, "stop", {"finish_reason": "stop"}, [None], ["stop"], 5])
def test_invalid_choices_have_no_finish_reasons(choices):
    assert parse_response({"choices": choices}).finish_reasons == ()


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ({"choices": [{"finish_reason": "error", "error": {"code": 502}}]}, "502"),
        ({"choices": [{"finish_reason": "stop"}, {"finish_reason": "error"}]}, "_OTHER"),
        ({"choices": [{"finish_reason": "stop"}], "error": {"code": 502}}, "502"),
        ({"choices": [{"finish_reason": "error", "error": {}}], "error": {"code": 502}}, "502"),
        ({"choices": [], "object": "error", "code": 400}, "400"),
    ],
)
def test_error_of_response_or_of_choice_is_its_error(body: dict[str, Any], error_type: str) -> None:
    error = parse_response(body).error
    assert error is not None
    assert error.type == error_type


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("parse", [dict, ChatCompletion.model_validate])
def test_figures_of_each_engine_are_read(parse: Any, name: str) -> None:
    fields, usage, expected = FORMATS[name]
    choice = {**CHAT["choices"][0], **fields.get("choices", [{}])[0]}
    chat = without(CHAT, "timings", "system_fingerprint")
    body = {**chat, **fields, "choices": [choice], "usage": usage or None}
    assert parse_response(parse(body)).timings == expected


def without(source: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name not in names}


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        (LLAMA_CPP_TIMINGS, PARSED_TIMINGS),
        (
            without(LLAMA_CPP_TIMINGS, "cache_n", "draft_n", "draft_n_accepted"),
            EngineTimings(7, 21.5, 4, 33.0, **LLAMA_CPP),
        ),
        (
            {**LLAMA_CPP_TIMINGS, "cache_n": -1, "draft_n": 0.5},
            EngineTimings(7, 21.5, 4, 33.0, None, None, 2, **LLAMA_CPP),
        ),
        (
            {**LLAMA_CPP_TIMINGS, "prompt_ms": 0, "predicted_ms": 0},
            EngineTimings(7, 0.0, 4, 0.0, 5, 3, 2, **LLAMA_CPP),
        ),
        (without(LLAMA_CPP_TIMINGS, "prompt_n"), None),
        (without(LLAMA_CPP_TIMINGS, "prompt_ms"), None),
        (without(LLAMA_CPP_TIMINGS, "predicted_n"), None),
        (without(LLAMA_CPP_TIMINGS, "predicted_ms"), None),
        ({**LLAMA_CPP_TIMINGS, "prompt_n": -7}, None),
        ({**LLAMA_CPP_TIMINGS, "predicted_n": -1}, None),
        ({**LLAMA_CPP_TIMINGS, "prompt_ms": -0.1}, None),
        ({**LLAMA_CPP_TIMINGS, "predicted_ms": -0.1}, None),
        ({**LLAMA_CPP_TIMINGS, "prompt_ms": math.nan}, None),
        ({**LLAMA_CPP_TIMINGS, "predicted_ms": math.inf}, None),
        ({**LLAMA_CPP_TIMINGS, "predicted_ms": 1e300}, None),
        ({**LLAMA_CPP_TIMINGS, "prompt_ms": "21.5"}, None),
        ({}, None),
        ([], None),
        ("fast", None),
        (None, None),
        ({"save_ms": 5.0}, None),
    ],
)
def test_parse_timings_returns_none_when_required_field_is_missing_or_invalid(timings, expected):
    assert parse_timings(timings) == expected
    assert parse_response({"timings": timings}).timings == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # A llama.cpp chat stream without include_usage: everything comes from the timings.
        (None, Usage(input_tokens=12, output_tokens=4, cache_read_tokens=5)),
        ({}, Usage(input_tokens=12, output_tokens=4, cache_read_tokens=5)),
        # Counts of the usage take precedence over the timings.
        (
            {"prompt_tokens": 100, "completion_tokens": 50},
            Usage(input_tokens=100, output_tokens=50, cache_read_tokens=5),
        ),
        (
            {"prompt_tokens": 0, "completion_tokens": 0}
            | {"prompt_tokens_details": {"cached_tokens": 0}},
            Usage(input_tokens=0, output_tokens=0, cache_read_tokens=0),
        ),
        ({"prompt_tokens": 100}, Usage(input_tokens=100, output_tokens=4, cache_read_tokens=5)),
        ({"prompt_tokens": "many"}, Usage(input_tokens=12, output_tokens=4, cache_read_tokens=5)),
    ],
)
def test_usage_takes_missing_counts_from_timings(usage, expected):
    assert parse_response({"usage": usage, "timings": LLAMA_CPP_TIMINGS}).usage == expected


def test_input_tokens_are_evaluated_tokens_when_cached_count_is_missing():
    body = {"timings": without(LLAMA_CPP_TIMINGS, "cache_n")}
    assert parse_response(body).usage == Usage(input_tokens=7, output_tokens=4)


def test_usage_is_unknown_when_usage_and_timings_are_missing():
    assert parse_response({"id": "x"}).usage == Usage()


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"prompt_tokens_details": None}, Usage()),
        ({"prompt_tokens_details": []}, Usage()),
        ({"prompt_tokens_details": {"cached_tokens": None}}, Usage()),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, Usage(cache_read_tokens=0)),
        ({"completion_tokens_details": {"reasoning_tokens": -1}}, Usage()),
        ({"completion_tokens_details": {"reasoning_tokens": 8}}, Usage(reasoning_tokens=8)),
    ],
)
def test_each_usage_detail_is_optional(details, expected):
    assert parse_response({"usage": details}).usage == expected


def values_of(response: Response) -> list[Any]:
    usage, timings = response.usage, response.timings
    values = [response.id, response.model, response.service_tier, response.system_fingerprint]
    values += [getattr(usage, name) for name in Usage.__slots__]
    if timings is not None:
        values += [getattr(timings, name) for name in EngineTimings.__slots__]
    return [value for value in [*values, response.finish_reasons] if value is not None]


@given(REPLIES)
def test_any_response_has_exportable_values(body):
    assert all(exportable(value) for value in values_of(parse_response(body)))


@given(TIMINGS)
def test_accepted_timings_are_finite_and_not_negative(timings):
    parsed = parse_timings(timings)
    if parsed is not None:
        assert 0 <= parsed.prefill_ms < math.inf
        assert 0 <= parsed.decode_ms < math.inf
        assert parsed.prompt_tokens >= 0
        assert parsed.predicted_tokens >= 0
