"""Single fields out of anything: the promised type or None, never an error."""

from __future__ import annotations

import math
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from llamatelemetry.genai import json_access as fields
from tests.support.json_strategies import SCALARS, TEXTS, exportable, json_values

TIMINGS = {"prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 2, "predicted_ms": 2.5}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "smol",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    "timings": TIMINGS,
    "__verbose": {"prompt": "secret"},
}

READERS = {
    "text": (fields.as_str, lambda v: isinstance(v, str) and v != "" and exportable(v)),
    "count": (fields.as_count, lambda v: type(v) is int and 0 <= v <= 2**53),
    "integer": (fields.as_int, lambda v: type(v) is int and abs(v) < 2**63),
    "number": (fields.as_float, lambda v: type(v) is float and math.isfinite(v)),
    "model_name": (fields.model_name, lambda v: isinstance(v, str) and v != "" and exportable(v)),
}


@pytest.mark.parametrize(("read", "promised"), READERS.values(), ids=READERS)
@given(value=st.one_of(SCALARS, json_values()))
def test_any_value_gives_the_promised_type_or_none(read, promised, value):
    found = read(value)
    assert found is None or promised(found)


@given(value=json_values())
def test_any_value_has_items_and_a_mapping(value):
    assert fields.as_list(value) == (value if isinstance(value, list) else ())
    assert fields.as_dict(value) == (value if isinstance(value, dict) else {})


@given(source=json_values(), name=TEXTS)
def test_any_value_can_be_asked_for_any_field(source, name):
    expected = source.get(name) if isinstance(source, dict) else None
    found = fields.get_field(source, name)
    assert found is expected or found == expected or (found != found and expected != expected)  # noqa: PLR0124 - NaN


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (fields.as_str, "a", "a"),
        (fields.as_str, "", None),
        (fields.as_str, b"a", None),
        (fields.as_str, 1, None),
        (fields.as_str, "\ud800", None),
        (fields.as_str, "日本語 🦙", "日本語 🦙"),
        (fields.as_count, 0, 0),
        (fields.as_count, 5, 5),
        (fields.as_count, -1, None),
        (fields.as_count, True, None),
        (fields.as_count, 5.0, None),
        (fields.as_count, "5", None),
        (fields.as_count, 2**53, 2**53),
        (fields.as_count, 2**53 + 1, None),
        (fields.as_int, -5, -5),
        (fields.as_int, False, None),
        (fields.as_int, 2**63 - 1, 2**63 - 1),
        (fields.as_int, 2**63, None),
        (fields.as_int, 1 - 2**63, 1 - 2**63),
        (fields.as_int, -(2**63) - 1, None),
        (fields.as_float, 2, 2.0),
        (fields.as_float, -0.5, -0.5),
        (fields.as_float, True, None),
        (fields.as_float, "0.5", None),
        (fields.as_float, math.nan, None),
        (fields.as_float, math.inf, None),
        pytest.param(fields.as_float, 10**400, None, id="more than a float holds"),
        (fields.as_list, (1, 2), (1, 2)),
        (fields.as_list, "ab", ()),
        (fields.as_list, {"a": 1}, ()),
        (fields.as_dict, [("a", 1)], {}),
        (fields.as_dict, None, {}),
    ],
)
def test_readers_by_example(read, value, expected):
    found = read(value)
    assert found == expected
    assert type(found) is type(expected)


def test_an_iterator_is_left_alone():
    source = iter([1, 2])
    assert fields.as_list(source) == ()
    assert list(source) == [1, 2]


@pytest.mark.parametrize(
    "make",
    [
        ChatCompletion.model_validate,
        lambda reply: ChatCompletion.construct(**reply),
        lambda reply: ChatCompletion.model_construct(**reply),
    ],
    ids=["model_validate", "construct", "model_construct"],
)
def test_an_openai_model_is_read_like_the_json_it_came_from(make):
    reply = make(CHAT)
    assert fields.get_field(reply, "id") == "chatcmpl-1"
    assert fields.get_field(reply, "timings") == TIMINGS  # a field openai does not know
    assert fields.get_field(fields.get_field(reply, "usage"), "prompt_tokens") == 3
    assert fields.get_field(fields.get_field(reply, "choices")[0], "finish_reason") == "stop"
    assert fields.get_field(reply, "service_tier") is None  # declared, not given
    assert fields.get_field(reply, "nothing") is None
    assert fields.get_field(reply, "__verbose") == {"prompt": "secret"}  # found only when asked for


def test_fields_inside_an_unknown_field_are_read_too():
    embeddings = CreateEmbeddingResponse.model_validate(
        {"object": "list", "model": "smol", "data": [], "timings": TIMINGS}
        | {"usage": {"prompt_tokens": 4, "total_tokens": 4}}
    )
    assert fields.get_field(fields.get_field(embeddings, "timings"), "prompt_ms") == 1.5


def test_a_model_that_forbids_or_ignores_extras_is_read():
    class Strict(pydantic.BaseModel):
        id: str = "x"

    assert fields.get_field(Strict(), "id") == "x"
    assert fields.get_field(Strict(), "timings") is None


def test_properties_and_methods_are_not_fields():
    class Reply:
        def __init__(self) -> None:
            self.id = "r"

        @property
        def model(self) -> str:
            raise AssertionError("a property ran")

        def usage(self) -> None: ...

    assert fields.get_field(Reply(), "id") == "r"
    assert fields.get_field(Reply(), "model") is None
    assert fields.get_field(Reply(), "usage") is None


class _Slotted:
    __slots__ = ("id",)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, None),
        (5, None),
        ("id", None),
        ([("id", 1)], None),
        (object(), None),
        (_Slotted(), None),
        (SimpleNamespace(id=1), 1),
        (SimpleNamespace(id=None), None),
        (type("Dict", (dict,), {})(id=1), 1),
        (MappingProxyType({"id": 1}), None),
    ],
)
def test_get_on_plain_python_objects(source: Any, expected):
    assert fields.get_field(source, "id") == expected


@pytest.mark.parametrize(
    ("given_name", "recorded"),
    [
        ("gpt-4o", "gpt-4o"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("ggml-org/gemma-3-1b-it-GGUF:Q4_K_M", "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M"),
        ("accounts/fireworks/models/llama-v3", "accounts/fireworks/models/llama-v3"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("smol.gguf", "smol.gguf"),
        ("models/smol.gguf", "smol.gguf"),
        ("models\\smol.gguf", "smol.gguf"),
        ("models\\Smol.GGUF", "Smol.GGUF"),
        ("/models/smol.gguf", "smol.gguf"),
        ("/models/smol", "smol"),
        ("/models/smol/", "smol"),
        ("/home/jane doe/models/smol-00001-of-00002.gguf", "smol-00001-of-00002.gguf"),
        ("./smol", "smol"),
        ("../models/smol", "smol"),
        ("~/models/smol.gguf", "smol.gguf"),
        ("C:\\models\\smol.gguf", "smol.gguf"),
        ("c:/models/smol.gguf", "smol.gguf"),
        ("D:\\models\\smol\\", "smol"),
        ("\\\\server\\share\\smol.gguf", "smol.gguf"),
        ("/", None),
        ("", None),
        (None, None),
        (5, None),
        ({"name": "x"}, None),
    ],
)
def test_a_model_keeps_its_name_and_loses_the_folder_of_its_file(given_name, recorded):
    assert fields.model_name(given_name) == recorded


@given(value=TEXTS)
def test_a_name_that_has_lost_its_folder_has_none_left_to_lose(value):
    once = fields.model_name("/models/" + value)
    assert once is None or ("/" not in once and "\\" not in once)
