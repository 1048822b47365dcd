"""Requests of the OpenAI wire format: their parameters become span attributes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import parse_choice_count, parse_parameters
from tests.support.json_strategies import exportable, json_values

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
# Fields that are not recorded, among them all that may contain personal data.
IGNORED = {
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
def test_parse_parameters_returns_attribute_of_specified_type(name):
    value, attribute, expected = PARAMETERS[name]
    attributes = parse_parameters({name: value})
    assert attributes == {attribute: expected}
    assert type(attributes[attribute]) is type(expected)


def test_parse_parameters_ignores_content_and_other_fields():
    body = {name: value for name, (value, _, _) in PARAMETERS.items()} | IGNORED
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
        ("text", {"format": {"type": "json_schema"}}, {"gen_ai.output.type": "json"}),
        ("text", {"verbosity": "low"}, {}),
        ("text", "secret", {}),
        ("modalities", ["text", "audio"], {"gen_ai.output.type": "speech"}),
        ("modalities", ["text"], {}),
        ("reasoning", {"effort": "low"}, {"gen_ai.request.reasoning.level": "low"}),
        ("reasoning", "low", {}),
        ("previous_response_id", "r", {"gen_ai.request.previous_response.id": "r"}),
        ("conversation", "c", {"gen_ai.conversation.id": "c"}),
        ("conversation", {"id": "c"}, {"gen_ai.conversation.id": "c"}),
        ("prompt", {"id": "p"}, {"gen_ai.prompt.name": "p"}),
        ("response_format", {}, {}),
        ("temperature", math.nan, {}),
        ("seed", 2**64, {}),
    ],
)
def test_parse_parameters_omits_defaults_and_normalizes_values(name, value, expected):
    assert parse_parameters({name: value}) == expected


WRONG_TYPES: dict[str, list[Any]] = {
    "number": ["0.5", True, None, [0.5], {"a": 1}, object()],
    "integer": ["5", 5.0, True, None, [5], object()],
    "text": [5, "", b"low", None, ["low"], {"a": "low"}],
}


@pytest.mark.parametrize(
    ("name", "expected_type"),
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
def test_parse_parameters_omits_parameter_of_wrong_type(name, expected_type):
    for value in WRONG_TYPES[expected_type]:
        assert parse_parameters({name: value}) == {}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parse_parameters_does_not_consume_iterator(name):
    iterator = iter(["a", "b"])
    assert parse_parameters({name: iterator}) == {}
    assert list(iterator) == ["a", "b"]


@given(st.dictionaries(st.sampled_from([*PARAMETERS, *IGNORED]), json_values(max_leaves=4)))
def test_any_request_body_has_exportable_attributes(body):
    attributes = parse_parameters(body)
    assert set(attributes) <= {attribute for _, attribute, _ in PARAMETERS.values()}
    assert all(exportable(value) for value in attributes.values())


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 1),
        ({"prompt": "Hi"}, 1),
        ({"prompt": ["Hi", "Ho"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": ["Hi", 5]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": ["Hi", "Ho"], "n": 3}, 6),
        ({"n": 3}, 3),
        ({"n_cmpl": 4}, 4),
        ({"n": 0}, 1),
        ({"n": "many", "prompt": 7}, 1),
    ],
)
def test_parse_choice_count_multiplies_prompts_and_choices(
    body: dict[str, Any], count: int
) -> None:
    assert parse_choice_count(body) == count
