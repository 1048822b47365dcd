"""Any JSON at all, where messages are expected: messages of the schema, and never an error."""

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
            "mystery",
        ),
    ]
)
ODD = st.recursive(
    st.one_of(SCALARS, KINDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(FIELDS, inner, max_size=4),
        # So that readers of a kind get something to read.
        st.builds(lambda kind, rest: {**rest, "type": kind}, KINDS, st.dictionaries(FIELDS, inner)),
    ),
    max_leaves=15,
)
ITEMS = st.one_of(ODD, st.lists(ODD, max_size=4))
BODIES = st.one_of(
    json_values(),
    ODD,
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("messages", "prompt", "input", "tools", "instructions"), ITEMS)
    ),
)
LIMITS = st.integers(1, 60)


def check_content(content: Content, max_chars: int) -> dict[str, Any]:
    """Everything that would be recorded of some content: of the schema, as JSON, and by OTLP."""
    recorded: dict[str, Any] = {
        "gen_ai.input.messages": limit_messages(content.inputs, max_chars),
        "gen_ai.output.messages": limit_messages(content.outputs, max_chars),
        "gen_ai.system_instructions": limit_parts(content.instructions, max_chars),
        "gen_ai.tool.definitions": limit_tools(content.tools, max_chars),
    }
    for name, value in recorded.items():
        if name == "gen_ai.tool.definitions":
            # Their parameters are a JSON schema only where the application has sent one.
            for tool in value:
                tool.pop("parameters", None)
        check(name, value)
        text = compact_json(value)
        assert json.loads(text.encode()) == value
        MessageToDict(_encode_value(value))
    return recorded


@given(BODIES, LIMITS)
def test_any_chat_request(body: Any, max_chars: int) -> None:
    check_content(parse_chat_request(body), max_chars)


@given(BODIES, LIMITS)
def test_any_completion_request(body: Any, max_chars: int) -> None:
    check_content(parse_completion_request(body), max_chars)


@given(ITEMS, LIMITS)
def test_any_choices(choices: Any, max_chars: int) -> None:
    check_content(parse_choices(choices), max_chars)


@given(BODIES, LIMITS)
def test_any_responses_request(body: Any, max_chars: int) -> None:
    check_content(parse_responses_request(body), max_chars)


@given(st.one_of(ODD, st.fixed_dictionaries({"output": ITEMS, "status": SCALARS})), LIMITS)
def test_any_response(reply: Any, max_chars: int) -> None:
    check_content(parse_fetched_content(reply), max_chars)


EVENTS = st.lists(
    st.one_of(
        ODD,
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
                "item": ODD,
                "delta": TEXTS,
                "output_index": SCALARS,
                "content_index": SCALARS,
            },
        ),
    ),
    max_size=6,
)


@given(EVENTS, LIMITS)
def test_any_stream_of_events(events: list[Any], max_chars: int) -> None:
    fold = ResponsesContentAccumulator(max_chars)
    for event in events:
        fold.add(event)
    check_content(fold.content(), max_chars)


@pytest.mark.skipif(
    not hasattr(types, "TextPart"),
    reason="completion hooks need opentelemetry-util-genai 1.2 or newer",
)
@given(BODIES, LIMITS)
def test_content_comes_back_from_a_hook_as_it_went_there(body: Any, max_chars: int) -> None:
    for read in (parse_chat_request, parse_responses_request):
        content = read(body)
        back = HookMessages(content, types).content()
        assert check_content(back, max_chars) == check_content(content, max_chars)


@given(st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS}), max_size=3))
def test_reading_changes_nothing_of_what_is_read(messages: list[dict[str, Any]]) -> None:
    body = {"messages": messages, "input": messages}
    before = json.dumps(body)
    limit_messages(parse_chat_request(body).inputs, 3)
    limit_messages(parse_responses_request(body).inputs, 3)
    assert json.dumps(body) == before
