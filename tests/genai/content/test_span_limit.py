"""Limit of the whole content of a call on one span."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai.content.limits import compact_json
from llamatelemetry.genai.content.span_limit import SPAN_MAX_CHARS, fit_on_span
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.message_schemas import check

IN, OUT = "gen_ai.input.messages", "gen_ai.output.messages"
TOOLS, INSTRUCTIONS = "gen_ai.tool.definitions", "gen_ai.system_instructions"


def text_message(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def length(content: dict[str, list[Any]]) -> int:
    return sum(len(compact_json(items)) for items in content.values())


def test_content_within_limit_is_unchanged():
    content = {IN: [text_message("Hi")] * 20, OUT: [text_message("Ho", "assistant")]}
    assert fit_on_span(content, 16384, None) == content
    assert fit_on_span(content, 16384, 10_000) == content


def test_long_conversation_keeps_latest_messages_and_marks_emptied_ones():
    messages = [text_message(f"{n} " + "x" * 16_000) for n in range(200)]
    fitted = fit_on_span({IN: messages, OUT: [text_message("answer", "assistant")]}, 16384, None)
    assert 0.9 * SPAN_MAX_CHARS < length(fitted) <= SPAN_MAX_CHARS + 16384
    assert fitted[OUT] == [text_message("answer", "assistant")]
    assert fitted[IN][-60:] == messages[-60:]
    assert fitted[IN][0] == {
        "role": "user",
        "parts": [],
        "truncated": True,
        "original_chars": len(compact_json(messages[0])),
    }
    assert len(fitted[IN]) == 200
    (shortened,) = [m for m in fitted[IN] if m["parts"] and "truncated" in m["parts"][0]]
    assert shortened["parts"][0]["original_chars"] == len(
        messages[fitted[IN].index(shortened)]["parts"][0]["content"]
    )
    check(IN, fitted[IN])


def test_dropped_messages_are_counted():
    fitted = fit_on_span({IN: [text_message("x" * 300)] * 10_000}, 16384, None)
    assert len(fitted[IN]) < 10_000
    assert fitted[IN][0]["dropped_items"] == 10_000 - len(fitted[IN])
    assert fitted[IN][-1] == text_message("x" * 300)
    check(IN, fitted[IN])


def test_truncated_tools_and_instructions_have_original_length():
    tools = [
        {"type": "function", "name": f"f{n}", "parameters": {"a": "x" * 900}} for n in range(9)
    ]
    instructions = [{"type": "text", "content": "x" * 5000}]
    fitted = fit_on_span({INSTRUCTIONS: instructions, TOOLS: tools}, 16384, 1000)
    for name, items in fitted.items():
        assert len(compact_json(items)) <= 1000
        check(name, items)
    assert {tool["name"] for tool in fitted[TOOLS]} == {f"f{n}" for n in range(9)}
    assert fitted[INSTRUCTIONS][0]["original_chars"] == 5000


def test_part_truncated_before_keeps_original_length():
    part = {"type": "text", "content": "x" * 999 + "…", "truncated": True, "original_chars": 70_000}
    fitted = fit_on_span({IN: [{"role": "user", "parts": [part]}]}, 1000, 400)
    (shortened,) = fitted[IN][0]["parts"]
    assert shortened["original_chars"] == 70_000
    assert len(shortened["content"]) < 400


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
def test_attribute_length_is_within_sdk_limit(messages, max_chars):
    fitted = fit_on_span({IN: messages}, 300, max_chars)
    assert len(compact_json(fitted[IN])) <= max(max_chars, 2)
    check(IN, fitted[IN])


@pytest.mark.parametrize("max_chars", [64, 200, 1000])
def test_recorded_content_is_valid_json_under_sdk_limit(max_chars):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(
        span_limits=SpanLimits(max_span_attribute_length=max_chars), shutdown_on_exit=False
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    OpenAIInstrumentor().instrument(
        tracer_provider=provider, config=LlamaTelemetryConfig(capture_content="span_only")
    )
    try:
        client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
        messages = [{"role": "user", "content": "x" * 500}] * 5
        client.chat.completions.create(model="smol", messages=messages)
    finally:
        OpenAIInstrumentor().uninstrument()
    (span,) = exporter.get_finished_spans()
    text = span.attributes[IN]
    assert len(text) <= max_chars
    check(IN, json.loads(text))
