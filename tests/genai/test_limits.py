"""What is kept of long, large and unspeakable content, and how it says that it was cut."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from llamatelemetry.genai import BlobData
from llamatelemetry.genai.content.blobs import data_url
from llamatelemetry.genai.content.limits import (
    BLOB_MAX_BYTES,
    compact_json,
    limit_messages,
    limit_parts,
    limit_tools,
)
from llamatelemetry.genai.content.parts import CutText, plain_json
from tests.support.message_schemas import check, check_messages, check_parts


def limited(part: dict[str, Any], max_chars: int = 10) -> dict[str, Any]:
    (found,) = limit_parts([part], max_chars)
    check_parts([found])
    assert json.loads(compact_json(found)) == found
    return found


@pytest.mark.parametrize("length", [0, 9, 10])
def test_a_text_up_to_the_limit_is_whole_and_unmarked(length: int) -> None:
    part = {"type": "text", "content": "x" * length}
    assert limited(part) == part


def test_a_longer_text_is_cut_to_the_limit_and_says_how_long_it_was() -> None:
    assert limited({"type": "text", "content": "0123456789A"}) == {
        "type": "text",
        "content": "012345678…",
        "truncated": True,
        "original_chars": 11,
    }


def test_a_limit_of_one_leaves_the_mark_alone() -> None:
    assert limited({"type": "text", "content": "Hi"}, 1) == {
        "type": "text",
        "content": "…",
        "truncated": True,
        "original_chars": 2,
    }


def test_text_that_a_stream_has_cut_is_as_long_as_it_was_there() -> None:
    part = {"type": "text", "content": CutText("01234", 700)}
    assert limited(part) == {
        "type": "text",
        "content": "01234…",
        "truncated": True,
        "original_chars": 700,
    }


def test_arguments_within_the_limit_keep_their_structure() -> None:
    part = {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": [1, None, "é"]}}
    assert limited(part, 100) == part


def test_longer_arguments_become_the_beginning_of_their_json() -> None:
    part = {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": "0123456789"}}
    assert limited(part) == {
        "type": "tool_call",
        "id": "c",
        "name": "f",
        "arguments": '{"a":"012…',
        "truncated": True,
        "original_chars": 18,
    }


def test_a_server_tools_details_stay_an_object_of_their_type() -> None:
    details = {"type": "code_interpreter", "code": "0123456789"}
    part = {"type": "server_tool_call", "name": "code_interpreter", "server_tool_call": details}
    assert limited(part) == {
        "type": "server_tool_call",
        "name": "code_interpreter",
        "server_tool_call": {"type": "code_interpreter", "content": '{"type":"…'},
        "truncated": True,
        "original_chars": 47,
    }


def test_labels_have_a_limit_of_their_own() -> None:
    messages = [{"role": "r" * 999, "parts": [{"type": "compaction", "id": "i" * 999}]}]
    (message,) = limit_messages(messages, 5)
    check_messages([message])
    assert message == {
        "role": "r" * 255 + "…",
        "parts": [{"type": "compaction", "id": "i" * 255 + "…"}],
    }


def test_a_tools_parameters_are_kept_whole_or_not_at_all() -> None:
    tool = {
        "type": "function",
        "name": "weather",
        "description": "0123456789A",
        "parameters": {"type": "object"},
    }
    (found,) = limit_tools([tool], 10)
    check("gen_ai.tool.definitions", [found])
    assert found == {
        "type": "function",
        "name": "weather",
        "description": "012345678…",
        "truncated": True,
        "original_chars": 11 + len('{"type":"object"}'),
    }
    assert limit_tools([tool], 100) == [tool]


# --- binary data --------------------------------------------------------------------------


def blob(content: Any) -> dict[str, Any]:
    return {"type": "blob", "modality": "image", "mime_type": "image/png", "content": content}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("size", [0, 1, 2, 3, BLOB_MAX_BYTES])
def test_tiny_binary_data_is_kept(size: int, as_bytes: bool) -> None:
    data = b"\x01" * size
    encoded = base64.b64encode(data).decode()
    assert limited(blob(data if as_bytes else BlobData(encoded))) == blob(encoded)


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("size", [BLOB_MAX_BYTES + n for n in (1, 2, 3)])
def test_larger_binary_data_is_dropped_to_its_size(size: int, as_bytes: bool) -> None:
    data = b"\x01" * size
    content: Any = data if as_bytes else BlobData(base64.b64encode(data).decode())
    assert limited(blob(content)) == blob("") | {"truncated": True, "original_bytes": size}


def test_binary_data_inside_a_tools_result_is_dropped_too() -> None:
    data = BlobData(base64.b64encode(b"\x01" * 3000).decode())
    part = {"type": "tool_call_response", "id": "c", "response": [blob(data)]}
    assert limited(part, 1000)["response"] == [
        blob("") | {"truncated": True, "original_bytes": 3000}
    ]


def test_malformed_base64_is_dropped() -> None:
    assert limited(blob(BlobData("a"))) == blob("")
    assert limited(blob(BlobData("§§§§§"))) == blob("") | {"truncated": True, "original_bytes": 3}


@pytest.mark.parametrize(
    ("url", "mime_type", "data"),
    [
        ("data:image/png;base64,AQI=", "image/png", b"\x01\x02"),
        ("data:;base64,AQI=", None, b"\x01\x02"),
        ("data:text/plain;charset=utf-8,a%20b", "text/plain", b"a b"),
        ("data:,", None, b""),
        ("data:broken", None, b""),
    ],
)
def test_data_urls_are_read(url: str, mime_type: str | None, data: bytes) -> None:
    found = data_url(url)
    assert found is not None
    assert (found[0], found[1].decode(), found[1].size_bytes) == (mime_type, data, len(data))


def test_other_urls_are_not_data() -> None:
    assert data_url("https://x.test/data:image/png;base64,AQI=") is None


# --- what cannot be said ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        pytest.param(1 << 20_000, hex(1 << 20_000), id="more digits than str() takes"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, True),
        (b"bytes", "<bytes>"),
        ({1, 2}, "<set>"),
        ((1, "a"), [1, "a"]),
        ({1: None}, {"1": None}),
    ],
)
def test_every_value_becomes_one_that_json_and_otlp_can_hold(value: Any, expected: Any) -> None:
    assert plain_json(value) == expected


def test_what_holds_itself_and_what_is_too_deep_end_with_a_mark() -> None:
    knot: list[Any] = []
    knot.extend([knot, knot])
    assert plain_json(knot) == ["…", "…"]
    deep: Any = "core"
    for _ in range(100):
        deep = [deep]
    assert compact_json(plain_json(deep)) == "[" * 24 + '"…"' + "]" * 24


def test_half_a_surrogate_pair_is_replaced_wherever_it_stands() -> None:
    assert limited({"type": "text", "content": "a\ud800b"}) == {"type": "text", "content": "a?b"}
    part = {"type": "tool_call", "name": "f", "arguments": {"k\udfff": ["\ud800"]}}
    assert limited(part, 100)["arguments"] == {"k?": ["?"]}


def test_letters_of_any_script_stay_themselves_in_json() -> None:
    assert compact_json({"a": "日本語 é"}) == '{"a":"日本語 é"}'
