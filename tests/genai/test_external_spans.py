"""Context keys, scopes and attributes of other instrumentations, as their releases set them."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from tests.genai.conftest import CLIENT_METRICS, chat, chat_response, make_call
from tests.support.recorder import Recorder

OPENLLMETRY_KEY = "suppress_language_model_instrumentation"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "smol"}
LANGFUSE = {
    "langfuse.observation.type": "generation",
    "langfuse.observation.model.name": "smol",
}


def make_call_in(
    recorder: Recorder, instrumenter: Any, scope: str, attributes: dict[str, Any], **options: Any
) -> trace.Span:
    """Make a call below the current span of another instrumentation. Return that span."""
    kind = options.pop("kind", SpanKind.INTERNAL)
    tracer = trace.get_tracer(scope, tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("external", kind=kind, attributes=attributes) as span:
        make_call(instrumenter, chat_response(), **options)
    return span


@pytest.mark.parametrize("value", [True, False, None])
def test_call_is_not_recorded_when_openllmetry_suppresses_it(instrumenter, value):
    """OpenLLMetry records the call itself. It sets the key to false where it does not."""
    token = context_api.attach(context_api.set_value(OPENLLMETRY_KEY, value))
    try:
        assert (instrumenter.start(chat()) is None) is (value is True)
    finally:
        context_api.detach(token)


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
def test_call_is_recorded_when_openllmetry_left_its_key_in_the_context(
    instrumenter, recorder, monkeypatch, framework
):
    """An asynchronous LangChain call leaves the key, and LlamaIndex sets it for every step."""
    module = f"opentelemetry.instrumentation.{framework}"
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    token = context_api.attach(context_api.set_value(OPENLLMETRY_KEY, True))
    try:
        make_call(instrumenter, chat_response())
    finally:
        context_api.detach(token)
    assert recorder.call().name == "chat smol"
    assert set(recorder.metrics()) == CLIENT_METRICS


@pytest.mark.parametrize(
    ("scope", "attributes", "is_same_call"),
    [
        ("langfuse-sdk", LANGFUSE, True),
        ("langfuse-sdk", {**LANGFUSE, "langfuse.observation.model.name": "other"}, False),
        ("langfuse-sdk", {"langfuse.observation.type": "generation"}, True),
        ("langfuse-sdk", {**LANGFUSE, "langfuse.observation.type": "embedding"}, False),
        ("langfuse-sdk", {**LANGFUSE, "langfuse.observation.type": "agent"}, False),
        ("langfuse-sdk", {**LANGFUSE, "langfuse.observation.type": "span"}, False),
        # The span of LiteLLM by OpenInference gets its kind with the response.
        ("openinference.instrumentation.litellm", {"llm.model_name": "openai/smol"}, True),
        ("openinference.instrumentation.litellm", {"llm.model_name": "openai/other"}, False),
        ("openinference.instrumentation.litellm", {"embedding.model_name": "smol"}, False),
        # OpenAI Agents by Logfire: no operation.
        (
            "logfire.openai_agents",
            {"logfire.msg_template": "Chat completion", "gen_ai.request.model": "smol"},
            True,
        ),
        ("logfire.openai_agents", {"logfire.msg_template": "Agent run: {name!r}"}, False),
        # A span of the application that has a model, but no operation.
        ("application", {"gen_ai.request.model": "smol"}, False),
    ],
)
def test_span_of_same_call_is_recognized_by_its_attributes(
    instrumenter, recorder, scope, attributes, is_same_call
):
    make_call_in(recorder, instrumenter, scope, attributes)
    names = [span.name for span in recorder.spans()]
    assert names == (["external"] if is_same_call else ["chat smol", "external"])


@pytest.mark.parametrize(
    ("scope", "attributes", "has_metrics"),
    [
        ("opentelemetry.instrumentation.genai.openai", CHAT, True),
        ("opentelemetry.instrumentation.openai.v1", CHAT, True),
        ("opentelemetry.instrumentation.langchain", CHAT, True),
        ("pydantic-ai", CHAT, True),
        ("opentelemetry.instrumentation.openai_agents", CHAT, False),
        ("opentelemetry.instrumentation.llamaindex", CHAT, False),
        ("logfire.openai", CHAT, False),
        ("langfuse-sdk", LANGFUSE, False),
        ("application", {"openinference.span.kind": "LLM"}, False),
    ],
)
def test_metrics_are_recorded_unless_owner_of_span_records_them(
    instrumenter, recorder, scope, attributes, has_metrics
):
    make_call_in(recorder, instrumenter, scope, attributes, kind=SpanKind.CLIENT)
    assert set(recorder.metrics()) == (set() if has_metrics else CLIENT_METRICS)


@pytest.mark.parametrize(
    ("scope", "attributes", "expected"),
    [
        (
            "opentelemetry.instrumentation.openai_agents",
            CHAT,
            {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5},
        ),
        (
            "opentelemetry.instrumentation.openai_agents",
            {**CHAT, "gen_ai.usage.input_tokens": 11},
            {"gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 5},
        ),
        (
            "openinference.instrumentation.openai_agents",
            {"openinference.span.kind": "LLM"},
            {"llm.token_count.prompt": 10, "llm.token_count.completion": 5},
        ),
        (
            "langfuse-sdk",
            LANGFUSE,
            {"langfuse.observation.usage_details": '{"input": 10, "output": 5}'},
        ),
        (
            "langfuse-sdk",
            {**LANGFUSE, "langfuse.observation.usage_details": json.dumps({"input": 11})},
            {"langfuse.observation.usage_details": '{"input": 11}'},
        ),
    ],
)
def test_missing_tokens_are_set_in_conventions_of_span(
    instrumenter, recorder, scope, attributes, expected
):
    span = make_call_in(recorder, instrumenter, scope, attributes, kind=SpanKind.CLIENT)
    assert dict(span.attributes) == {**attributes, **expected}


def test_owner_replaces_tokens_that_it_reads_later(instrumenter, recorder):
    tracer = trace.get_tracer("owner", tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT) as span:
        make_call(instrumenter, chat_response())
        span.set_attribute("gen_ai.usage.input_tokens", 12)
    (recorded,) = recorder.spans()
    assert recorded.attributes["gen_ai.usage.input_tokens"] == 12
    assert recorded.attributes["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("scope", ["owner", "openinference.owner"])
def test_unknown_tokens_are_not_set(instrumenter, recorder, scope):
    tracer = trace.get_tracer(scope, tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=CHAT):
        call = instrumenter.start(chat())
        call.fail(TimeoutError())
    (recorded,) = recorder.spans()
    assert dict(recorded.attributes) == CHAT
