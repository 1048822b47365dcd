"""Conversion of each item type of the Responses API to message parts."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.genai import parse_created_response
from llamatelemetry.genai.content.limits import limit_parts
from llamatelemetry.genai.content.responses_messages import item_parts
from tests.genai.responses_api import LARGE
from tests.support.message_schemas import check_parts


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "5"},
            [{"type": "tool_call", "id": "c", "name": "sh", "arguments": "5"}],
        ),
        (
            {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}},
            [
                {
                    "type": "tool_call",
                    "id": "c",
                    "name": "local_shell",
                    "arguments": {"action": {"command": ["ls"]}},
                }
            ],
        ),
        (
            {"type": "computer_call", "call_id": "c", "action": {"type": "wait"}},
            [
                {
                    "type": "tool_call",
                    "id": "c",
                    "name": "computer",
                    "arguments": {"action": {"type": "wait"}},
                }
            ],
        ),
        (
            {
                "type": "computer_call_output",
                "call_id": "c",
                "output": {
                    "type": "computer_screenshot",
                    "image_url": f"data:image/png;base64,{LARGE}",
                },
            },
            [
                {
                    "type": "tool_call_response",
                    "id": "c",
                    "response": [
                        {
                            "type": "blob",
                            "modality": "image",
                            "mime_type": "image/png",
                            "content": "",
                            "truncated": True,
                            "original_bytes": 3000,
                        }
                    ],
                }
            ],
        ),
        (
            {
                "type": "shell_call_output",
                "call_id": "c",
                "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "timeout"}}],
            },
            [
                {
                    "type": "tool_call_response",
                    "id": "c",
                    "response": [{"stdout": "a", "stderr": "", "outcome": {"type": "timeout"}}],
                }
            ],
        ),
        (
            {
                "type": "web_search_call",
                "id": "ws",
                "status": "completed",
                "action": {"type": "search", "query": "rain"},
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "ws",
                    "name": "web_search",
                    "server_tool_call": {
                        "type": "web_search",
                        "action": {"type": "search", "query": "rain"},
                    },
                }
            ],
        ),
        (
            {
                "type": "code_interpreter_call",
                "id": "ci",
                "code": "1+1",
                "container_id": "k",
                "outputs": [{"type": "logs", "logs": "2"}],
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "ci",
                    "name": "code_interpreter",
                    "server_tool_call": {
                        "type": "code_interpreter",
                        "code": "1+1",
                        "container_id": "k",
                    },
                },
                {
                    "type": "server_tool_call_response",
                    "id": "ci",
                    "server_tool_call_response": {
                        "type": "code_interpreter",
                        "outputs": [{"type": "logs", "logs": "2"}],
                    },
                },
            ],
        ),
        (
            {
                "type": "mcp_call",
                "id": "mcp",
                "name": "roll",
                "server_label": "dice",
                "arguments": '{"n": 2}',
                "output": "7",
                "error": None,
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "mcp",
                    "name": "roll",
                    "server_tool_call": {
                        "type": "mcp",
                        "server_label": "dice",
                        "arguments": {"n": 2},
                    },
                },
                {
                    "type": "server_tool_call_response",
                    "id": "mcp",
                    "server_tool_call_response": {"type": "mcp", "output": "7"},
                },
            ],
        ),
        (
            {
                "type": "image_generation_call",
                "id": "ig",
                "revised_prompt": "A cat.",
                "output_format": "svg",
                "result": LARGE,
            },
            [
                {
                    "type": "server_tool_call",
                    "id": "ig",
                    "name": "image_generation",
                    "server_tool_call": {"type": "image_generation", "revised_prompt": "A cat."},
                },
                {
                    "type": "blob",
                    "modality": "image",
                    "mime_type": "image/svg+xml",
                    "content": "",
                    "truncated": True,
                    "original_bytes": 3000,
                },
            ],
        ),
        (
            {"type": "tool_search_output", "call_id": "c", "tools": []},
            [
                {
                    "type": "server_tool_call_response",
                    "id": "c",
                    "server_tool_call_response": {"type": "tool_search", "tools": []},
                }
            ],
        ),
        (
            {"type": "compaction", "id": "cp", "encrypted_content": "SECRET"},
            [{"type": "compaction", "id": "cp"}],
        ),
        (
            {"type": "program", "id": "p", "code": "f()", "encrypted_content": "SECRET"},
            [{"type": "program", "content": {"id": "p", "code": "f()"}}],
        ),
        ({"type": "reasoning", "id": "rs", "summary": []}, []),
        ({"type": "message", "content": None}, []),
    ],
)
def test_item_becomes_parts_of_its_type(item: Any, expected: list[dict[str, Any]]) -> None:
    parts = limit_parts(item_parts(item), 1000)
    check_parts(parts)
    assert parts == expected


def test_shell_call_in_container_of_provider_is_a_server_tool_call() -> None:
    environment = {"type": "container_reference", "container_id": "c"}
    call = {"type": "shell_call", "call_id": "c1", "action": {"commands": ["ls"]}}
    output = {"type": "shell_call_output", "call_id": "c1", "output": [{"stdout": "a"}]}
    reply = {"status": "completed", "output": [{**call, "environment": environment}, output]}
    response = parse_created_response(reply)
    assert response.read_content is not None
    (message,) = response.read_content().outputs
    assert [part["type"] for part in message["parts"]] == [
        "server_tool_call",
        "server_tool_call_response",
    ]
    assert (response.finish_reasons, message["finish_reason"]) == (("stop",), "stop")


def test_shell_call_of_application_has_same_reason_on_span_and_in_message() -> None:
    call = {"type": "shell_call", "call_id": "c1", "environment": {"type": "local"}}
    response = parse_created_response({"status": "completed", "output": [call]})
    assert response.read_content is not None
    (message,) = response.read_content().outputs
    assert (response.finish_reasons, message["finish_reason"]) == (("tool_calls",), "tool_call")
