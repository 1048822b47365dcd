"""Responses of the Responses API: their finish reasons, and the usage of those that are fetched."""

from __future__ import annotations

from typing import Any

import pytest

from llamatelemetry.genai import (
    Usage,
    parse_created_response,
    parse_fetched_response,
    parse_responses_parameters,
)
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


NAMED = {"gen_ai.prompt.name": "p"}


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({"max_output_tokens": 9}, {"gen_ai.request.max_tokens": 9}),
        ({"prompt": {"id": "p"}}, NAMED),
        ({"prompt": {"id": "p", "version": "2"}}, {**NAMED, "gen_ai.prompt.version": "2"}),
        ({"prompt": {"version": "2"}}, {}),
        ({"prompt": "SECRET"}, {}),
        ({"input": [{"type": "compaction"}]}, {"gen_ai.conversation.compacted": True}),
        ({"input": [{"type": "message"}]}, {}),
        ({"input": "compaction"}, {}),
    ],
)
def test_request_parameters_have_prompt_version_and_compaction(
    body: dict[str, Any], parameters: dict[str, Any]
) -> None:
    assert parse_responses_parameters(body) == parameters


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_first_fetch_of_a_finished_response_has_its_usage(status: str) -> None:
    created = {"id": f"resp-{status}", "status": status}
    finished = {**created, "status": "completed", "usage": {"input_tokens": 7, "output_tokens": 3}}
    parse_created_response(created)
    fetched = [parse_fetched_response(each).usage for each in (created, finished, finished)]
    assert fetched == [Usage(), Usage(7, 3), Usage()]


def test_fetched_response_that_its_creation_returned_finished_has_no_usage() -> None:
    finished = response(id="resp-finished", usage={"input_tokens": 7, "output_tokens": 3})
    assert parse_created_response(finished).usage == Usage(7, 3)
    assert parse_fetched_response(finished).usage == Usage()
