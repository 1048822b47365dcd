"""Limits of recorded content: truncated text, removed blobs and values that JSON cannot hold."""

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
    (limited_part,) = limit_parts([part], max_chars)
    check_parts([limited_part])
    assert json.loads(compact_json(limited_part)) == limited_part
    return limited_part


@pytest.mark.parametrize("length", [0, 9, 10])
def test_text_within_limit_is_unchanged(length: int) -> None:
    part = {"type": "text", "content": "x" * length}
    assert limited(part) == part


def test_longer_text_is_truncated_and_has_original_length() -> None:
    assert limited({"type": "text", "content": "0123456789A"}) == {
        "type": "text",
        "content": "012345678…",
        "truncated": True,
        "original_chars": 11,
    }


def test_limit_of_one_character_keeps_ellipsis_only() -> None:
    assert limited({"type": "text", "content": "Hi"}, 1) == {
        "type": "text",
        "content": "…",
        "truncated": True,
        "original_chars": 2,
    }


def test_text_truncated_by_stream_has_original_length() -> None:
    part = {"type": "text", "content": CutText("01234", 700)}
    assert limited(part) == {
        "type": "text",
        "content": "01234…",
        "truncated": True,
        "original_chars": 700,
    }


def test_arguments_within_limit_keep_structure() -> None:
    part = {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": [1, None, "é"]}}
    assert limited(part, 100) == part


def test_longer_arguments_become_truncated_json_text() -> None:
    part = {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": "0123456789"}}
    assert limited(part) == {
        "type": "tool_call",
        "id": "c",
        "name": "f",
        "arguments": '{"a":"012…',
        "truncated": True,
        "original_chars": 18,
    }


def test_truncated_details_of_server_tool_keep_type() -> None:
    details = {"type": "code_interpreter", "code": "0123456789"}
    part = {"type": "server_tool_call", "name": "code_interpreter", "server_tool_call": details}
    assert limited(part) == {
        "type": "server_tool_call",
        "name": "code_interpreter",
        "server_tool_call": {"type": "code_interpreter", "content": '{"type":"…'},
        "truncated": True,
        "original_chars": 47,
    }


def test_roles_and_ids_have_fixed_limit() -> None:
    messages = [{"role": "r" * 999, "parts": [{"type": "compaction", "id": "i" * 999}]}]
    (message,) = limit_messages(messages, 5)
    check_messages([message])
    assert message == {
        "role": "r" * 255 + "…",
        "parts": [{"type": "compaction", "id": "i" * 255 + "…"}],
    }


def test_tool_parameters_beyond_limit_are_removed() -> None:
    tool = {
        "type": "function",
        "name": "weather",
        "description": "0123456789A",
        "parameters": {"type": "object"},
    }
    (limited_tool,) = limit_tools([tool], 10)
    check("gen_ai.tool.definitions", [limited_tool])
    assert limited_tool == {
        "type": "function",
        "name": "weather",
        "description": "012345678…",
        "truncated": True,
        "original_chars": 11 + len('{"type":"object"}'),
    }
    assert limit_tools([tool], 100) == [tool]


def blob(content: Any) -> dict[str, Any]:
    return {"type": "blob", "modality": "image", "mime_type": "image/png", "content": content}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("size", [0, 1, 2, 3, BLOB_MAX_BYTES])
def test_small_blob_is_kept(size: int, as_bytes: bool) -> None:
    data = b"\x01" * size
    encoded = base64.b64encode(data).decode()
    assert limited(blob(data if as_bytes else BlobData(encoded))) == blob(encoded)


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("size", [BLOB_MAX_BYTES + n for n in (1, 2, 3)])
def test_larger_blob_is_replaced_by_its_size(size: int, as_bytes: bool) -> None:
    data = b"\x01" * size
    content: Any = data if as_bytes else BlobData(base64.b64encode(data).decode())
    assert limited(blob(content)) == blob("") | {"truncated": True, "original_bytes": size}


def test_blob_in_tool_response_is_replaced_by_its_size() -> None:
    data = BlobData(base64.b64encode(b"\x01" * 3000).decode())
    part = {"type": "tool_call_response", "id": "c", "response": [blob(data)]}
    assert limited(part, 1000)["response"] == [
        blob("") | {"truncated": True, "original_bytes": 3000}
    ]


def test_malformed_base64_is_removed() -> None:
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
def test_data_url_returns_type_and_data(url: str, mime_type: str | None, data: bytes) -> None:
    parsed = data_url(url)
    assert parsed is not None
    assert (parsed[0], parsed[1].decode(), parsed[1].size_bytes) == (mime_type, data, len(data))


def test_data_url_returns_none_for_other_url() -> None:
    assert data_url("https://x.test/data:image/png;base64,AQI=") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        pytest.param(1 << 20_000, hex(1 << 20_000), id="more digits than str() allows"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, True),
        (b"bytes", "<bytes>"),
        ({1, 2}, "<set>"),
        ((1, "a"), [1, "a"]),
        ({1: None}, {"1": None}),
    ],
)
def test_plain_json_converts_values_for_json_and_otlp(value: Any, expected: Any) -> None:
    assert plain_json(value) == expected


def test_plain_json_ends_circular_and_deep_values_with_ellipsis() -> None:
    circular: list[Any] = []
    circular.extend([circular, circular])
    assert plain_json(circular) == ["…", "…"]
    deep: Any = "core"
    for _ in range(100):
        deep = [deep]
    assert compact_json(plain_json(deep)) == "[" * 24 + '"…"' + "]" * 24


def test_lone_surrogates_are_replaced() -> None:
    assert limited({"type": "text", "content": "a\ud800b"}) == {"type": "text", "content": "a?b"}
    part = {"type": "tool_call", "name": "f", "arguments": {"k\udfff": ["\ud800"]}}
    assert limited(part, 100)["arguments"] == {"k?": ["?"]}


def test_compact_json_does_not_escape_non_ascii_text() -> None:
    assert compact_json({"a": "日本語 é"}) == '{"a":"日本語 é"}'
