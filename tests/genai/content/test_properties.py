"""Conversion of arbitrary JSON to messages: the result is valid, and no error is raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal import _encode_value

from llamatelemetry.genai import (
    Content,
    parse_chat_request,
    parse_choices,
    parse_completion_request,
    parse_responses_request,
)
from llamatelemetry.genai.content.completion_hook import HookMessages
from llamatelemetry.genai.content.limits import (
    compact_json,
    limit_messages,
    limit_parts,
    limit_tools,
)
from llamatelemetry.genai.content.responses_accumulator import ResponsesContentAccumulator
from llamatelemetry.genai.content.responses_messages import parse_fetched_content
from tests.support.json_strategies import SCALARS, TEXTS, json_values
from tests.support.message_schemas import check

try:
    from opentelemetry.util.genai import types
except ImportError:
    types = None

FIELDS = st.sampled_from(
    [
        *("messages", "role", "content", "name", "tool_calls", "tool_call_id", "function"),
        *("arguments", "custom", "input", "function_call", "reasoning_content", "refusal", "audio"),
        *("data", "transcript", "type", "text", "image_url", "url", "input_audio", "format"),
        *("file", "file_id", "file_data", "file_url", "filename", "id", "call_id", "output"),
        *("summary", "action", "queries", "results", "code", "outputs", "tools", "description"),
        *(
            "parameters",
            "functions",
            "server_label",
            "instructions",
            "status",
            "result",
            "modality",
        ),
    ]
)
KINDS = st.sampled_from(
    [
        *("text", "input_text", "output_text", "refusal", "image_url", "input_image", "blob"),
        *("input_audio", "file", "input_file", "function", "custom", "message", "reasoning"),
        *("function_call", "function_call_output", "custom_tool_call", "mcp_call", "compaction"),
        *("image_generation_call", "code_interpreter_call", "computer_call_output", "web_search"),
        *(
            "computer_screenshot",
            "item_reference",
            "data:image/png;base64,AAAA",
            "data:x",
            "unknown type",
        ),
    ]
)
JSON_VALUES = st.recursive(
    st.one_of(SCALARS, KINDS),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(FIELDS, children, max_size=4),
        # Objects with a known type, so that the parser of that type runs.
        st.builds(
            lambda kind, rest: {**rest, "type": kind}, KINDS, st.dictionaries(FIELDS, children)
        ),
    ),
    max_leaves=15,
)
ITEMS = st.one_of(JSON_VALUES, st.lists(JSON_VALUES, max_size=4))
BODIES = st.one_of(
    json_values(),
    JSON_VALUES,
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("messages", "prompt", "input", "tools", "instructions"), ITEMS)
    ),
)
LIMITS = st.integers(1, 60)


def check_content(content: Content, max_chars: int) -> dict[str, Any]:
    """Check that the recorded content is valid by the schema, as JSON and in OTLP."""
    recorded: dict[str, Any] = {
        "gen_ai.input.messages": limit_messages(content.inputs, max_chars),
        "gen_ai.output.messages": limit_messages(content.outputs, max_chars),
        "gen_ai.system_instructions": limit_parts(content.instructions, max_chars),
        "gen_ai.tool.definitions": limit_tools(content.tools, max_chars),
    }
    for name, value in recorded.items():
        if name == "gen_ai.tool.definitions":
            # Arbitrary parameters are not a valid JSON schema.
            for tool in value:
                tool.pop("parameters", None)
        check(name, value)
        text = compact_json(value)
        assert json.loads(text.encode()) == value
        MessageToDict(_encode_value(value))
    return recorded


@given(BODIES, LIMITS)
def test_any_chat_request_becomes_valid_messages(body: Any, max_chars: int) -> None:
    check_content(parse_chat_request(body), max_chars)


@given(BODIES, LIMITS)
def test_any_completion_request_becomes_valid_messages(body: Any, max_chars: int) -> None:
    check_content(parse_completion_request(body), max_chars)


@given(ITEMS, LIMITS)
def test_any_choices_become_valid_messages(choices: Any, max_chars: int) -> None:
    check_content(parse_choices(choices), max_chars)


@given(BODIES, LIMITS)
def test_any_responses_request_becomes_valid_messages(body: Any, max_chars: int) -> None:
    check_content(parse_responses_request(body), max_chars)


@given(st.one_of(JSON_VALUES, st.fixed_dictionaries({"output": ITEMS, "status": SCALARS})), LIMITS)
def test_any_response_becomes_valid_messages(body: Any, max_chars: int) -> None:
    check_content(parse_fetched_content(body), max_chars)


EVENTS = st.lists(
    st.one_of(
        JSON_VALUES,
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    [
                        "response.output_item.added",
                        "response.output_item.done",
                        "response.output_text.delta",
                        "response.function_call_arguments.delta",
                        "response.refusal.delta",
                    ]
                )
            },
            optional={
                "item": JSON_VALUES,
                "delta": TEXTS,
                "output_index": SCALARS,
                "content_index": SCALARS,
            },
        ),
    ),
    max_size=6,
)


@given(EVENTS, LIMITS)
def test_any_events_become_valid_messages(events: list[Any], max_chars: int) -> None:
    accumulator = ResponsesContentAccumulator(max_chars)
    for event in events:
        accumulator.add(event)
    check_content(accumulator.content(), max_chars)


@pytest.mark.skipif(
    not hasattr(types, "TextPart"),
    reason="completion hooks need opentelemetry-util-genai 1.2 or newer",
)
@given(BODIES, LIMITS)
def test_content_is_unchanged_by_conversion_for_hook(body: Any, max_chars: int) -> None:
    for read in (parse_chat_request, parse_responses_request):
        content = read(body)
        returned = HookMessages(content, types).content()
        assert check_content(returned, max_chars) == check_content(content, max_chars)


@given(st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3))
def test_conversion_does_not_change_request(messages: list[dict[str, Any]]) -> None:
    body = {"messages": messages, "input": messages}
    before = json.dumps(body)
    limit_messages(parse_chat_request(body).inputs, 3)
    limit_messages(parse_responses_request(body).inputs, 3)
    assert json.dumps(body) == before
