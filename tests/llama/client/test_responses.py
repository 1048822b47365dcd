"""`ChatResponse`: the server's JSON with attribute access."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from llamatelemetry.llama import ChatResponse
from llamatelemetry.llama.client.responses import parse_json

BODY = {
    "choices": [{"message": {"content": "Hi", "tool_calls": [{"function": {"name": "f"}}]}}],
    "timings": {"prompt_ms": 1.5},
    "nested": [[{"deep": 1}]],
    "items": "shadowed",
}

each_source = pytest.mark.parametrize(
    "response",
    [ChatResponse(BODY), ChatResponse(**BODY), parse_json(json.dumps(BODY).encode())],
    ids=["from a dict", "from keywords", "parsed"],
)


@each_source
def test_response_has_attribute_access_at_any_depth(response):
    assert isinstance(response, dict)
    assert response == BODY
    assert response.choices[0].message.content == "Hi"
    assert response["choices"][0].message.tool_calls[0].function.name == "f"
    assert response.timings.prompt_ms == 1.5
    assert response.nested[0][0].deep == 1


@each_source
def test_dict_methods_take_precedence_over_members(response):
    assert dict(response.items()) == BODY
    assert response["items"] == "shadowed"


@each_source
def test_unknown_attribute_raises_with_available_members(response):
    with pytest.raises(AttributeError, match=r"no 'nonsense' here; available: choices, timings"):
        _ = response.nonsense
    assert getattr(response, "nonsense", 5) == 5
    with pytest.raises(AttributeError):
        response.new = 1


@each_source
def test_optional_member_is_none_when_missing(response):
    assert response.usage is None
    assert response.choices[0].finish_reason is None
    assert "usage" not in response


@each_source
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, ChatResponse.copy, lambda one: pickle.loads(pickle.dumps(one))],
)
def test_copies_are_responses(response, duplicate):
    result = duplicate(response)
    assert result == response
    assert type(result) is ChatResponse
    assert result.choices[0].message.content == "Hi"


@each_source
def test_response_is_json_serializable(response):
    assert json.loads(json.dumps(response)) == BODY


def test_constructor_does_not_change_argument():
    body = {"choices": [{"message": {}}]}
    ChatResponse(body)
    assert type(body["choices"][0]) is dict


def test_dir_lists_members():
    assert {"choices", "keys"} <= set(dir(ChatResponse(BODY)))
