"""Chat and text completions, requests and replies, as messages: whole literals of each kind."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from llamatelemetry.genai import parse_chat_request, parse_choices, parse_completion_request
from llamatelemetry.genai.content.limits import limit_messages, limit_tools
from llamatelemetry.genai.content.messages import parse_tools
from tests.support.message_schemas import check, check_messages

PIXEL = base64.b64encode(b"\x89PNG and a pixel").decode()
LARGE = base64.b64encode(b"\x00" * 3000).decode()


def recorded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    limited = limit_messages(messages, 1000)
    check_messages(limited)
    return limited


def inputs(*messages: Any) -> list[dict[str, Any]]:
    return recorded(parse_chat_request({"messages": list(messages)}).inputs)


def parts(content: Any, **message: Any) -> list[dict[str, Any]]:
    (read,) = inputs({"role": "user", "content": content, **message})
    return read["parts"]


def output(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "finish_reason": "stop", "message": message, **choice}]
    (read,) = recorded(parse_choices(choices).outputs)
    return read


# --- requests -----------------------------------------------------------------------------


def test_roles_and_names_stay_as_they_were_sent() -> None:
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


def test_a_round_of_tool_calls_keeps_ids_names_arguments_and_results() -> None:
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


def test_functions_from_before_there_were_tools_are_tool_calls_without_an_id() -> None:
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
def test_arguments_are_parsed_when_they_are_json_and_stay_text_otherwise(
    sent: Any, expected: Any
) -> None:
    (part,) = parts(None, tool_calls=[{"id": "c", "function": {"name": "f", "arguments": sent}}])
    assert part["arguments"] == expected


def test_a_call_without_arguments_has_none() -> None:
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
def test_each_kind_of_content_becomes_its_part(sent: Any, expected: dict[str, Any]) -> None:
    assert parts([sent]) == [expected]


def test_binary_data_is_dropped_to_its_modality_type_and_size() -> None:
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


def test_reasoning_is_kept_under_either_of_its_names() -> None:
    expected = [
        {"type": "reasoning", "content": "Hm."},
        {"type": "text", "content": "Hi"},
    ]
    assert parts("Hi", role="assistant", reasoning_content="Hm.") == expected
    assert parts("Hi", role="assistant", reasoning="Hm.") == expected


def test_a_spoken_turn_of_the_history_is_known_by_its_id() -> None:
    assert parts(None, role="assistant", audio={"id": "audio-1"}) == [
        {"type": "file", "modality": "audio", "file_id": "audio-1"}
    ]


@pytest.mark.parametrize(
    "content", [None, "", [], {}, 7, [None], [7], [[]], object(), iter(["never read"])]
)
def test_content_that_says_nothing_gives_no_parts(content: Any) -> None:
    assert parts(content) == []


def test_an_iterator_is_never_read() -> None:
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
        ([12, "then", 13, "text"], [["then", "text"]]),  # llama.cpp: one prompt
        (None, []),
        (7, []),
    ],
)
def test_each_prompt_of_a_text_completion_is_a_message_of_the_user(
    prompt: Any, expected: list[list[str]]
) -> None:
    assert recorded(parse_completion_request({"prompt": prompt}).inputs) == [
        {"role": "user", "parts": [{"type": "text", "content": text} for text in texts]}
        for texts in expected
    ]


# --- tools --------------------------------------------------------------------------------


def test_tools_keep_type_name_description_and_parameters() -> None:
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


# --- replies ------------------------------------------------------------------------------


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
def test_a_reply_says_why_it_ended_in_the_words_of_the_conventions(
    reason: str | None, expected: dict[str, str]
) -> None:
    assert output({"role": "assistant", "content": "Hi"}, finish_reason=reason) == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "Hi"}],
        **expected,
    }


def test_a_reply_gives_reasoning_text_and_calls_in_that_order() -> None:
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


def test_a_refusal_is_text_that_is_marked_as_one() -> None:
    assert output({"role": "assistant", "content": None, "refusal": "No."})["parts"] == [
        {"type": "text", "content": "No.", "refusal": True}
    ]


def test_a_spoken_reply_is_its_sound_and_its_transcript() -> None:
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


def test_each_choice_is_a_message() -> None:
    choices = [
        {"index": 0, "text": "one", "finish_reason": "stop"},
        {"index": 1, "text": "two", "finish_reason": "length"},
    ]
    assert recorded(parse_choices(choices).outputs) == [
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


def test_the_models_of_the_openai_client_read_like_their_json() -> None:
    custom = "openai.types.chat.chat_completion_message_custom_tool_call"
    pytest.importorskip(custom, reason="older clients have no custom tools")
    reply = {
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
    model = ChatCompletion.model_validate(reply)
    assert parse_choices(model.choices).outputs == parse_choices(reply["choices"]).outputs
    assert len(parse_choices(model.choices).outputs[0]["parts"]) == 7
