"""Conversion of the requests of chat and text completions to messages."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from llamatelemetry.genai import parse_chat_request, parse_completion_request
from llamatelemetry.genai.content.limits import limit_tools
from llamatelemetry.genai.content.messages import parse_tools
from tests.genai.conftest import recorded_messages
from tests.support.message_schemas import check

PIXEL = base64.b64encode(b"\x89PNG and a pixel").decode()
LARGE = base64.b64encode(b"\x00" * 3000).decode()


def inputs(*messages: Any) -> list[dict[str, Any]]:
    return recorded_messages(parse_chat_request({"messages": list(messages)}).inputs)


def parts(content: Any, **message: Any) -> list[dict[str, Any]]:
    (parsed,) = inputs({"role": "user", "content": content, **message})
    return parsed["parts"]


def test_roles_and_names_are_kept() -> None:
    assert inputs(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": "Be kind.", "name": "house"},
        {"role": "user", "content": "Hi", "name": "ann"},
        {"role": "assistant", "content": "Hello"},
    ) == [
        {"role": "developer", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "system", "name": "house", "parts": [{"type": "text", "content": "Be kind."}]},
        {"role": "user", "name": "ann", "parts": [{"type": "text", "content": "Hi"}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Hello"}]},
    ]


def test_tool_calls_and_results_keep_ids_names_and_arguments() -> None:
    assert inputs(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris", "days": 2}'},
                },
                {"id": "call_2", "type": "custom", "custom": {"name": "shell", "input": "5"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"rain": true}'},
        {
            "role": "tool",
            "tool_call_id": "call_2",
            "content": [{"type": "text", "text": "done"}],
        },
    ) == [
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "call_1",
                    "name": "weather",
                    "arguments": {"city": "Paris", "days": 2},
                },
                {"type": "tool_call", "id": "call_2", "name": "shell", "arguments": "5"},
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call_1", "response": '{"rain": true}'}],
        },
        {
            "role": "tool",
            "parts": [
                {
                    "type": "tool_call_response",
                    "id": "call_2",
                    "response": [{"type": "text", "content": "done"}],
                }
            ],
        },
    ]


def test_legacy_function_call_becomes_tool_call_without_id() -> None:
    assert inputs(
        {"role": "assistant", "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "noon"},
    ) == [
        {"role": "assistant", "parts": [{"type": "tool_call", "name": "now", "arguments": {}}]},
        {
            "role": "function",
            "name": "now",
            "parts": [{"type": "tool_call_response", "response": "noon"}],
        },
    ]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("{broken", "{broken"),
        ("", ""),
        ("[" * 100_000, "[" * 999 + "…"),
        ("9" * 5000, "9" * 999 + "…"),
        ('{"n": 1e999, "i": 36893488147419103232}', {"n": "inf", "i": "36893488147419103232"}),
    ],
)
def test_arguments_are_parsed_when_they_are_json(sent: Any, expected: Any) -> None:
    (part,) = parts(None, tool_calls=[{"id": "c", "function": {"name": "f", "arguments": sent}}])
    assert part["arguments"] == expected


def test_tool_call_omits_missing_arguments() -> None:
    assert parts(None, tool_calls=[{"id": "c", "function": {"name": "f"}}]) == [
        {"type": "tool_call", "id": "c", "name": "f"}
    ]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"type": "text", "text": "Hi"}, {"type": "text", "content": "Hi"}),
        (
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
            {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
        ),
        (
            {"type": "image_url", "image_url": "https://x.test/a.png"},
            {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
        ),
        (
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": PIXEL},
        ),
        (
            {"type": "image_url", "image_url": {"url": "DATA:text/plain,a%20b"}},
            {
                "type": "blob",
                "modality": "image",
                "mime_type": "text/plain",
                "content": base64.b64encode(b"a b").decode(),
            },
        ),
        (
            {"type": "video_url", "video_url": {"url": "https://x.test/a.mp4"}},
            {"type": "uri", "modality": "video", "uri": "https://x.test/a.mp4"},
        ),
        (
            {"type": "audio_url", "audio_url": {"url": "https://x.test/a.ogg"}},
            {"type": "uri", "modality": "audio", "uri": "https://x.test/a.ogg"},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "mp3"}},
            {"type": "blob", "modality": "audio", "mime_type": "audio/mpeg", "content": PIXEL},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "new"}},
            {"type": "blob", "modality": "audio", "content": PIXEL},
        ),
        (
            {"type": "file", "file": {"file_id": "file-1", "filename": "a.PDF"}},
            {
                "type": "file",
                "modality": "document",
                "mime_type": "application/pdf",
                "file_id": "file-1",
            },
        ),
        (
            {"type": "file", "file": {"file_data": PIXEL, "filename": "a.txt"}},
            {"type": "blob", "modality": "document", "mime_type": "text/plain", "content": PIXEL},
        ),
        (
            {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PIXEL}"}},
            {
                "type": "blob",
                "modality": "document",
                "mime_type": "application/pdf",
                "content": PIXEL,
            },
        ),
        (
            {"type": "refusal", "refusal": "No."},
            {"type": "text", "content": "No.", "refusal": True},
        ),
        (
            {"type": "hologram", "beam": {"x": 1}, "note": None},
            {"type": "hologram", "content": {"beam": {"x": 1}}},
        ),
        ({"text": "untyped"}, {"type": "text", "content": "untyped"}),
        ("bare", {"type": "text", "content": "bare"}),
    ],
)
def test_content_item_becomes_part_of_its_type(sent: Any, expected: dict[str, Any]) -> None:
    assert parts([sent]) == [expected]


def test_large_blob_is_reduced_to_modality_type_and_size() -> None:
    url = f"data:image/png;base64,{LARGE}"
    assert parts([{"type": "image_url", "image_url": {"url": url}}]) == [
        {
            "type": "blob",
            "modality": "image",
            "mime_type": "image/png",
            "content": "",
            "truncated": True,
            "original_bytes": 3000,
        }
    ]


def test_reasoning_is_parsed_from_both_field_names() -> None:
    expected = [
        {"type": "reasoning", "content": "Hm."},
        {"type": "text", "content": "Hi"},
    ]
    assert parts("Hi", role="assistant", reasoning_content="Hm.") == expected
    assert parts("Hi", role="assistant", reasoning="Hm.") == expected


def test_audio_of_earlier_message_becomes_file_part() -> None:
    assert parts(None, role="assistant", audio={"id": "audio-1"}) == [
        {"type": "file", "modality": "audio", "file_id": "audio-1"}
    ]


@pytest.mark.parametrize(
    "content", [None, "", [], {}, 7, [None], [7], [[]], object(), iter(["not consumed"])]
)
def test_empty_or_invalid_content_has_no_parts(content: Any) -> None:
    assert parts(content) == []


def test_iterators_are_not_consumed() -> None:
    messages = iter([{"role": "user", "content": "Hi"}])
    contents = iter([{"type": "text", "text": "Hi"}])
    assert parse_chat_request({"messages": messages}).inputs == []
    assert inputs({"role": "user", "content": contents}) == [{"role": "user", "parts": []}]
    assert len([*messages, *contents]) == 2


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Once", [["Once"]]),
        (["Once", "Twice"], [["Once"], ["Twice"]]),
        ([1, 2, 3], [[]]),
        ([[1, 2], [3]], [[], []]),
        ([12, "then", 13, "text"], [["then", "text"]]),  # A single prompt of llama.cpp.
        (None, []),
        (7, []),
    ],
)
def test_each_prompt_of_text_completion_becomes_user_message(
    prompt: Any, expected: list[list[str]]
) -> None:
    assert recorded_messages(parse_completion_request({"prompt": prompt}).inputs) == [
        {"role": "user", "parts": [{"type": "text", "content": text} for text in texts]}
        for texts in expected
    ]


def test_parse_tools_keeps_type_name_description_and_parameters() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    body = {
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Tell it.",
                    "parameters": parameters,
                    "strict": True,
                },
            },
            {"type": "function", "name": "flat", "parameters": None},
            {"type": "custom", "custom": {"name": "grammar", "description": "Free text."}},
            {"type": "web_search"},
            {"type": "mcp", "server_label": "docs", "server_url": "https://x.test"},
        ],
        "functions": [{"name": "old"}],
    }
    definitions = limit_tools(parse_tools(body), 1000)
    check("gen_ai.tool.definitions", definitions)
    assert definitions == [
        {
            "type": "function",
            "name": "weather",
            "description": "Tell it.",
            "parameters": parameters,
        },
        {"type": "function", "name": "flat"},
        {"type": "custom", "name": "grammar", "description": "Free text."},
        {"type": "web_search", "name": "web_search"},
        {"type": "mcp", "name": "docs"},
        {"type": "function", "name": "old"},
    ]
