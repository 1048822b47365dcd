"""Conversion of the requests and responses of the Responses API to messages."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.genai import Content, parse_responses_request
from llamatelemetry.genai.content.responses_messages import (
    parse_fetched_content,
    parse_responses_content,
)
from tests.genai.conftest import recorded_messages
from tests.genai.responses_api import (
    LARGE,
    TEXT,
    function_call,
    message,
    response,
)
from tests.support.message_schemas import check


def inputs(request_input: Any) -> list[dict[str, Any]]:
    return recorded_messages(parse_responses_request({"input": request_input}).inputs)


def test_text_input_becomes_user_message() -> None:
    assert inputs("Hi") == [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]


def test_instructions_and_tools_are_separate_from_messages() -> None:
    content = parse_responses_request(
        {
            "instructions": "Be brief.",
            "input": [{"role": "developer", "content": "Be kind."}],
            "tools": [{"type": "function", "name": "f", "parameters": {}}],
        }
    )
    check("gen_ai.system_instructions", content.instructions)
    assert content == Content(
        instructions=[{"type": "text", "content": "Be brief."}],
        inputs=[{"role": "developer", "parts": [{"type": "text", "content": "Be kind."}]}],
        tools=[{"type": "function", "name": "f", "parameters": {}}],
    )


def test_media_of_input_message_becomes_parts() -> None:
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "auto"},
        {"type": "input_image", "file_id": "file-1", "detail": "auto"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{LARGE}"},
        {"type": "input_file", "file_id": "file-2"},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
        {"type": "input_file", "file_data": LARGE, "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    dropped = {"content": "", "truncated": True, "original_bytes": 3000}
    (parsed,) = inputs([{"role": "user", "content": content}])
    assert parsed["parts"] == [
        {"type": "text", "content": "What is this?"},
        {"type": "uri", "modality": "image", "uri": "https://x.test/a.png"},
        {"type": "file", "modality": "image", "file_id": "file-1"},
        {"type": "blob", "modality": "image", "mime_type": "image/png", **dropped},
        {"type": "file", "modality": "document", "file_id": "file-2"},
        {"type": "uri", "modality": "document", "uri": "https://x.test/a.pdf"},
        {"type": "blob", "modality": "document", "mime_type": "application/pdf", **dropped},
        {"type": "blob", "modality": "audio", "mime_type": "audio/wav", "content": "AAAA"},
    ]


def test_model_items_of_one_turn_become_one_message() -> None:
    assert inputs(
        [
            {"role": "user", "content": "Weather?"},
            {
                "type": "reasoning",
                "id": "rs-1",
                "summary": [{"type": "summary_text", "text": "Two cities."}],
                "encrypted_content": "SECRET",
            },
            message({"type": "output_text", "text": "Let me see."}),
            function_call(arguments='{"city": "Paris"}'),
            function_call(call_id="call-2", arguments='{"city": "Rome"}'),
            {"type": "function_call_output", "call_id": "call-1", "output": "rain"},
            {
                "type": "function_call_output",
                "call_id": "call-2",
                "output": [{"type": "input_text", "text": "sun"}],
            },
            message({"type": "output_text", "text": "Rain and sun."}),
            {"role": "assistant", "content": "Anything else?"},
        ]
    ) == [
        {"role": "user", "parts": [{"type": "text", "content": "Weather?"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Two cities."},
                {"type": "text", "content": "Let me see."},
                {
                    "type": "tool_call",
                    "id": "call-1",
                    "name": "weather",
                    "arguments": {"city": "Paris"},
                },
                {
                    "type": "tool_call",
                    "id": "call-2",
                    "name": "weather",
                    "arguments": {"city": "Rome"},
                },
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "call-1", "response": "rain"}],
        },
        {
            "role": "tool",
            "parts": [
                {
                    "type": "tool_call_response",
                    "id": "call-2",
                    "response": [{"type": "text", "content": "sun"}],
                }
            ],
        },
        {"role": "assistant", "parts": [{"type": "text", "content": "Rain and sun."}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Anything else?"}]},
    ]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"type": "item_reference", "id": "msg-1"}, "unknown"),
        ({"type": "mcp_approval_response", "approve": True}, "user"),
        ({"type": "computer_call_output", "output": None}, "tool"),
        ({"type": "web_search_call", "id": "ws-1"}, "assistant"),
        ({"type": "brand_new_call"}, "assistant"),
    ],
)
def test_item_without_role_has_role_of_its_type(item: dict[str, Any], expected: str) -> None:
    assert inputs([item])[0]["role"] == expected


def test_response_becomes_one_message_with_all_items() -> None:
    content = parse_responses_content(
        response(
            {
                "type": "reasoning",
                "id": "rs",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm."}],
            },
            message(TEXT, {"type": "refusal", "refusal": "No."}),
        )
    )
    assert recorded_messages(content.outputs) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "text", "content": "Hi"},
                {"type": "text", "content": "No.", "refusal": True},
            ],
            "finish_reason": "stop",
        }
    ]


@pytest.mark.parametrize(
    ("items", "more", "expected"),
    [
        ([message(TEXT)], {}, "stop"),
        ([message(TEXT), function_call()], {}, "tool_call"),
        (
            [message(TEXT)],
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            "length",
        ),
        (
            [function_call()],
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
        ),
        ([message(TEXT)], {"status": "incomplete"}, "incomplete"),
        ([message(TEXT)], {"status": "failed"}, "error"),
        ([message(TEXT)], {"status": "in_progress"}, None),
        ([message(TEXT)], {"status": ["invalid"]}, None),
    ],
)
def test_output_message_has_finish_reason(
    items: list[Any], more: dict[str, Any], expected: str | None
) -> None:
    (parsed,) = recorded_messages(parse_responses_content(response(*items, **more)).outputs)
    assert parsed.get("finish_reason") == expected


def test_response_without_output_has_no_message() -> None:
    assert parse_responses_content(response()) == Content()
    assert parse_responses_content(None) == Content()


def test_fetched_response_has_instructions_and_tools() -> None:
    tools = [{"type": "function", "name": "f", "parameters": {}, "strict": True}]
    assert parse_fetched_content(
        response(message(TEXT), instructions="Be brief.", tools=tools)
    ) == (
        Content(
            outputs=[
                {
                    "role": "assistant",
                    "parts": [{"type": "text", "content": "Hi"}],
                    "finish_reason": "stop",
                }
            ],
            instructions=[{"type": "text", "content": "Be brief."}],
            tools=[{"type": "function", "name": "f", "parameters": {}}],
        )
    )
    as_items = [{"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]}]
    assert parse_fetched_content(response(instructions=as_items)).instructions == [
        {"type": "text", "content": "Be brief."}
    ]


def test_models_of_openai_client_equal_their_json() -> None:
    body = response(
        message(TEXT),
        function_call(arguments='{"a": [1]}'),
        {
            "type": "web_search_call",
            "id": "ws",
            "status": "completed",
            "action": {"type": "search", "query": "rain"},
        },
        {
            "type": "code_interpreter_call",
            "id": "ci",
            "status": "completed",
            "code": "1",
            "container_id": "k",
            "outputs": [{"type": "logs", "logs": "2"}],
        },
    )
    types = pytest.importorskip("openai.types.responses", reason="older clients lack this API")
    model = types.Response.model_validate(body)
    assert parse_responses_content(model) == parse_responses_content(body)
    assert len(parse_responses_content(model).outputs[0]["parts"]) == 5
