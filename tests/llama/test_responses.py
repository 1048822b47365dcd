"""A reply is the server's JSON, and reads by attribute."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from llamatelemetry.llama import ChatResponse
from llamatelemetry.llama._endpoints import read_metrics
from llamatelemetry.llama._responses import parse

BODY = {
    "choices": [{"message": {"content": "Hi", "tool_calls": [{"function": {"name": "f"}}]}}],
    "timings": {"prompt_ms": 1.5},
    "nested": [[{"deep": 1}]],
    "items": "shadowed",
}

made = pytest.mark.parametrize(
    "response",
    [ChatResponse(BODY), ChatResponse(**BODY), parse(json.dumps(BODY).encode())],
    ids=["from a dict", "from keywords", "parsed"],
)


@made
def test_it_is_the_dict_and_reads_by_attribute_at_any_depth(response):
    assert isinstance(response, dict)
    assert response == BODY
    assert response.choices[0].message.content == "Hi"
    assert response["choices"][0].message.tool_calls[0].function.name == "f"
    assert response.timings.prompt_ms == 1.5
    assert response.nested[0][0].deep == 1


@made
def test_methods_of_a_dict_come_before_keys(response):
    assert dict(response.items()) == BODY
    assert response["items"] == "shadowed"


@made
def test_a_missing_attribute_is_an_attribute_error_that_says_what_there_is(response):
    with pytest.raises(AttributeError, match=r"no 'nonsense' here; it has choices, timings"):
        _ = response.nonsense
    assert getattr(response, "nonsense", 5) == 5
    with pytest.raises(AttributeError):
        response.new = 1


@made
def test_what_comes_and_goes_is_none_when_it_is_not_there(response):
    assert response.usage is None
    assert response.choices[0].finish_reason is None
    assert "usage" not in response


@made
@pytest.mark.parametrize(
    "same",
    [copy.copy, copy.deepcopy, ChatResponse.copy, lambda one: pickle.loads(pickle.dumps(one))],
)
def test_copies_and_pickles_are_of_the_same_kind(response, same):
    twin = same(response)
    assert twin == response
    assert type(twin) is ChatResponse
    assert twin.choices[0].message.content == "Hi"


@made
def test_it_goes_back_to_json(response):
    assert json.loads(json.dumps(response)) == BODY


def test_making_one_leaves_what_it_is_made_of_alone():
    body = {"choices": [{"message": {}}]}
    ChatResponse(body)
    assert type(body["choices"][0]) is dict


def test_keys_show_in_dir():
    assert {"choices", "keys"} <= set(dir(ChatResponse(BODY)))


def test_metrics_are_read_whatever_stands_between_them():
    text = """# HELP llamacpp:n_decode_total Total number
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 22
llamacpp:ratio 1.5e-05 1700000000
other{position="1 2",x="}"} 7
broken
llamacpp:not_a_number x

"""
    assert read_metrics(text) == {
        "n_decode_total": 22,
        "ratio": 1.5e-05,
        'other{position="1 2",x="}"}': 7,
    }
