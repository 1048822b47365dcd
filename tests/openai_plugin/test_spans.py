"""The complete attributes of each kind of span, with their types."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.support import payloads
from tests.support.recorder import Recorder

SERVER = {"server.address": "llm.test", "server.port": 8080}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def pop_positive(attributes: dict[str, Any], *names: str) -> None:
    """Remove values that differ between runs, and check that they are positive floats."""
    for name in names:
        value = attributes.pop(name)
        assert type(value) is float, name
        assert value > 0, name


def test_chat_call_records_request_response_and_usage(instrumented: Recorder) -> None:
    reply = payloads.chat(service_tier="default", system_fingerprint="fp_1")
    create = payloads.client(lambda _: payloads.json_response(reply)).chat.completions.create
    parameters = payloads.known_to(
        create,
        temperature=0.5,
        top_p=0.9,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        seed=7,
        stop=["\n", "END"],
        response_format={"type": "json_object"},
        # Only newer clients accept the last three as arguments.
        extra_body={
            "top_k": 40,
            "max_completion_tokens": 32,
            "reasoning_effort": "low",
            "service_tier": "flex",
        },
    )
    create(model="smol", messages=payloads.MESSAGES, **parameters)
    span = instrumented.call()
    assert span.name == "chat smol"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert not span.events
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "llamatelemetry_instrumentation_openai"
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "smol",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.request.max_tokens": 32,
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("\n", "END"),
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.output.type": "json",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "openai.api.type": "chat_completions",
        "openai.request.service_tier": "flex",
        "openai.response.service_tier": "default",
        "openai.response.system_fingerprint": "fp_1",
        **SERVER,
    }


def test_chat_stream_records_chunk_times(instrumented: Recorder) -> None:
    body = payloads.sse(
        [
            *payloads.chat_chunks(),
            payloads.chat_chunks()[0] | {"choices": [], "usage": payloads.USAGE},
        ]
    )
    stream = payloads.client(lambda _: payloads.stream_response(body)).chat.completions.create(
        model="smol",
        messages=payloads.MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert len(list(stream)) == 5
    found = attributes(instrumented.call())
    pop_positive(found, "gen_ai.response.time_to_first_chunk")
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "smol",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "openai.api.type": "chat_completions",
        **SERVER,
    }


def test_text_completion_has_own_operation_name(instrumented: Recorder) -> None:
    payloads.client(lambda _: payloads.json_response(payloads.completion())).completions.create(
        model="smol", prompt="Hi", max_tokens=4, n=1
    )
    span = instrumented.call()
    assert span.name == "text_completion smol"
    assert attributes(span) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "smol",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.response.id": "cmpl-1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 2,
        **SERVER,
    }


def test_embeddings_record_input_tokens_dimensions_and_formats(instrumented: Recorder) -> None:
    payloads.client(lambda _: payloads.json_response(payloads.embeddings())).embeddings.create(
        model="embed", input=["a", "b"], dimensions=2, encoding_format="float"
    )
    span = instrumented.call()
    assert span.name == "embeddings embed"
    assert attributes(span) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "embed",
        "gen_ai.request.encoding_formats": ("float",),
        "gen_ai.embeddings.dimension.count": 2,
        "gen_ai.response.model": "embed-v1",
        "gen_ai.usage.input_tokens": 7,
        **SERVER,
    }


def test_timings_in_plain_response_are_recorded_as_phases(instrumented: Recorder) -> None:
    reply = payloads.chat(timings=payloads.TIMINGS)
    payloads.client(lambda _: payloads.json_response(reply)).chat.completions.create(
        model="smol", messages=payloads.MESSAGES
    )
    span = instrumented.call()
    found = attributes(span)
    queue_s = found.pop("llamatelemetry.queue_duration")
    assert found.pop("gen_ai.server.time_to_first_token") == pytest.approx(queue_s + 0.002)
    assert found.pop("gen_ai.ttft_ms") == pytest.approx(queue_s * 1000 + 2)
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "smol",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "gen_ai.prefill_ms": 2.0,
        "gen_ai.decode_ms": 4.0,
        "gen_ai.tpot_ms": 1.0,
        "gen_ai.server.time_per_output_token": 0.001,
        "llamatelemetry.queue_source": "remainder",
        "llamatelemetry.prompt_tokens": 5,
        "llamatelemetry.cached_tokens": 16,
        "llamatelemetry.predicted_tokens": 5,
        "llamatelemetry.drafted_tokens": 4,
        "llamatelemetry.accepted_tokens": 3,
        **SERVER,
    }


def test_phase_spans_are_children_with_actual_times(instrumented: Recorder) -> None:
    def answer(_: object) -> Any:
        time.sleep(0.02)  # Longer than prefill and decode together: the remainder is the queue.
        return payloads.json_response(payloads.chat(timings=payloads.TIMINGS))

    payloads.client(answer).chat.completions.create(model="smol", messages=payloads.MESSAGES)
    call = instrumented.call()
    phases = instrumented.phases(call)
    assert list(phases) == ["queue", "prefill", "decode"]
    assert all(span.kind is SpanKind.INTERNAL for span in phases.values())
    queue, prefill, decode = phases.values()
    assert call.start_time <= queue.start_time
    assert queue.end_time == prefill.start_time
    assert prefill.end_time - prefill.start_time == 2_000_000
    assert prefill.end_time == decode.start_time
    assert decode.end_time - decode.start_time == 4_000_000
    assert abs(call.end_time - decode.end_time) < 1_000
    queue_attributes = attributes(queue)
    assert queue_attributes.pop("llamatelemetry.queue_duration") > 0.014
    assert queue_attributes == {
        "llamatelemetry.phase": "queue",
        "llamatelemetry.queue_source": "remainder",
    }
    assert attributes(prefill) == {
        "llamatelemetry.phase": "prefill",
        "gen_ai.prefill_ms": 2.0,
        "llamatelemetry.prompt_tokens": 5,
        "llamatelemetry.cached_tokens": 16,
    }
    assert attributes(decode) == {
        "llamatelemetry.phase": "decode",
        "gen_ai.decode_ms": 4.0,
        "gen_ai.tpot_ms": 1.0,
        "llamatelemetry.predicted_tokens": 5,
        "llamatelemetry.drafted_tokens": 4,
        "llamatelemetry.accepted_tokens": 3,
    }


def test_stream_without_usage_records_tokens_from_timings(instrumented: Recorder) -> None:
    body = payloads.sse(payloads.chat_chunks(timings=payloads.TIMINGS))
    list(
        payloads.client(lambda _: payloads.stream_response(body)).chat.completions.create(
            model="smol", messages=payloads.MESSAGES, stream=True
        )
    )
    found = attributes(instrumented.call())
    pop_positive(
        found,
        "gen_ai.response.time_to_first_chunk",
        "gen_ai.ttft_ms",
        "llamatelemetry.queue_duration",
    )
    pop_positive(found, "gen_ai.server.time_to_first_token")
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "smol",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.prefill_ms": 2.0,
        "gen_ai.decode_ms": 4.0,
        "gen_ai.tpot_ms": 1.0,
        "gen_ai.server.time_per_output_token": 0.001,
        "llamatelemetry.queue_source": "header",
        "llamatelemetry.prompt_tokens": 5,
        "llamatelemetry.cached_tokens": 16,
        "llamatelemetry.predicted_tokens": 5,
        "llamatelemetry.drafted_tokens": 4,
        "llamatelemetry.accepted_tokens": 3,
        **SERVER,
    }


def test_server_header_identifies_llama_cpp_on_first_response(
    instrumented: Recorder,
) -> None:
    client = payloads.client(
        lambda _: payloads.json_response(payloads.embeddings(), server="llama.cpp")
    )
    client.embeddings.create(model="embed", input="a")
    assert instrumented.call().attributes["gen_ai.provider.name"] == "llama_cpp"


def test_model_file_is_recorded_without_directory(instrumented: Recorder) -> None:
    reply = payloads.chat(model="/srv/models/private/smol.gguf")
    payloads.client(lambda _: payloads.json_response(reply)).chat.completions.create(
        model="/srv/models/private/smol.gguf", messages=payloads.MESSAGES
    )
    span = instrumented.call()
    assert span.name == "chat smol.gguf"
    assert span.attributes["gen_ai.request.model"] == "smol.gguf"
    assert span.attributes["gen_ai.response.model"] == "smol.gguf"
