"""Attributes made by hand: `set_gen_ai_attrs`, and the short names it takes."""

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


def test_every_argument_has_its_conventional_name():
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


def test_what_is_none_is_left_out_and_zero_is_not():
    assert set_gen_ai_attrs() == {}
    assert set_gen_ai_attrs(
        system=None, model=None, input_tokens=None, output_tokens=0, response_id=None
    ) == {"gen_ai.usage.output_tokens": 0}


def test_a_port_without_an_address_says_nothing():
    assert set_gen_ai_attrs(server_port=8080) == {}


def test_an_address_may_come_without_a_port():
    assert set_gen_ai_attrs(server_address="localhost") == {"server.address": "localhost"}


def test_the_provider_is_normalised_and_the_operation_is_kept():
    assert set_gen_ai_attrs(system="llama.cpp", operation="Summarise") == {
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.operation.name": "Summarise",
    }


def test_further_attributes_come_by_short_name_in_full_or_as_they_are():
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


def test_a_span_given_first_gets_exactly_what_is_returned(recorder):
    tracer = trace.get_tracer("test", tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("by hand") as span:
        returned = set_gen_ai_attrs(span, system="llamacpp", model=None, input_tokens=3)
    (ended,) = recorder.spans()
    assert dict(ended.attributes) == returned
    assert returned == {"gen_ai.provider.name": "llama_cpp", "gen_ai.usage.input_tokens": 3}


def test_the_same_attributes_can_be_set_later(recorder):
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
def test_a_short_name_has_one_full_name_and_any_other_is_its_own(short, full):
    assert attribute_name(short) == full


def test_a_full_name_is_never_taken_for_a_short_one():
    assert {name: attribute_name(name) for name in FULL_NAMES} == {n: n for n in FULL_NAMES}


def test_no_obsolete_attribute_has_a_constant():
    assert not FULL_NAMES & OBSOLETE
