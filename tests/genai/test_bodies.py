"""Bodies of megabytes are read without parsing what says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import BodyCapture, parse_body
from tests.support.json_strategies import json_values

HEAD = {"object": "list", "model": "m"}
TAIL = {"usage": {"prompt_tokens": 7}, "id": "e"}
# What would fail to parse, if anybody tried.
VECTORS = b"[" + b"[nonsense]," * 20_000 + b"]"


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def long_body(*, before: dict[str, Any], after: dict[str, Any], bulk: bytes = VECTORS) -> bytes:
    fields = [b"%s: %s" % (dumped(name), dumped(value)) for name, value in before.items()]
    fields.append(b'"data" : ' + bulk)
    fields += [b"%s: %s" % (dumped(name), dumped(value)) for name, value in after.items()]
    return b"{" + b", ".join(fields) + b"}"


@pytest.mark.parametrize(
    ("before", "after"), [(HEAD, TAIL), (TAIL, HEAD), ({}, HEAD | TAIL), (HEAD | TAIL, {})]
)
def test_a_long_array_is_cut_out_wherever_it_stands(before, after):
    body = long_body(before=before, after=after)
    expected = {**HEAD, **TAIL, "data": []}
    assert parse_body(body, "data", is_bulk_wanted=False) == expected
    for size in (len(body), 70_000, 1000):
        capture = BodyCapture()
        for start in range(0, len(body), size):
            capture.feed(body[start : start + size])
        assert capture.parse("data", is_bulk_wanted=False) == expected


def test_an_array_that_is_wanted_is_parsed():
    body = dumped({**HEAD, "data": [0.5] * 20_000, **TAIL})
    assert parse_body(body, "data") == json.loads(body)
    assert parse_body(long_body(before=HEAD, after=TAIL), "data") is None


@pytest.mark.parametrize(
    "after",
    [
        {"more": [1, 2], **TAIL},
        {"usage": {"prompt_tokens": 7, "by_part": [3, 4]}},
        {"note": "a ] and a [", **TAIL},
        {"note": '"data": [', **TAIL},
    ],
)
def test_other_brackets_after_it_mislead_nobody(after):
    whole = {**HEAD, "data": [[0.5]] * 10_000, **after}
    found = parse_body(dumped(whole), "data", is_bulk_wanted=False)
    assert found["usage"] == whole["usage"]
    assert found["model"] == "m"


def test_a_short_body_is_parsed_whole():
    body = {**HEAD, "data": [1, 2], **TAIL}
    assert parse_body(dumped(body), "data", is_bulk_wanted=False) == body


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff\xfe", b"[" * 100_000, b"]" * 100_000])
def test_what_is_no_json_is_nothing(body):
    assert parse_body(body, "data", is_bulk_wanted=False) is None
    assert parse_body(body, "data") is None


def test_of_a_long_body_only_its_ends_are_kept():
    capture = BodyCapture()
    for _ in range(1000):
        capture.feed(b"x" * 10_000)
    assert not capture.is_whole
    assert len(capture.body()) < 300_000
    assert capture.parse("data") is None


@given(value=json_values(), cut=st.integers(1, 7))
def test_a_short_body_in_pieces_is_what_it_is(value, cut):
    body = dumped(value)
    capture = BodyCapture()
    for start in range(0, len(body), cut):
        capture.feed(body[start : start + cut])
    assert capture.is_whole
    assert capture.body() == body
    assert dumped(capture.parse("data")) == dumped(json.loads(body))
