"""Spans of finished calls: provider, phase attributes, phase spans, and export as OTLP."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import SpanKind

from llamatelemetry.genai import Response, Usage, current_call, known_servers, parse_response
from llamatelemetry.genai import call as call_module
from tests.genai.conftest import (
    COMMON,
    DURATION,
    LOCAL,
    OTHER_SERVER,
    SCOPE,
    TIMINGS,
    VERSION,
    chat,
)
from tests.support.json_strategies import REPLIES
from tests.support.recorder import Recorder


def test_timings_identify_llama_cpp_for_this_and_later_calls(start, recorder):
    start(parameters={"openai.api.type": "chat_completions"}).finish(
        Response(timings=TIMINGS, system_fingerprint="b1")
    )
    span = recorder.call()
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert not [name for name in span.attributes if name.startswith("openai.")]
    assert {p.attributes["gen_ai.provider.name"] for p in recorder.points(DURATION)} == {
        "llama_cpp"
    }
    second = start()
    assert second.request.provider == "llama_cpp"
    assert start(server=OTHER_SERVER).request.provider == "openai"


def test_configured_provider_overrides_detected_provider(make_instrumenter, recorder):
    instrumenter = make_instrumenter(provider_name="my_gateway")
    call = instrumenter.start(chat(parameters={"openai.api.type": "chat_completions"}))
    assert call.request.provider == "my_gateway"
    call.set_provider("llama_cpp")
    call.finish(Response(timings=TIMINGS))
    span = recorder.call()
    assert span.attributes["gen_ai.provider.name"] == "my_gateway"
    assert "openai.api.type" not in span.attributes
    # The option does not change what is known about the server.
    assert known_servers.provider_of(LOCAL, "openai") == "llama_cpp"


def finish_with_phases(call: Any, **changes: Any) -> None:
    call.start_attempt()
    time.sleep(0.1)
    call.finish(Response(timings=TIMINGS, **changes))


def test_phase_spans_follow_one_another_from_last_attempt(start, recorder):
    call = start()
    call.start_attempt()
    time.sleep(0.03)  # Duration of the failed first attempt.
    finish_with_phases(call)
    span = recorder.call()
    phases = recorder.phases(span)
    queue, prefill, decode = phases["queue"], phases["prefill"], phases["decode"]
    assert list(phases) == ["queue", "prefill", "decode"]
    assert {p.kind for p in phases.values()} == {SpanKind.INTERNAL}
    assert queue.start_time >= span.start_time + 30_000_000
    assert queue.end_time == prefill.start_time
    assert prefill.end_time - prefill.start_time == 20_000_000
    assert prefill.end_time == decode.start_time
    assert decode.end_time - decode.start_time == 40_000_000
    assert abs(decode.end_time - span.end_time) < 1000  # ns, for rounding errors
    assert span.attributes["http.request.resend_count"] == 1
    queue_s = span.attributes["llamatelemetry.queue_duration"]
    assert queue_s >= 0.04
    assert queue.end_time - queue.start_time == pytest.approx(queue_s * 1e9, abs=10)
    assert dict(queue.attributes) == {
        "llamatelemetry.phase": "queue",
        "llamatelemetry.queue_duration": queue_s,
        "llamatelemetry.queue_source": "remainder",
    }
    assert dict(prefill.attributes) == {
        "llamatelemetry.phase": "prefill",
        "gen_ai.prefill_ms": 20.0,
        "llamatelemetry.prompt_tokens": 7,
        "llamatelemetry.cached_tokens": 3,
    }
    assert dict(decode.attributes) == {
        "llamatelemetry.phase": "decode",
        "gen_ai.decode_ms": 40.0,
        "gen_ai.tpot_ms": 10.0,
        "llamatelemetry.predicted_tokens": 5,
    }


def test_call_records_phase_attributes_and_server_metrics(start, recorder):
    call = start()
    finish_with_phases(call, usage=Usage(input_tokens=10, output_tokens=5))
    attributes = dict(recorder.call().attributes)
    queue_s = attributes["llamatelemetry.queue_duration"]
    assert attributes == {
        **COMMON,
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "llamatelemetry.queue_duration": queue_s,
        "llamatelemetry.queue_source": "remainder",
        "gen_ai.prefill_ms": 20.0,
        "llamatelemetry.prompt_tokens": 7,
        "llamatelemetry.cached_tokens": 3,
        "gen_ai.decode_ms": 40.0,
        "gen_ai.tpot_ms": 10.0,
        "llamatelemetry.predicted_tokens": 5,
        "gen_ai.ttft_ms": pytest.approx((queue_s + 0.02) * 1000),
        "gen_ai.server.time_to_first_token": pytest.approx(queue_s + 0.02),
        "gen_ai.server.time_per_output_token": 0.01,
    }
    expected = {
        "gen_ai.server.request.duration": queue_s + 0.06,
        "gen_ai.server.time_to_first_token": queue_s + 0.02,
        "gen_ai.server.time_per_output_token": 0.01,
    }
    for name, value in expected.items():
        (point,) = recorder.points(name)
        assert point.sum == pytest.approx(value)
        assert dict(point.attributes) == {**COMMON, "gen_ai.provider.name": "llama_cpp"}


def test_stream_queue_ends_with_headers_and_ttft_is_measured_by_client(start, recorder):
    call = start(stream=True)
    call.start_attempt()
    time.sleep(0.02)
    call.mark_headers_received()
    call.first_chunk_ns = time.perf_counter_ns()
    time.sleep(0.02)
    call.first_token_ns = time.perf_counter_ns()
    call.finish(Response(timings=TIMINGS))
    span = recorder.call()
    attributes = span.attributes
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["llamatelemetry.queue_source"] == "header"
    first_chunk_s = attributes["gen_ai.response.time_to_first_chunk"]
    first_token_s = attributes["gen_ai.ttft_ms"] / 1000
    assert 0.02 <= attributes["llamatelemetry.queue_duration"] < first_chunk_s
    assert first_chunk_s + 0.02 <= first_token_s < (span.end_time - span.start_time) / 1e9
    (point,) = recorder.points("gen_ai.client.operation.time_to_first_chunk")
    assert (point.sum, point.count) == (first_chunk_s, 1)


def test_retry_discards_headers_of_previous_attempt(start, recorder):
    call = start(stream=True)
    call.start_attempt()
    call.mark_headers_received()
    call.start_attempt()
    call.finish(Response(timings=TIMINGS))
    assert recorder.call().attributes["llamatelemetry.queue_source"] == "remainder"


def test_headers_of_plain_response_leave_queue_unchanged(start, recorder):
    call = start()
    call.start_attempt()
    call.mark_headers_received()
    call.finish(Response(timings=TIMINGS))
    assert recorder.call().attributes["llamatelemetry.queue_source"] == "remainder"


def test_each_request_to_the_engine_has_phase_spans_and_server_metrics(instrumenter, recorder):
    second = 1_000_000_000
    started_ns = time.perf_counter_ns() - 10 * second
    call = instrumenter.start(chat(), started_ns=started_ns)
    for at_s in (1, 4):
        call.record_engine_request(
            TIMINGS, started_ns + at_s * second, started_ns + (at_s + 2) * second
        )
    call.finish(Response(), ended_ns=started_ns + 9 * second)
    span = recorder.call()
    decodes = [each for each in recorder.spans() if each.name == "decode"]
    assert [each.end_time - span.start_time for each in decodes] == [3 * second, 6 * second]
    assert {each.parent.span_id for each in decodes} == {span.context.span_id}
    (requests,) = recorder.points("gen_ai.server.request.duration")
    assert (requests.count, requests.sum) == (2, 4.0)
    assert dict(requests.attributes) == {**COMMON, "gen_ai.response.model": "smol"}
    (calls,) = recorder.points(DURATION)
    assert (calls.count, calls.sum) == (1, 9.0)


def test_several_choices_record_no_queue_phase_spans_or_server_metrics(start, recorder):
    start(choice_count=2).finish(Response(timings=TIMINGS))
    span = recorder.call()
    assert "llamatelemetry.queue_duration" not in span.attributes
    assert "gen_ai.ttft_ms" not in span.attributes
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert recorder.phases(span) == {}
    assert set(recorder.metrics()) == {DURATION}


def test_phase_spans_can_be_disabled(make_instrumenter, recorder):
    make_instrumenter(phase_spans=False).start(chat()).finish(Response(timings=TIMINGS))
    assert recorder.phases(recorder.call()) == {}
    assert recorder.call().attributes["gen_ai.prefill_ms"] == 20.0


@pytest.mark.parametrize(
    ("choice_count", "expected"),
    [
        (
            1,
            {
                "gen_ai.latency.time_in_model_prefill": 0.02,
                "gen_ai.latency.time_in_model_decode": 0.04,
                "gen_ai.latency.time_in_model_inference": 0.06,
            },
        ),
        (2, {}),
    ],
)
def test_latency_names_are_those_of_a_single_choice(
    make_instrumenter, recorder, choice_count, expected
):
    instrumenter = make_instrumenter(engine_latency_names=True)
    instrumenter.start(chat(choice_count=choice_count)).finish(Response(timings=TIMINGS))
    attributes = recorder.call().attributes
    assert {name: attributes[name] for name in attributes if ".latency." in name} == expected


def test_call_without_timings_has_no_phases(start, recorder):
    start().finish(Response(usage=Usage(input_tokens=1)))
    assert recorder.phases(recorder.call()) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=REPLIES)
def test_any_response_is_exportable_as_otlp(body, caplog):
    recorder = Recorder()
    instrumenter = call_module.Instrumenter(SCOPE, VERSION, **recorder.providers)
    caplog.clear()
    response = parse_response(body)
    call = instrumenter.start(chat(model=response.model))
    call.finish(response)
    reader: InMemoryMetricReader = recorder._reader
    encode_spans(recorder.spans()).SerializeToString()
    encode_metrics(reader.get_metrics_data()).SerializeToString()
    assert caplog.records == []  # The encoder logs attributes that it drops.
    assert len(recorder.calls()) == 1


def test_current_call_ignores_other_values_under_its_context_key(monkeypatch):
    monkeypatch.setattr(call_module.context_api, "get_value", lambda *_: SimpleNamespace())
    assert current_call() is None
