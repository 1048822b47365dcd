"""All the content of a call together: what fits on a span, and how it says what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai.content.limits import compact_json
from llamatelemetry.genai.content.span_limit import SPAN_MAX_CHARS, fit_on_span
from llamatelemetry.otel._sdk_private import attribute_length_limit
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.genai.message_schemas import check
from tests.openai_plugin import replies

IN, OUT = "gen_ai.input.messages", "gen_ai.output.messages"
TOOLS, INSTRUCTIONS = "gen_ai.tool.definitions", "gen_ai.system_instructions"


def said(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def length(found: dict[str, list[Any]]) -> int:
    return sum(len(compact_json(items)) for items in found.values())


def test_what_fits_stays_as_it_is():
    found = {IN: [said("Hi")] * 20, OUT: [said("Ho", "assistant")]}
    assert fit_on_span(found, 16384, None) == found
    assert fit_on_span(found, 16384, 10_000) == found


def test_a_long_conversation_keeps_its_end_and_says_what_it_lost():
    messages = [said(f"{n} " + "x" * 16_000) for n in range(200)]
    found = fit_on_span({IN: messages, OUT: [said("answer", "assistant")]}, 16384, None)
    assert 0.9 * SPAN_MAX_CHARS < length(found) <= SPAN_MAX_CHARS + 16384
    assert found[OUT] == [said("answer", "assistant")]
    assert found[IN][-60:] == messages[-60:]
    assert found[IN][0] == {
        "role": "user",
        "parts": [],
        "truncated": True,
        "original_chars": len(compact_json(messages[0])),
    }
    assert len(found[IN]) == 200
    (cut,) = [m for m in found[IN] if m["parts"] and "truncated" in m["parts"][0]]
    assert cut["parts"][0]["original_chars"] == len(
        messages[found[IN].index(cut)]["parts"][0]["content"]
    )
    check(IN, found[IN])


def test_more_messages_than_anybody_reads_are_counted():
    found = fit_on_span({IN: [said("x" * 300)] * 10_000}, 16384, None)
    assert len(found[IN]) < 10_000
    assert found[IN][0]["dropped_items"] == 10_000 - len(found[IN])
    assert found[IN][-1] == said("x" * 300)
    check(IN, found[IN])


def test_tools_and_instructions_say_that_they_were_cut():
    tools = [
        {"type": "function", "name": f"f{n}", "parameters": {"a": "x" * 900}} for n in range(9)
    ]
    instructions = [{"type": "text", "content": "x" * 5000}]
    found = fit_on_span({INSTRUCTIONS: instructions, TOOLS: tools}, 16384, 1000)
    for name, items in found.items():
        assert len(compact_json(items)) <= 1000
        check(name, items)
    assert {tool["name"] for tool in found[TOOLS]} == {f"f{n}" for n in range(9)}
    assert found[INSTRUCTIONS][0]["original_chars"] == 5000


def test_a_part_that_was_cut_before_is_as_long_as_it_was_at_first():
    part = {"type": "text", "content": "x" * 999 + "…", "truncated": True, "original_chars": 70_000}
    found = fit_on_span({IN: [{"role": "user", "parts": [part]}]}, 1000, 400)
    (left,) = found[IN][0]["parts"]
    assert left["original_chars"] == 70_000
    assert len(left["content"]) < 400


_MESSAGES = st.lists(
    st.builds(
        lambda role, texts: {
            "role": role,
            "parts": [{"type": "text", "content": t} for t in texts],
        },
        st.sampled_from(["user", "assistant"]),
        st.lists(st.text(max_size=300), max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@given(_MESSAGES, st.integers(2, 3000))
def test_no_attribute_is_longer_than_the_sdk_lets_it_be(messages, max_chars):
    found = fit_on_span({IN: messages}, 300, max_chars)
    assert len(compact_json(found[IN])) <= max(max_chars, 2)
    check(IN, found[IN])


@pytest.mark.parametrize("max_chars", [64, 200, 1000])
def test_json_on_a_span_stays_json_under_the_limit_of_the_sdk(max_chars):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(
        span_limits=SpanLimits(max_span_attribute_length=max_chars), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    OpenAIInstrumentor().instrument(
        tracer_provider=provider, config=LlamaTelemetryConfig(capture_content="span_only")
    )
    try:
        client = replies.client(lambda _: replies.json_reply(replies.chat()))
        messages = [{"role": "user", "content": "x" * 500}] * 5
        client.chat.completions.create(model="smol", messages=messages)
    finally:
        OpenAIInstrumentor().uninstrument()
    (span,) = exporter.get_finished_spans()
    text = span.attributes[IN]
    assert len(text) <= max_chars
    check(IN, json.loads(text))


def test_a_span_without_limits_has_none():
    assert attribute_length_limit(INVALID_SPAN) is None
