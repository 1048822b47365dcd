"""Conversion of the choices of chat and text completions to messages."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from llamatelemetry.genai import parse_choices
from tests.genai.conftest import recorded_messages

PIXEL = base64.b64encode(b"\x89PNG and a pixel").decode()
LARGE = base64.b64encode(b"\x00" * 3000).decode()


def output(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": "stop", "message": message, **choice}]
    (parsed,) = recorded_messages(parse_choices(choices).outputs)
    return parsed


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", {"finish_reason": "stop"}),
        ("length", {"finish_reason": "length"}),
        ("tool_calls", {"finish_reason": "tool_call"}),
        ("function_call", {"finish_reason": "tool_call"}),
        (None, {}),
    ],
)
def test_output_message_has_finish_reason_of_conventions(
    reason: str | None, expected: dict[str, str]
) -> None:
    assert output({"role": "assistant", "content": "Hi"}, finish_reason=reason) == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "Hi"}],
        **expected,
    }


def test_output_parts_are_reasoning_text_and_tool_calls_in_order() -> None:
    assert output(
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Weather?",
            "tool_calls": [{"id": "c", "function": {"name": "weather", "arguments": "{}"}}],
        }
    ) == {
        "role": "assistant",
        "parts": [
            {"type": "reasoning", "content": "Weather?"},
            {"type": "text", "content": "Let me see."},
            {"type": "tool_call", "id": "c", "name": "weather", "arguments": {}},
        ],
        "finish_reason": "stop",
    }


def test_refusal_becomes_marked_text_part() -> None:
    assert output({"role": "assistant", "content": None, "refusal": "No."})["parts"] == [
        {"type": "text", "content": "No.", "refusal": True}
    ]


def test_audio_output_becomes_blob_and_transcript() -> None:
    audio = {"id": "audio-1", "data": LARGE, "transcript": "Hello", "expires_at": 1}
    assert output({"role": "assistant", "content": None, "audio": audio})["parts"] == [
        {
            "type": "blob",
            "modality": "audio",
            "content": "",
            "truncated": True,
            "original_bytes": 3000,
        },
        {"type": "text", "content": "Hello"},
    ]


def test_each_choice_becomes_message() -> None:
    choices = [
        {"index": 0, "text": "one", "finish_reason": "stop"},
        {"index": 1, "text": "two", "finish_reason": "length"},
    ]
    assert recorded_messages(parse_choices(choices).outputs) == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "one"}],
            "finish_reason": "stop",
        },
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": "two"}],
            "finish_reason": "length",
        },
    ]


def test_models_of_openai_client_equal_their_json() -> None:
    custom = "openai.types.chat.chat_completion_message_custom_tool_call"
    pytest.importorskip(custom, reason="older clients have no custom tools")
    body = {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "smol",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "logprobs": None,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "reasoning_content": "Hm.",
                    "refusal": "No.",
                    "audio": {"id": "a", "data": PIXEL, "transcript": "T", "expires_at": 1},
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a": [1]}'},
                        },
                        {"id": "d", "type": "custom", "custom": {"name": "g", "input": "x"}},
                    ],
                },
            }
        ],
    }
    model = ChatCompletion.model_validate(body)
    assert parse_choices(model.choices).outputs == parse_choices(body["choices"]).outputs
    assert len(parse_choices(model.choices).outputs[0]["parts"]) == 7
