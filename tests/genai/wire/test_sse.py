"""Incremental decoding of server-sent events and JSON lines from raw bytes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import EventReader
from llamatelemetry.genai.wire.sse import parse_object


def read(*chunks: bytes) -> list[object]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: {"a": 1}\n\n', [{"a": 1}]),
        (b'data:{"a": 1}\n\n', [{"a": 1}]),
        (b'data: {"a": 1}\r\n\r\n', [{"a": 1}]),
        (b'data: {"a": 1}\r\rdata: {"b": 2}\r\r', [{"a": 1}, {"b": 2}]),
        (b'\xef\xbb\xbfdata: {"a": 1}\n\n', [{"a": 1}]),
        (b'event: x\nid: 7\nretry: 3\ndata: {"a": 1}\n\n', [{"a": 1}]),
        (b':\n\n: ping\n\ndata: {"a": 1}\n\n', [{"a": 1}]),
        (b'data: {"a":\ndata: 1}\n\n', [{"a": 1}]),
        (b'data: {\r\ndata: "a": 1\r\ndata: }\r\n\r\n', [{"a": 1}]),
        (b'data: {"a":\n\ndata: {"b": 2}\n\n', [{"b": 2}]),
        (b'{"a": 1}\n{"b": 2}\n', [{"a": 1}, {"b": 2}]),
        (b'data: {"a": 1}\n\ndata: [DONE]\n\n', [{"a": 1}]),
        (b"data: 7\n\ndata: null\n\ndata: [1]\n\ndata:\n\n", []),
        (b'data: {"a": 1}', []),
        (b'data: {"a": "\xff"}\n\n', [{"a": "\ufffd"}]),
        (b"data: {nonsense}\n\n", []),
        (b"", []),
    ],
)
def test_reader_returns_objects_of_stream(stream: bytes, events: list[object]) -> None:
    assert read(stream) == events
    assert read(*(stream[start : start + 1] for start in range(len(stream)))) == events


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 400), max_size=8),
    st.booleans(),
)
def test_reader_returns_same_objects_for_any_chunk_boundaries(
    objects, line_end, boundaries, is_indented
) -> None:
    stream = b""
    for item in objects:
        lines = json.dumps(item, indent=1 if is_indented else None).encode().split(b"\n")
        stream += b"".join(b"data: " + line + line_end for line in lines) + line_end
        stream += b": ping" + line_end + line_end
    positions = sorted({0, len(stream), *(each for each in boundaries if each < len(stream))})
    assert read(*(stream[start:end] for start, end in pairwise(positions))) == objects


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_reader_accepts_any_bytes(chunks) -> None:
    read(*chunks)


@pytest.mark.parametrize("size", [1000, 65536, 20_000_000])
def test_reader_skips_too_long_line_and_does_not_buffer_it(size: int) -> None:
    line = b'data: {"image": "' + b"A" * 10_000_000 + b'"}\n\n'
    chunks = [line[start : start + size] for start in range(0, len(line), size)]
    reader = EventReader()
    buffered_bytes = []
    for chunk in chunks:
        assert reader.feed(chunk) == []
        buffered_bytes.append(sum(map(len, reader._rest)))
    assert max(buffered_bytes) <= 4 * 1024 * 1024
    assert reader.feed(b'data: {"a": 1}\n\n') == [{"a": 1}]


def test_reader_limits_size_of_multi_line_event() -> None:
    reader = EventReader()
    for _ in range(200):
        reader.feed(b"data: {" + b"x" * 100_000 + b"\n")
    assert sum(map(len, reader._data)) <= 4 * 1024 * 1024
    reader.feed(b"\n")
    assert reader.feed(b'data: {"a": 1}\n\n') == [{"a": 1}]


def test_parse_object_returns_none_when_nesting_is_too_deep() -> None:
    assert parse_object(b'{"a":' * 100_000 + b"1" + b"}" * 100_000) is None
