"""JSON accessors: they return a value of their type or `None`, and raise no error."""

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

from llamatelemetry.genai.json_access import (
    as_count,
    as_dict,
    as_float,
    as_int,
    as_list,
    as_str,
    get_field,
    model_name,
)
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

CONVERTERS = {
    "text": (as_str, lambda v: isinstance(v, str) and v != "" and exportable(v)),
    "count": (as_count, lambda v: type(v) is int and 0 <= v <= 2**53),
    "integer": (as_int, lambda v: type(v) is int and abs(v) < 2**63),
    "number": (as_float, lambda v: type(v) is float and math.isfinite(v)),
    "model_name": (
        model_name,
        lambda v: isinstance(v, str) and v != "" and exportable(v),
    ),
}


@pytest.mark.parametrize(("convert", "has_type"), CONVERTERS.values(), ids=CONVERTERS)
@given(value=st.one_of(SCALARS, json_values()))
def test_converter_returns_its_type_or_none_for_any_value(convert, has_type, value):
    actual = convert(value)
    assert actual is None or has_type(actual)


@given(value=json_values())
def test_as_list_and_as_dict_accept_any_value(value):
    assert as_list(value) == (value if isinstance(value, list) else ())
    assert as_dict(value) == (value if isinstance(value, dict) else {})


@given(source=json_values(), name=TEXTS)
def test_get_field_accepts_any_value_and_name(source, name):
    expected = source.get(name) if isinstance(source, dict) else None
    actual = get_field(source, name)
    assert actual is expected or actual == expected  # NaN is identical, not equal.


@pytest.mark.parametrize(
    ("convert", "value", "expected"),
    [
        (as_str, "a", "a"),
        (as_str, "", None),
        (as_str, b"a", None),
        (as_str, 1, None),
        (as_str, "\ud800", None),
        (as_str, "日本語 🦙", "日本語 🦙"),
        (as_count, 0, 0),
        (as_count, 5, 5),
        (as_count, -1, None),
        (as_count, True, None),
        (as_count, 5.0, None),
        (as_count, "5", None),
        (as_count, 2**53, 2**53),
        (as_count, 2**53 + 1, None),
        (as_int, -5, -5),
        (as_int, False, None),
        (as_int, 2**63 - 1, 2**63 - 1),
        (as_int, 2**63, None),
        (as_int, 1 - 2**63, 1 - 2**63),
        (as_int, -(2**63) - 1, None),
        (as_float, 2, 2.0),
        (as_float, -0.5, -0.5),
        (as_float, True, None),
        (as_float, "0.5", None),
        (as_float, math.nan, None),
        (as_float, math.inf, None),
        pytest.param(as_float, 10**400, None, id="too large for a float"),
        (as_list, (1, 2), (1, 2)),
        (as_list, "ab", ()),
        (as_list, {"a": 1}, ()),
        (as_dict, [("a", 1)], {}),
        (as_dict, None, {}),
    ],
)
def test_converters_return_expected_value(convert, value, expected):
    actual = convert(value)
    assert actual == expected
    assert type(actual) is type(expected)


def test_as_list_does_not_consume_iterator():
    source = iter([1, 2])
    assert as_list(source) == ()
    assert list(source) == [1, 2]


@pytest.mark.parametrize(
    "make",
    [
        ChatCompletion.model_validate,
        lambda completion: ChatCompletion.construct(**completion),
        lambda completion: ChatCompletion.model_construct(**completion),
    ],
    ids=["model_validate", "construct", "model_construct"],
)
def test_get_field_returns_fields_of_openai_model(make):
    completion = make(CHAT)
    assert get_field(completion, "id") == "chatcmpl-1"
    assert get_field(completion, "timings") == TIMINGS  # An undeclared field.
    assert get_field(get_field(completion, "usage"), "prompt_tokens") == 3
    assert get_field(get_field(completion, "choices")[0], "finish_reason") == "stop"
    assert get_field(completion, "service_tier") is None  # Declared and unset.
    assert get_field(completion, "nothing") is None
    assert get_field(completion, "__verbose") == {"prompt": "secret"}  # A private field.


def test_get_field_returns_fields_inside_undeclared_field():
    embeddings = CreateEmbeddingResponse.model_validate(
        {"object": "list", "model": "smol", "data": [], "timings": TIMINGS}
        | {"usage": {"prompt_tokens": 4, "total_tokens": 4}}
    )
    assert get_field(get_field(embeddings, "timings"), "prompt_ms") == 1.5


def test_get_field_accepts_model_without_extra_fields():
    class Strict(pydantic.BaseModel):
        id: str = "x"

    assert get_field(Strict(), "id") == "x"
    assert get_field(Strict(), "timings") is None


def test_get_field_does_not_return_properties_or_methods():
    class PlainObject:
        def __init__(self) -> None:
            self.id = "r"

        @property
        def model(self) -> str:
            raise AssertionError("a property ran")

        def usage(self) -> None: ...

    assert get_field(PlainObject(), "id") == "r"
    assert get_field(PlainObject(), "model") is None
    assert get_field(PlainObject(), "usage") is None


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
def test_get_field_of_python_objects(source: Any, expected):
    assert get_field(source, "id") == expected


@pytest.mark.parametrize(
    ("name", "recorded"),
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
def test_model_name_removes_directory_of_model_file(name, recorded):
    assert model_name(name) == recorded


@given(value=TEXTS)
def test_model_name_of_absolute_path_has_no_separator(value):
    file_name = model_name("/models/" + value)
    assert file_name is None or ("/" not in file_name and "\\" not in file_name)
