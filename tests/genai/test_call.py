"""Calls without an enclosing call: the span, its attributes, the metrics, and how calls end."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.genai import Instrumenter, Response, Usage, internal_errors, metrics, spans
from llamatelemetry.genai import call as call_module
from tests.genai.conftest import (
    CLIENT_METRICS,
    COMMON,
    DURATION,
    SCOPE,
    SERVER_METRICS,
    TIMINGS,
    VERSION,
    chat,
    chat_response,
    make_call,
)


def test_call_records_client_span_named_after_operation_and_model(start, recorder):
    start().finish(Response())
    span = recorder.call()
    assert span.name == "chat smol"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == (SCOPE, VERSION)
    assert dict(span.attributes) == COMMON


def test_span_is_named_after_operation_when_model_is_unknown(start, recorder):
    start(model=None, server=None).finish(Response())
    assert recorder.call().name == "chat"
    assert dict(recorder.call().attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
    }


def test_in_process_engine_records_internal_span(instrumenter, recorder):
    call = instrumenter.start(chat(), SpanKind.INTERNAL)
    call.finish(Response())
    assert [span.kind for span in recorder.spans()] == [SpanKind.INTERNAL]


def test_span_has_all_response_attributes(start, recorder):
    call = start(parameters={"gen_ai.request.seed": 5, "openai.api.type": "chat_completions"})
    call.finish(
        Response(
            id="r",
            model="smol-q4",
            finish_reasons=("stop", "error"),
            usage=Usage(*range(1, 15)),
            service_tier="default",
            system_fingerprint="fp",
            status="completed",
            conversation_id="conv",
            compacted=True,
        )
    )
    assert dict(recorder.call().attributes) == {
        **COMMON,
        "gen_ai.request.seed": 5,
        "openai.api.type": "chat_completions",
        "gen_ai.response.id": "r",
        "gen_ai.response.model": "smol-q4",
        "gen_ai.response.finish_reasons": ("stop", "error"),
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.cache_write.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "gen_ai.usage.text.input_tokens": 6,
        "gen_ai.usage.image.input_tokens": 7,
        "gen_ai.usage.audio.input_tokens": 8,
        "gen_ai.usage.text.cache_read.input_tokens": 9,
        "gen_ai.usage.image.cache_read.input_tokens": 10,
        "gen_ai.usage.audio.cache_read.input_tokens": 11,
        "gen_ai.usage.text.output_tokens": 12,
        "gen_ai.usage.image.output_tokens": 13,
        "gen_ai.usage.audio.output_tokens": 14,
        "gen_ai.response.status": "completed",
        "gen_ai.conversation.id": "conv",
        "gen_ai.conversation.compacted": True,
        "openai.response.service_tier": "default",
        "openai.response.system_fingerprint": "fp",
    }


class RecordingSampler(Sampler):
    """A sampler that drops every span and keeps the arguments that it was called with."""

    def __init__(self) -> None:
        self.samples: list[tuple[str, Any, dict[str, Any]]] = []

    def should_sample(self, *_args: Any, **kwargs: Any) -> SamplingResult:
        _parent, _trace_id, name, kind, attributes = [*_args, *kwargs.values()][:5]
        self.samples.append((name, kind, dict(attributes)))
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "recording"


def test_sampler_receives_start_attributes(make_instrumenter):
    sampler = RecordingSampler()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    make_instrumenter(tracer_provider=provider).start(chat()).finish(Response())
    assert sampler.samples == [("chat smol", SpanKind.CLIENT, COMMON)]


def test_call_ends_once_when_twenty_threads_end_it(start, recorder):
    for _ in range(10):
        call, barrier = start(), threading.Barrier(20)

        def end(position: int, call: Any = call, barrier: Any = barrier) -> None:
            barrier.wait(5)
            if position % 2:
                call.finish(Response(usage=Usage(input_tokens=1, output_tokens=1)))
            else:
                call.fail(ValueError(), Response(usage=Usage(input_tokens=1, output_tokens=1)))

        threads = [threading.Thread(target=end, args=(position,)) for position in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert call.ended
    assert len(recorder.calls()) == 10
    assert sum(point.count for point in recorder.points(DURATION)) == 10
    assert (recorder.tokens("input"), recorder.tokens("output")) == (10, 10)


def test_second_end_of_call_is_ignored(start, recorder):
    call = start()
    assert not call.ended
    call.finish(Response(id="first"))
    assert call.ended
    call.fail(ValueError())
    call.finish(Response(id="second"))
    assert recorder.call().attributes["gen_ai.response.id"] == "first"
    assert recorder.call().status.status_code is StatusCode.UNSET


def test_metrics_agree_with_span(start, recorder):
    call = start()
    time.sleep(0.02)
    call.finish(Response(model="q4", usage=Usage(input_tokens=11, output_tokens=3)))
    span = recorder.call()
    common = {**COMMON, "gen_ai.response.model": "q4"}
    (duration,) = recorder.points(DURATION)
    assert dict(duration.attributes) == common
    assert duration.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-9)
    assert duration.sum >= 0.02
    assert [
        (dict(p.attributes), p.sum, p.count) for p in recorder.points("gen_ai.client.token.usage")
    ] == [
        ({**common, "gen_ai.token.type": "input"}, 11, 1),
        ({**common, "gen_ai.token.type": "output"}, 3, 1),
    ]
    assert set(recorder.metrics()) == {DURATION, "gen_ai.client.token.usage"}


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_fail_ends_span_with_error_type(start, recorder, error):
    start().fail(error, Response(usage=Usage(input_tokens=2)))
    span = recorder.call()
    error_type = span.attributes["error.type"]
    assert error_type.endswith(type(error).__name__)
    assert span.status.status_code is StatusCode.ERROR
    assert span.events == ()  # An exception event would contain the message.
    assert span.attributes["gen_ai.usage.input_tokens"] == 2
    (point,) = recorder.points(DURATION)
    assert dict(point.attributes) == {**COMMON, "error.type": error_type}
    # Token usage has no error.type.
    assert "error.type" not in recorder.points("gen_ai.client.token.usage")[0].attributes


def test_http_status_is_on_span_and_not_on_metric(start, recorder):
    error = ValueError()
    error.status_code = 503  # type: ignore[attr-defined]
    start().fail(error)
    assert dict(recorder.call().attributes) == {
        **COMMON,
        "error.type": "503",
        "http.response.status_code": 503,
    }
    assert dict(recorder.points(DURATION)[0].attributes) == {**COMMON, "error.type": "503"}


def fail(*_args: Any) -> None:
    raise RuntimeError("internal")


def test_internal_error_still_ends_span(start, recorder, monkeypatch):
    monkeypatch.setattr(spans, "record_span", fail)
    call = start()
    with pytest.raises(RuntimeError, match="internal"):  # Internal errors are raised in tests.
        call.finish(Response())
    assert recorder.call().end_time is not None


def test_failure_of_span_leaves_metrics_complete(start, recorder, monkeypatch, caplog):
    internal_errors.set_strict(False)
    monkeypatch.setattr(spans, "record_span", fail)
    start().finish(Response(usage=Usage(21, 5), timings=TIMINGS))
    assert set(recorder.metrics()) == CLIENT_METRICS | SERVER_METRICS
    assert (
        "failed while recording the attributes of a call (RuntimeError at tests.genai.test_call:"
        in caplog.text
    )


def test_failure_of_completion_leaves_span_and_metrics(start, recorder, monkeypatch, caplog):
    internal_errors.set_strict(False)
    monkeypatch.setattr(call_module, "correct_undercount", fail)
    start().finish(Response(usage=Usage(21, 5), timings=TIMINGS))
    assert recorder.call().attributes["gen_ai.usage.output_tokens"] == 5
    assert set(recorder.metrics()) == CLIENT_METRICS | SERVER_METRICS
    assert "failed while completing a response (RuntimeError at" in caplog.text


def test_failure_of_metrics_leaves_span_complete(start, recorder, monkeypatch, caplog):
    start().finish(Response(id="1", usage=Usage(21, 5)))
    complete = dict(recorder.call().attributes)
    internal_errors.set_strict(False)
    monkeypatch.setattr(metrics, "_series_of", fail)
    start().finish(Response(id="1", usage=Usage(21, 5)))
    assert dict(recorder.calls()[1].attributes) == complete
    assert "failed while recording the metrics of a call (RuntimeError at" in caplog.text


def test_failing_span_processor_leaves_metrics_complete(make_instrumenter, recorder, caplog):
    class Failing(SpanProcessor):
        def on_end(self, span: Any) -> None:
            raise RuntimeError("error of the processor")

    internal_errors.set_strict(False)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Failing())
    call = make_instrumenter(tracer_provider=provider).start(chat())
    call.finish(Response(usage=Usage(21, 5)))
    assert len(recorder.points(DURATION)) == 1
    assert "failed while ending a span (RuntimeError at" in caplog.text


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_wall_clock_step_leaves_duration_unchanged(start, recorder, monkeypatch, step_s):
    started_ns = time.time_ns()
    call = start()
    monkeypatch.setattr(call_module, "time_ns", lambda: time.time_ns() + step_s * 10**9)
    time.sleep(0.01)
    call.start_attempt()
    call.finish(Response(timings=TIMINGS))
    span = recorder.call()
    assert 0.01 <= (span.end_time - span.start_time) / 1e9 < 5
    assert 0 <= (span.start_time - started_ns) / 1e9 < 5
    phases = recorder.phases(span)
    assert len(phases) == 3
    assert all(abs(p.start_time - span.start_time) / 1e9 < 5 for p in phases.values())


def test_duration_exemplars_point_to_span(start, recorder):
    tracer = trace.get_tracer("app", tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("request"):
        start().finish(Response(usage=Usage(input_tokens=5), timings=TIMINGS))
    span = recorder.call()
    exemplar_spans = {
        name: {
            (exemplar.trace_id, exemplar.span_id)
            for point in metric.data.data_points
            for exemplar in point.exemplars
        }
        for name, metric in recorder.metrics().items()
    }
    call_span = {(span.context.trace_id, span.context.span_id)}
    assert exemplar_spans == dict.fromkeys(exemplar_spans, call_span)
    assert DURATION in exemplar_spans
    assert "gen_ai.server.request.duration" in exemplar_spans


def test_call_can_end_at_a_past_time(start, recorder):
    call = start()
    ended_ns = time.perf_counter_ns()
    time.sleep(0.2)
    call.finish(Response(), ended_ns=ended_ns)
    span = recorder.call()
    assert (span.end_time - span.start_time) / 1e9 < 0.2
    assert recorder.points(DURATION)[0].sum < 0.2


def test_times_of_stream_are_measured_from_its_start_and_from_its_attempt(instrumenter, recorder):
    started_ns = time.perf_counter_ns() - 10_000_000_000
    request = chat(stream=True, provider="llama_cpp")
    call = instrumenter.start(request, started_ns=started_ns)
    call.start_attempt(started_ns + 1_000_000_000)
    call.mark_headers_received(started_ns + 1_500_000_000)
    call.first_chunk_ns = started_ns + 2_000_000_000
    call.first_token_ns = started_ns + 2_500_000_000
    call.finish(Response(), ended_ns=started_ns + 4_000_000_000)
    span = recorder.call()
    assert span.end_time - span.start_time == 4_000_000_000
    assert recorder.points(DURATION)[0].sum == 4.0
    assert span.attributes["gen_ai.response.time_to_first_chunk"] == 2.0
    assert span.attributes["gen_ai.ttft_ms"] == 2500.0
    assert span.attributes["llamatelemetry.queue_duration"] == 0.5


def test_event_of_call_is_at_the_given_time(instrumenter, recorder):
    started_ns = time.perf_counter_ns()
    call = instrumenter.start(chat(), started_ns=started_ns)
    call.add_event("step", {"tokens": 3}, started_ns + 5_000_000_000)
    call.finish(Response())
    span = recorder.call()
    (event,) = span.events
    assert (event.name, dict(event.attributes)) == ("step", {"tokens": 3})
    assert event.timestamp - span.start_time == 5_000_000_000


def test_unsampled_span_gets_no_attributes_but_metrics_are_recorded(
    make_instrumenter, recorder, monkeypatch
):
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    recorded = []
    monkeypatch.setattr(spans, "record_span", lambda *args: recorded.append(args))
    monkeypatch.setattr(spans, "record_phase_spans", lambda *args: recorded.append(args))
    call = make_instrumenter(tracer_provider=provider).start(chat())
    call.finish(Response(usage=Usage(input_tokens=2), timings=TIMINGS))
    assert recorded == []
    assert recorder.points(DURATION)[0].count == 1
    assert recorder.tokens("input") == 2
    assert recorder.points("gen_ai.server.request.duration")[0].count == 1


def test_call_works_when_no_sdk_is_installed(make_instrumenter):
    instrumenter = make_instrumenter(
        tracer_provider=trace.NoOpTracerProvider(), meter_provider=None
    )
    call = instrumenter.start(chat())
    token = call.activate()
    call.deactivate(token)
    call.finish(Response(timings=TIMINGS))
    assert call.ended


def test_start_returns_none_when_instrumentation_is_suppressed(instrumenter):
    with suppress_instrumentation():
        assert instrumenter.start(chat()) is None
    assert instrumenter.start(chat()) is not None


def test_unsampled_call_inside_application_span_is_counted(recorder):
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    instrumenter = Instrumenter(
        SCOPE, VERSION, tracer_provider=provider, meter_provider=recorder.meter_provider
    )
    tracer = trace.get_tracer("app", tracer_provider=provider)
    with tracer.start_as_current_span("request"):
        make_call(instrumenter, chat_response())
    assert set(recorder.metrics()) == CLIENT_METRICS
