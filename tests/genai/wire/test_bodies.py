"""Parsing of large JSON bodies, which skips an array of vectors that is not recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import BodyCapture, parse_body
from tests.support.json_strategies import json_values

START = {"object": "list", "model": "m"}
END = {"usage": {"prompt_tokens": 7}, "id": "e"}
# Invalid JSON: parsing this array fails.
VECTORS = b"[" + b"[nonsense]," * 20_000 + b"]"


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def long_body(*, before: dict[str, Any], after: dict[str, Any], bulk: bytes = VECTORS) -> bytes:
    fields = [b"%s: %s" % (to_json(name), to_json(value)) for name, value in before.items()]
    fields.append(b'"data" : ' + bulk)
    fields += [b"%s: %s" % (to_json(name), to_json(value)) for name, value in after.items()]
    return b"{" + b", ".join(fields) + b"}"


@pytest.mark.parametrize(
    ("before", "after"), [(START, END), (END, START), ({}, START | END), (START | END, {})]
)
def test_unwanted_array_of_long_body_is_skipped_at_any_position(before, after):
    body = long_body(before=before, after=after)
    expected = {**START, **END, "data": []}
    assert parse_body(body, "data", is_bulk_wanted=False) == expected
    for size in (len(body), 70_000, 1000):
        capture = BodyCapture()
        for start in range(0, len(body), size):
            capture.feed(body[start : start + size])
        assert capture.parse("data", is_bulk_wanted=False) == expected


def test_wanted_array_is_parsed():
    body = to_json({**START, "data": [0.5] * 20_000, **END})
    assert parse_body(body, "data") == json.loads(body)
    assert parse_body(long_body(before=START, after=END), "data") is None


@pytest.mark.parametrize(
    "after",
    [
        {"more": [1, 2], **END},
        {"usage": {"prompt_tokens": 7, "by_part": [3, 4]}},
        {"note": "a ] and a [", **END},
        {"note": '"data": [', **END},
    ],
)
def test_brackets_after_skipped_array_are_parsed(after):
    expected = {**START, "data": [[0.5]] * 10_000, **after}
    parsed = parse_body(to_json(expected), "data", is_bulk_wanted=False)
    assert parsed["usage"] == expected["usage"]
    assert parsed["model"] == "m"


def test_short_body_is_parsed_completely():
    body = {**START, "data": [1, 2], **END}
    assert parse_body(to_json(body), "data", is_bulk_wanted=False) == body


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xfe", b"[" * 100_000, b"]" * 100_000])
def test_parse_body_returns_none_when_body_is_invalid_json(body):
    assert parse_body(body, "data", is_bulk_wanted=False) is None
    assert parse_body(body, "data") is None


def test_capture_keeps_start_and_end_of_long_body():
    capture = BodyCapture()
    for _ in range(1000):
        capture.feed(b"x" * 10_000)
    assert not capture.is_whole
    assert len(capture.body()) < 300_000
    assert capture.parse("data") is None


@given(value=json_values(), chunk_bytes=st.integers(1, 7))
def test_capture_returns_short_body_fed_in_chunks(value, chunk_bytes):
    body = to_json(value)
    capture = BodyCapture()
    for start in range(0, len(body), chunk_bytes):
        capture.feed(body[start : start + chunk_bytes])
    assert capture.is_whole
    assert capture.body() == body
    assert to_json(capture.parse("data")) == to_json(json.loads(body))
