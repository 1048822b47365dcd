"""`set_gen_ai_attrs` and the short names that it accepts."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from llamatelemetry.semconv import attribute_name, attributes, set_gen_ai_attrs

FULL_NAMES = {
    value for name, value in vars(attributes).items() if name.isupper() and isinstance(value, str)
}
OBSOLETE = {
    "gen_ai.system",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.completion_tokens",
    "gen_ai.usage.total_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
}


def test_set_gen_ai_attrs_uses_conventional_names():
    assert set_gen_ai_attrs(
        system="openai",
        operation="chat",
        model="gpt-4o",
        input_tokens=11,
        output_tokens=7,
        server_address="api.openai.com",
        server_port=443,
    ) == {
        "gen_ai.provider.name": "openai",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "server.address": "api.openai.com",
        "server.port": 443,
    }


def test_set_gen_ai_attrs_omits_none_but_keeps_zero():
    assert set_gen_ai_attrs() == {}
    assert set_gen_ai_attrs(
        system=None, model=None, input_tokens=None, output_tokens=0, response_id=None
    ) == {"gen_ai.usage.output_tokens": 0}


def test_set_gen_ai_attrs_omits_port_without_address():
    assert set_gen_ai_attrs(server_port=8080) == {}


def test_set_gen_ai_attrs_accepts_address_without_port():
    assert set_gen_ai_attrs(server_address="localhost") == {"server.address": "localhost"}


def test_set_gen_ai_attrs_normalizes_provider_but_not_operation():
    assert set_gen_ai_attrs(system="llama.cpp", operation="Summarize") == {
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.operation.name": "Summarize",
    }


def test_set_gen_ai_attrs_accepts_short_full_and_custom_names():
    more = {"gen_ai.response.model": "smol", "team": "search"}
    assert set_gen_ai_attrs(
        response_id="r-1",
        error_type="timeout",
        request_stop_sequences=["a", "b"],
        queue_duration=0.5,
        **more,
    ) == {
        "gen_ai.response.id": "r-1",
        "error.type": "timeout",
        "gen_ai.request.stop_sequences": ["a", "b"],
        "llamatelemetry.queue_duration": 0.5,
        "gen_ai.response.model": "smol",
        "team": "search",
    }


def test_set_gen_ai_attrs_sets_returned_attributes_on_span(recorder):
    tracer = trace.get_tracer("test", tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("by hand") as span:
        returned = set_gen_ai_attrs(span, system="llamacpp", model=None, input_tokens=3)
    (ended,) = recorder.spans()
    assert dict(ended.attributes) == returned
    assert returned == {"gen_ai.provider.name": "llama_cpp", "gen_ai.usage.input_tokens": 3}


def test_returned_attributes_can_be_set_on_span(recorder):
    tracer = trace.get_tracer("test", tracer_provider=recorder.tracer_provider)
    attrs = set_gen_ai_attrs(system="openai", operation="chat", output_tokens=5)
    with tracer.start_as_current_span("later") as span:
        span.set_attributes(attrs)
    assert dict(recorder.spans()[0].attributes) == attrs


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("response_id", "gen_ai.response.id"),
        ("operation_name", "gen_ai.operation.name"),
        ("usage_cache_read_input_tokens", "gen_ai.usage.cache_read.input_tokens"),
        ("usage_reasoning_output_tokens", "gen_ai.usage.reasoning.output_tokens"),
        ("request_choice_count", "gen_ai.request.choice.count"),
        ("conversation_id", "gen_ai.conversation.id"),
        ("error_type", "error.type"),
        ("server_address", "server.address"),
        ("server_port", "server.port"),
        ("http_response_status_code", "http.response.status_code"),
        ("openai_api_type", "openai.api.type"),
        ("queue_duration", "llamatelemetry.queue_duration"),
        ("ttft_ms", "gen_ai.ttft_ms"),
        ("server_time_to_first_token", "gen_ai.server.time_to_first_token"),
        ("team", "team"),
        ("gen_ai.response.id", "gen_ai.response.id"),
        ("", ""),
    ],
)
def test_attribute_name_expands_short_names_only(short, full):
    assert attribute_name(short) == full


def test_attribute_name_keeps_full_names():
    assert {name: attribute_name(name) for name in FULL_NAMES} == {n: n for n in FULL_NAMES}


def test_obsolete_attributes_have_no_constant():
    assert not FULL_NAMES & OBSOLETE
