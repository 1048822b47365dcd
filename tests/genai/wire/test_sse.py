"""Events out of raw bytes, in whatever pieces they come."""

from __future__ import annotations

import json
from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.genai import EventReader
from llamatelemetry.genai.wire.sse import parse_object


def read(*pieces: bytes) -> list[object]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


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
def test_a_stream_gives_its_objects(stream: bytes, events: list[object]) -> None:
    assert read(stream) == events
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == events


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=6),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 400), max_size=8),
    st.booleans(),
)
def test_however_it_is_cut(objects, line_end, cuts, is_indented) -> None:
    stream = b""
    for each in objects:
        lines = json.dumps(each, indent=1 if is_indented else None).encode().split(b"\n")
        stream += b"".join(b"data: " + line + line_end for line in lines) + line_end
        stream += b": ping" + line_end + line_end
    at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert read(*(stream[a:b] for a, b in pairwise(at))) == objects


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_read_without_error(pieces) -> None:
    read(*pieces)


@pytest.mark.parametrize("size", [1000, 65536, 20_000_000])
def test_a_line_that_is_too_long_is_passed_over_and_not_kept(size: int) -> None:
    line = b'data: {"image": "' + b"A" * 10_000_000 + b'"}\n\n'
    pieces = [line[at : at + size] for at in range(0, len(line), size)]
    reader = EventReader()
    started = perf_counter()
    held = []
    for piece in pieces:
        assert reader.feed(piece) == []
        held.append(sum(map(len, reader._rest)))
    assert max(held) <= 4 * 1024 * 1024
    assert reader.feed(b'data: {"a": 1}\n\n') == [{"a": 1}]
    assert perf_counter() - started < 2


def test_lines_of_one_event_are_not_kept_without_end() -> None:
    reader = EventReader()
    for _ in range(200):
        reader.feed(b"data: {" + b"x" * 100_000 + b"\n")
    assert sum(map(len, reader._data)) <= 4 * 1024 * 1024
    reader.feed(b"\n")
    assert reader.feed(b'data: {"a": 1}\n\n') == [{"a": 1}]


def test_nesting_beyond_all_measure_is_no_object() -> None:
    assert parse_object(b'{"a":' * 100_000 + b"1" + b"}" * 100_000) is None
