"""Requests and responses of the OpenAI wire format, as JSON and as openai's own models."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from llamatelemetry.genai import EngineTimings, Response, Usage, parse_parameters, parse_response
from llamatelemetry.genai.wire.openai_chat import parse_timings
from tests.support.json_strategies import REPLIES, TIMINGS, exportable, json_values

# --- requests -----------------------------------------------------------------------------

PARAMETERS: dict[str, tuple[Any, str, Any]] = {
    "temperature": (0.7, "gen_ai.request.temperature", 0.7),
    "top_p": (1, "gen_ai.request.top_p", 1.0),
    "top_k": (40, "gen_ai.request.top_k", 40),
    "max_tokens": (128, "gen_ai.request.max_tokens", 128),
    "max_completion_tokens": (64, "gen_ai.request.max_tokens", 64),
    "frequency_penalty": (-0.5, "gen_ai.request.frequency_penalty", -0.5),
    "presence_penalty": (0, "gen_ai.request.presence_penalty", 0.0),
    "seed": (-1, "gen_ai.request.seed", -1),
    "stop": (["a", "b"], "gen_ai.request.stop_sequences", ("a", "b")),
    "n": (3, "gen_ai.request.choice.count", 3),
    "response_format": ({"type": "json_object"}, "gen_ai.output.type", "json"),
    "service_tier": ("flex", "openai.request.service_tier", "flex"),
    "reasoning_effort": ("low", "gen_ai.request.reasoning.level", "low"),
    "dimensions": (256, "gen_ai.embeddings.dimension.count", 256),
    "encoding_format": ("base64", "gen_ai.request.encoding_formats", ("base64",)),
}
# What an application sends beside them, and what may quote a person: none of it is read.
UNREAD = {
    "model": "smol",
    "messages": [{"role": "user", "content": "secret"}],
    "prompt": "secret",
    "input": ["secret"],
    "tools": [{"type": "function"}],
    "user": "jane",
    "metadata": {"a": "secret"},
    "stream": True,
    "stream_options": {"include_usage": True},
    "logit_bias": {"1": 2},
    "min_p": 0.1,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_becomes_its_attribute_with_the_type_of_the_conventions(name):
    value, attribute, expected = PARAMETERS[name]
    found = parse_parameters({name: value})
    assert found == {attribute: expected}
    assert type(found[attribute]) is type(expected)


def test_a_whole_request_is_read_in_full_and_nothing_else_of_it():
    body = {name: value for name, (value, _, _) in PARAMETERS.items()} | UNREAD
    before = copy.deepcopy(body)
    assert parse_parameters(body) == {
        attribute: expected for _, attribute, expected in PARAMETERS.values()
    }
    assert body == before


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("stop", "END", {"gen_ai.request.stop_sequences": ("END",)}),
        ("stop", ("END",), {"gen_ai.request.stop_sequences": ("END",)}),
        ("stop", ["a", 5, None], {"gen_ai.request.stop_sequences": ("a",)}),
        ("stop", [], {}),
        ("stop", "", {}),
        ("n", 1, {}),
        ("n", 2, {"gen_ai.request.choice.count": 2}),
        ("service_tier", "auto", {}),
        ("service_tier", "default", {"openai.request.service_tier": "default"}),
        ("response_format", {"type": "text"}, {"gen_ai.output.type": "text"}),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x"}},
            {"gen_ai.output.type": "json"},
        ),
        ("response_format", {"type": "grammar"}, {}),
        ("response_format", {}, {}),
        ("temperature", math.nan, {}),
        ("seed", 2**64, {}),
    ],
)
def test_parameters_with_rules_of_their_own(name, value, expected):
    assert parse_parameters({name: value}) == expected


WRONG: dict[str, list[Any]] = {
    "number": ["0.5", True, None, [0.5], {"a": 1}, object()],
    "integer": ["5", 5.0, True, None, [5], object()],
    "text": [5, "", b"low", None, ["low"], {"a": "low"}],
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("temperature", "number"),
        ("top_p", "number"),
        ("frequency_penalty", "number"),
        ("presence_penalty", "number"),
        ("top_k", "integer"),
        ("max_tokens", "integer"),
        ("max_completion_tokens", "integer"),
        ("seed", "integer"),
        ("n", "integer"),
        ("dimensions", "integer"),
        ("service_tier", "text"),
        ("reasoning_effort", "text"),
        ("encoding_format", "text"),
        ("response_format", "text"),
    ],
)
def test_a_parameter_of_the_wrong_type_gives_nothing(name, kind):
    for value in WRONG[kind]:
        assert parse_parameters({name: value}) == {}


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_iterator_is_never_consumed(name):
    given_by_the_application = iter(["a", "b"])
    assert parse_parameters({name: given_by_the_application}) == {}
    assert list(given_by_the_application) == ["a", "b"]


@given(st.dictionaries(st.sampled_from([*PARAMETERS, *UNREAD]), json_values(max_leaves=4)))
def test_any_request_body_gives_attributes_that_can_be_exported(body):
    found = parse_parameters(body)
    assert set(found) <= {attribute for _, attribute, _ in PARAMETERS.values()}
    assert all(exportable(value) for value in found.values())


# --- responses ----------------------------------------------------------------------------

ENGINE = {
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
READ_ENGINE = EngineTimings(
    prompt_tokens=7,
    prefill_ms=21.5,
    predicted_tokens=4,
    decode_ms=33.0,
    cached_tokens=5,
    drafted_tokens=3,
    accepted_tokens=2,
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
    "timings": ENGINE,
}
READ_CHAT = Response(
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
    timings=READ_ENGINE,
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
    ("reply", "expected"),
    [
        (CHAT, READ_CHAT),
        (ChatCompletion.model_validate(CHAT), READ_CHAT),
        (ChatCompletion.construct(**CHAT), READ_CHAT),
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
def test_a_reply_reads_the_same_as_json_and_as_a_model(reply, expected):
    assert parse_response(reply) == expected


@pytest.mark.parametrize("reply", [None, {}, [], "garbage", 5, b"{}", object(), {"usage": None}])
def test_what_is_no_reply_reads_as_nothing_known(reply):
    assert parse_response(reply) == Response()


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
def test_there_is_one_finish_reason_per_choice(reasons, expected):
    reply = {"choices": [{"finish_reason": reason} for reason in reasons]}
    assert parse_response(reply).finish_reasons == expected


@pytest.mark.parametrize("choices", [None, "stop", {"finish_reason": "stop"}, [None], ["stop"], 5])
def test_odd_choices_have_no_finish_reasons(choices):
    assert parse_response({"choices": choices}).finish_reasons == ()


def without(source: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name not in names}


@pytest.mark.parametrize(
    ("timings", "expected"),
    [
        (ENGINE, READ_ENGINE),
        (
            without(ENGINE, "cache_n", "draft_n", "draft_n_accepted"),
            EngineTimings(7, 21.5, 4, 33.0),
        ),
        ({**ENGINE, "cache_n": -1, "draft_n": 0.5}, EngineTimings(7, 21.5, 4, 33.0, None, None, 2)),
        ({**ENGINE, "prompt_ms": 0, "predicted_ms": 0}, EngineTimings(7, 0.0, 4, 0.0, 5, 3, 2)),
        (without(ENGINE, "prompt_n"), None),
        (without(ENGINE, "prompt_ms"), None),
        (without(ENGINE, "predicted_n"), None),
        (without(ENGINE, "predicted_ms"), None),
        ({**ENGINE, "prompt_n": -7}, None),
        ({**ENGINE, "predicted_n": -1}, None),
        ({**ENGINE, "prompt_ms": -0.1}, None),
        ({**ENGINE, "predicted_ms": -0.1}, None),
        ({**ENGINE, "prompt_ms": math.nan}, None),
        ({**ENGINE, "predicted_ms": math.inf}, None),
        ({**ENGINE, "predicted_ms": 1e300}, None),
        ({**ENGINE, "prompt_ms": "21.5"}, None),
        ({}, None),
        ([], None),
        ("fast", None),
        (None, None),
        ({"save_ms": 5.0}, None),
    ],
)
def test_timings_are_read_whole_or_not_at_all(timings, expected):
    assert parse_timings(timings) == expected
    assert parse_response({"timings": timings}).timings == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # A llama.cpp chat stream without include_usage: everything comes from the timings.
        (None, Usage(input_tokens=12, output_tokens=4, cache_read_tokens=5)),
        ({}, Usage(input_tokens=12, output_tokens=4, cache_read_tokens=5)),
        # The usage is believed where it says something.
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
def test_the_timings_stand_in_for_the_usage_that_a_stream_does_not_send(usage, expected):
    assert parse_response({"usage": usage, "timings": ENGINE}).usage == expected


def test_without_a_cached_count_the_prompt_is_what_was_evaluated():
    reply = {"timings": without(ENGINE, "cache_n")}
    assert parse_response(reply).usage == Usage(input_tokens=7, output_tokens=4)


def test_neither_usage_nor_timings_is_unknown_and_not_zero():
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
def test_details_of_the_usage_are_optional_one_by_one(details, expected):
    assert parse_response({"usage": details}).usage == expected


def values_of(response: Response) -> list[Any]:
    usage, timings = response.usage, response.timings
    found = [response.id, response.model, response.service_tier, response.system_fingerprint]
    found += [getattr(usage, name) for name in Usage.__slots__]
    if timings is not None:
        found += [getattr(timings, name) for name in EngineTimings.__slots__]
    return [value for value in [*found, response.finish_reasons] if value is not None]


@given(REPLIES)
def test_any_reply_is_read_without_error_into_what_can_be_exported(reply):
    assert all(exportable(value) for value in values_of(parse_response(reply)))


@given(TIMINGS)
def test_any_timings_that_are_accepted_are_finite_and_not_negative(timings):
    found = parse_timings(timings)
    if found is not None:
        assert 0 <= found.prefill_ms < math.inf
        assert 0 <= found.decode_ms < math.inf
        assert found.prompt_tokens >= 0
        assert found.predicted_tokens >= 0
