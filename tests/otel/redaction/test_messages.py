"""`redact_messages`: text is replaced, the structure of messages stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.otel.redaction.messages import parse_json, redact_messages
from llamatelemetry.otel.redaction.redactor import Redactor
from llamatelemetry.otel.redaction.rules import Rules
from tests.support.message_schemas import check

GONE = "[REDACTED]"


def redacted(value):
    return redact_messages(value, Redactor(Rules()).start())


CONTENT = "c4n4ry text"
INPUT = [
    {"role": "system", "parts": [{"type": "text", "content": CONTENT}]},
    {
        "role": "user",
        "name": CONTENT,
        "parts": [
            {"type": "text", "content": CONTENT, "truncated": True, "original_chars": 99},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "aGk="},
            {"type": "uri", "modality": "image", "uri": f"https://x/{CONTENT}"},
            {"type": "file", "modality": "image", "file_id": "file-1"},
        ],
    },
    {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": CONTENT},
            {
                "type": "tool_call",
                "id": "c1",
                "name": "weather",
                "arguments": {CONTENT: [CONTENT, 1]},
            },
            {
                "type": "server_tool_call",
                "id": "s1",
                "name": "search",
                "server_tool_call": {"type": "web_search", "query": CONTENT, "n": 3},
            },
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"a": 1}}]},
]
EXPECTED = [
    {"role": "system", "parts": [{"type": "text", "content": GONE}]},
    {
        "role": "user",
        "name": GONE,
        "parts": [
            {"type": "text", "content": GONE, "truncated": True, "original_chars": 99},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": GONE},
            {"type": "uri", "modality": "image", "uri": GONE},
            {"type": "file", "modality": "image", "file_id": "file-1"},
        ],
    },
    {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": GONE},
            {"type": "tool_call", "id": "c1", "name": "weather", "arguments": GONE},
            {
                "type": "server_tool_call",
                "id": "s1",
                "name": "search",
                "server_tool_call": {"type": "web_search", "query": GONE, "n": GONE},
            },
        ],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": GONE}]},
]


def test_redact_messages_keeps_message_schema():
    assert redacted(INPUT) == EXPECTED
    check("gen_ai.input.messages", redacted(INPUT))


def test_redact_messages_keeps_json_text_as_json():
    assert json.loads(redacted(json.dumps(INPUT))) == EXPECTED


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            [
                {
                    "role": "assistant",
                    "parts": [{"type": "text", "content": CONTENT}],
                    "finish_reason": "stop",
                }
            ],
            [
                {
                    "role": "assistant",
                    "parts": [{"type": "text", "content": GONE}],
                    "finish_reason": "stop",
                }
            ],
            id="output messages",
        ),
        pytest.param(
            [
                {
                    "type": "function",
                    "name": "f",
                    "description": CONTENT,
                    "parameters": {"type": "object"},
                }
            ],
            [{"type": "function", "name": "f", "description": GONE, "parameters": GONE}],
            id="tool definitions",
        ),
        pytest.param(
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": CONTENT},
                    {"type": "image_url", "image_url": {"url": CONTENT}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": GONE},
                    {"type": "image_url", "image_url": GONE},
                ],
            },
            id="OpenAI message",
        ),
        pytest.param(
            {
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": CONTENT}}
                ]
            },
            {
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": GONE}}
                ]
            },
            id="OpenAI tool calls",
        ),
        pytest.param(
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": CONTENT},
            },
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": GONE},
            },
            id="gen_ai.choice event",
        ),
        pytest.param({"city": CONTENT, "n": 3}, GONE, id="tool arguments"),
        pytest.param([1.5, 2.5], GONE, id="vector"),
        pytest.param([CONTENT, CONTENT], [GONE, GONE], id="texts"),
        pytest.param([{"free": CONTENT}, CONTENT], [GONE, GONE], id="unknown objects"),
        pytest.param(CONTENT, GONE, id="text"),
        pytest.param("", "", id="empty text"),
        pytest.param('{"cut": "off', GONE, id="truncated JSON"),
        pytest.param('[{"role": "user", "role": "x"}]', GONE, id="JSON with duplicate key"),
    ],
)
def test_redact_messages_keeps_shape(content, expected):
    assert redacted(content) == expected


_WORD = st.text(st.characters(categories=["Lu", "Ll"]), min_size=1, max_size=4).map(
    "secret {}".format
)
_PARTS = st.recursive(
    _WORD | st.integers() | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "type", "content", "parts", "text", "arguments", "name", "message", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_PARTS)
def test_redact_messages_removes_text_from_any_structure(value):
    found = redacted(value)
    assert "secret" not in json.dumps(found, default=str)
    as_text = redacted(json.dumps(value))
    assert "secret" not in as_text
    if parse_json(json.dumps(value)) is not None:
        json.loads(as_text) if as_text != GONE else None


def test_name_in_a_message_is_redacted_and_that_of_a_tool_is_not():
    user = {"role": "user", "name": "alice", "content": "x"}
    assert redacted([user]) == [{"role": "user", "name": GONE, "content": GONE}]
    call = {"type": "tool_call", "name": "weather", "arguments": "x"}
    assert redacted([call]) == [{"type": "tool_call", "name": "weather", "arguments": GONE}]
