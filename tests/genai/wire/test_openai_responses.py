"""Responses of the Responses API: their finish reasons."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.genai import parse_created_response
from tests.genai.responses_api import function_call, response


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (function_call(), "tool_calls"),
        ({"type": "local_shell_call", "call_id": "c"}, "tool_calls"),
        ({"type": "shell_call", "call_id": "c"}, "tool_calls"),
        ({"type": "shell_call", "environment": {"type": "local"}}, "tool_calls"),
        ({"type": "shell_call", "environment": {"type": "container_reference"}}, "stop"),
        ({"type": "web_search_call", "id": "w"}, "stop"),
    ],
)
def test_response_with_call_for_application_has_finish_reason_tool_calls(
    item: dict[str, Any], reason: str
) -> None:
    assert parse_created_response(response(item)).finish_reasons == (reason,)
