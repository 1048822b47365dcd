"""Responses, messages and function calls of the Responses API."""

from __future__ import annotations

import base64
from typing import Any

LARGE = base64.b64encode(b"\x00" * 3000).decode()
TEXT = {"type": "output_text", "text": "Hi", "annotations": []}


def response(*items: Any, **more: Any) -> dict[str, Any]:
    """Return a response with the items as its output."""
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 1,
        "model": "smol",
        "status": "completed",
        "output": list(items),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **more,
    }


def message(*content: Any, **more: Any) -> dict[str, Any]:
    """Return an item with a message of the assistant."""
    return {
        "type": "message",
        "id": "msg-1",
        "role": "assistant",
        "status": "completed",
        "content": list(content),
        **more,
    }


def function_call(name: str = "weather", arguments: str = "{}", **more: Any) -> dict[str, Any]:
    """Return an item with a function call."""
    return {
        "type": "function_call",
        "id": "fc-1",
        "call_id": "call-1",
        "name": name,
        "arguments": arguments,
        **more,
    }
