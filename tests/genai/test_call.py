"""The life of a call: one span, ended once, whatever happens around it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.genai import (
    EngineTimings,
    Response,
    Server,
    Usage,
    current_call,
    read_response,
    recording,
)
from llamatelemetry.genai import call as call_module
from llamatelemetry.genai.servers import known_servers
from tests.genai.conftest import LOCAL, SCOPE, VERSION, chat
from tests.genai.strategies import REPLIES
from tests.recorder import Recorder

COMMON = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "smol",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
TIMINGS = EngineTimings(
    prompt_tokens=7, prefill_ms=20.0, predicted_tokens=5, decode_ms=40.0, cached_tokens=3
)
DURATION = "gen_ai.client.operation.duration"


# --- the span ------------------------------------------------------------------------------


def test_a_call_is_a_client_span_named_after_operation_and_model(start, recorder):
    start().finish(Response())
    span = recorder.call()
    assert span.name == "chat smol"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert (span.instrumentation_scope.name, span.instrumentation_scope.version) == (SCOPE, VERSION)
    assert dict(span.attributes) == COMMON


def test_without_a_model_the_span_is_named_after_the_operation(start, recorder):
    start(model=None, server=None).finish(Response())
    assert recorder.call().name == "chat"
    assert dict(recorder.call().attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
    }


def test_an_engine_in_this_process_makes_internal_spans(instrumenter, recorder):
    call = instrumenter.start(chat(), SpanKind.INTERNAL)
    call.finish(Response())
    assert [span.kind for span in recorder.spans()] == [SpanKind.INTERNAL]


def test_everything_a_reply_says_is_on_the_span(start, recorder):
    call = start(parameters={"gen_ai.request.seed": 5, "openai.api.type": "chat_completions"})
    call.finish(
        Response(
            id="r",
            model="smol-q4",
            finish_reasons=("stop", "error"),
            usage=Usage(1, 2, 3, 4, 5, 6, 7),
            service_tier="default",
            system_fingerprint="fp",
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
        "gen_ai.usage.audio.input_tokens": 6,
        "gen_ai.usage.audio.output_tokens": 7,
        "openai.response.service_tier": "default",
        "openai.response.system_fingerprint": "fp",
    }


class DecidingSampler(Sampler):
    """Keeps what it was given to decide by."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []

    def should_sample(self, *_args: Any, **kwargs: Any) -> SamplingResult:
        _parent, _trace_id, name, kind, attributes = [*_args, *kwargs.values()][:5]
        self.asked.append((name, kind, dict(attributes)))
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "deciding"


def test_a_sampler_sees_what_it_may_want_to_decide_by(make_instrumenter):
    sampler = DecidingSampler()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    make_instrumenter(tracer_provider=provider).start(chat()).finish(Response())
    assert sampler.asked == [("chat smol", SpanKind.CLIENT, COMMON)]


# --- ended exactly once --------------------------------------------------------------------


def test_twenty_threads_that_race_to_end_a_call_end_it_once(start, recorder):
    for _ in range(10):
        call, together = start(), threading.Barrier(20)

        def end(position: int, call: Any = call, together: Any = together) -> None:
            together.wait(5)
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


def test_the_first_ending_counts(start, recorder):
    call = start()
    assert not call.ended
    call.finish(Response(id="first"))
    assert call.ended
    call.fail(ValueError())
    call.finish(Response(id="second"))
    assert recorder.call().attributes["gen_ai.response.id"] == "first"
    assert recorder.call().status.status_code is StatusCode.UNSET


def test_the_metrics_are_those_of_the_span(start, recorder):
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


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_kind_ends_the_span_with_its_kind(start, recorder, error):
    start().fail(error, Response(usage=Usage(input_tokens=2)))
    span = recorder.call()
    kind = span.attributes["error.type"]
    assert kind.endswith(type(error).__name__)
    assert span.status.status_code is StatusCode.ERROR
    assert span.events == ()  # an exception event would quote the message
    assert span.attributes["gen_ai.usage.input_tokens"] == 2
    (point,) = recorder.points(DURATION)
    assert dict(point.attributes) == {**COMMON, "error.type": kind}
    # Tokens and the rest are not told apart by errors.
    assert "error.type" not in recorder.points("gen_ai.client.token.usage")[0].attributes


def test_a_status_of_the_server_is_on_the_span_and_not_on_the_metric(start, recorder):
    error = ValueError()
    error.status_code = 503  # type: ignore[attr-defined]
    start().fail(error)
    assert dict(recorder.call().attributes) == {
        **COMMON,
        "error.type": "503",
        "http.response.status_code": 503,
    }
    assert dict(recorder.points(DURATION)[0].attributes) == {**COMMON, "error.type": "503"}


def test_a_failure_of_ours_still_ends_the_span(start, recorder, monkeypatch):
    def broken(*_args: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(recording, "record_span", broken)
    call = start()
    with pytest.raises(RuntimeError, match="ours"):  # strict under test
        call.finish(Response())
    assert recorder.call().end_time is not None


# --- not recorded, suppressed, nested ------------------------------------------------------


def test_a_span_that_is_not_sampled_costs_no_attributes_and_still_gives_metrics(
    make_instrumenter, recorder, monkeypatch
):
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    computed = []
    monkeypatch.setattr(recording, "record_span", lambda *args: computed.append(args))
    monkeypatch.setattr(recording, "record_phase_spans", lambda *args: computed.append(args))
    call = make_instrumenter(tracer_provider=provider).start(chat())
    call.finish(Response(usage=Usage(input_tokens=2), timings=TIMINGS))
    assert computed == []
    assert recorder.points(DURATION)[0].count == 1
    assert recorder.tokens("input") == 2
    assert recorder.points("gen_ai.server.request.duration")[0].count == 1


def test_without_any_sdk_a_call_costs_nothing_and_breaks_nothing(make_instrumenter):
    instrumenter = make_instrumenter(
        tracer_provider=trace.NoOpTracerProvider(), meter_provider=None
    )
    call = instrumenter.start(chat())
    token = call.activate()
    call.deactivate(token)
    call.finish(Response(timings=TIMINGS))
    assert call.ended


def test_suppressed_instrumentation_makes_no_call(instrumenter):
    with suppress_instrumentation():
        assert instrumenter.start(chat()) is None
    assert instrumenter.start(chat()) is not None


OTHER_SERVER = Server("127.0.0.1", 9090, "http://127.0.0.1:9090")


@pytest.mark.parametrize(
    ("inner", "is_same"),
    [
        ({}, True),
        ({"model": "other", "stream": True}, True),  # what is sent may be rewritten on the way
        ({"operation": "embeddings"}, False),
        ({"server": OTHER_SERVER}, False),
        ({"server": None}, False),
    ],
)
def test_a_call_inside_a_call_is_the_same_one_if_operation_and_server_are(
    start, instrumenter, inner, is_same
):
    outer = start()
    token = outer.activate()
    try:
        call = instrumenter.start(chat(**inner))
    finally:
        outer.deactivate(token)
    assert (call is None) is is_same


def test_an_inner_call_of_its_own_is_a_child(start, instrumenter, recorder):
    outer = start()
    token = outer.activate()
    inner = instrumenter.start(chat(operation="embeddings"))
    inner.finish(Response())
    outer.deactivate(token)
    outer.finish(Response())
    child, parent = recorder.calls()
    assert child.parent.span_id == parent.context.span_id


def test_two_plugins_know_each_others_calls(make_instrumenter):
    first, second = make_instrumenter(), make_instrumenter()
    call = first.start(chat())
    token = call.activate()
    assert second.start(chat()) is None
    assert current_call() is call
    call.deactivate(token)
    assert current_call() is None
    assert second.start(chat()) is not None


def test_the_current_call_is_none_once_it_has_ended(start):
    call = start()
    token = call.activate()
    call.finish(Response())
    assert current_call() is None
    call.deactivate(token)


@pytest.mark.parametrize(
    ("kind", "attributes", "is_the_same_call"),
    [
        (SpanKind.CLIENT, {"gen_ai.operation.name": "chat"}, True),
        (SpanKind.CLIENT, {"gen_ai.operation.name": "text_completion"}, True),
        (SpanKind.CLIENT, {"gen_ai.operation.name": "embeddings"}, True),
        (SpanKind.CLIENT, {"gen_ai.operation.name": "generate_content"}, True),
        (SpanKind.CLIENT, {"gen_ai.operation.name": "invoke_agent"}, False),
        (SpanKind.CLIENT, {"gen_ai.operation.name": "execute_tool"}, False),
        (SpanKind.CLIENT, {"http.request.method": "POST"}, False),
        (SpanKind.INTERNAL, {"gen_ai.operation.name": "chat"}, False),
        (SpanKind.SERVER, {"gen_ai.operation.name": "chat"}, False),
    ],
)
def test_a_span_of_another_instrumentation_is_this_call_only_if_a_model_runs_in_it(
    instrumenter, recorder, kind, attributes, is_the_same_call
):
    tracer = trace.get_tracer("another", tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("outer", kind=kind, attributes=attributes) as outer:
        call = instrumenter.start(chat())
        assert (call is None) is is_the_same_call
        outer.end()
        assert instrumenter.start(chat()) is not None  # it only leads while it is open


def test_a_task_that_outlives_the_call_it_was_started_in_makes_calls_of_its_own(
    start, instrumenter, recorder
):
    async def background(go: asyncio.Event) -> None:
        await go.wait()
        call = instrumenter.start(chat())
        assert call is not None
        call.finish(Response())

    async def run() -> None:
        go = asyncio.Event()
        call = start()
        token = call.activate()
        task = asyncio.create_task(background(go))
        await asyncio.sleep(0)
        call.deactivate(token)
        call.finish(Response())
        go.set()
        await task

    asyncio.run(run())
    assert len(recorder.calls()) == 2


def test_a_worker_thread_with_the_context_of_an_ended_call_makes_calls_of_its_own(
    start, instrumenter
):
    call = start()
    token = call.activate()
    context = contextvars.copy_context()
    call.deactivate(token)
    call.finish(Response())
    started = []
    worker = threading.Thread(
        target=lambda: started.append(context.run(instrumenter.start, chat()))
    )
    worker.start()
    worker.join(5)
    assert started[0] is not None


def test_concurrent_calls_of_one_thread_do_not_see_each_other(instrumenter, recorder):
    async def one() -> None:
        call = instrumenter.start(chat())
        assert call is not None
        token = call.activate()
        await asyncio.sleep(0.001)
        assert current_call() is call
        call.deactivate(token)
        call.finish(Response())

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(many())
    assert len(recorder.calls()) == 20
    assert {span.parent for span in recorder.calls()} == {None}


# --- clock and exemplars -------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_step_of_the_wall_clock_does_not_stretch_a_call(start, recorder, monkeypatch, step_s):
    began_ns = time.time_ns()
    call = start()
    monkeypatch.setattr(call_module, "time_ns", lambda: time.time_ns() + step_s * 10**9)
    time.sleep(0.01)
    call.begin_attempt()
    call.finish(Response(timings=TIMINGS))
    span = recorder.call()
    assert 0.01 <= (span.end_time - span.start_time) / 1e9 < 5
    assert 0 <= (span.start_time - began_ns) / 1e9 < 5
    phases = recorder.phases(span)
    assert len(phases) == 3
    assert all(abs(p.start_time - span.start_time) / 1e9 < 5 for p in phases.values())


def test_the_exemplars_of_a_duration_lead_to_the_span(start, recorder):
    tracer = trace.get_tracer("app", tracer_provider=recorder.tracer_provider)
    with tracer.start_as_current_span("request"):
        start().finish(Response(usage=Usage(input_tokens=5), timings=TIMINGS))
    span = recorder.call()
    led_to = {
        name: {
            (exemplar.trace_id, exemplar.span_id)
            for point in metric.data.data_points
            for exemplar in point.exemplars
        }
        for name, metric in recorder.metrics().items()
    }
    here = {(span.context.trace_id, span.context.span_id)}
    assert led_to == dict.fromkeys(led_to, here)
    assert DURATION in led_to
    assert "gen_ai.server.request.duration" in led_to


def test_a_call_can_be_ended_at_a_time_that_has_passed(start, recorder):
    call = start()
    ended_ns = time.perf_counter_ns()
    time.sleep(0.2)
    call.finish(Response(), ended_ns=ended_ns)
    span = recorder.call()
    assert (span.end_time - span.start_time) / 1e9 < 0.2
    assert recorder.points(DURATION)[0].sum < 0.2


# --- providers -----------------------------------------------------------------------------


def test_timings_prove_a_llama_cpp_server_and_the_next_call_knows(start, recorder):
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


def test_a_provider_given_in_the_configuration_stands_against_everything(
    make_instrumenter, recorder
):
    instrumenter = make_instrumenter(provider_name="my_gateway")
    call = instrumenter.start(chat(parameters={"openai.api.type": "chat_completions"}))
    assert call.request.provider == "my_gateway"
    call.note_provider("llama_cpp")
    call.finish(Response(timings=TIMINGS))
    span = recorder.call()
    assert span.attributes["gen_ai.provider.name"] == "my_gateway"
    assert "openai.api.type" not in span.attributes
    assert known_servers.provider_of(LOCAL, "openai") == "llama_cpp"  # learned all the same


# --- phases --------------------------------------------------------------------------------


def finish_with_phases(call: Any, **changes: Any) -> None:
    call.begin_attempt()
    time.sleep(0.1)
    call.finish(Response(timings=TIMINGS, **changes))


def test_the_phases_follow_one_another_from_the_last_attempt(start, recorder):
    call = start()
    call.begin_attempt()
    time.sleep(0.03)  # the first attempt came to nothing
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
    assert abs(decode.end_time - span.end_time) < 1000  # ns: rounding
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


def test_the_call_span_sums_its_phases_up(start, recorder):
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


def test_on_a_stream_the_headers_end_the_queue_and_the_client_saw_the_first_token(start, recorder):
    call = start(stream=True)
    call.begin_attempt()
    time.sleep(0.02)
    call.note_headers()
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


def test_a_retry_takes_back_the_headers_of_the_attempt_before(start, recorder):
    call = start(stream=True)
    call.begin_attempt()
    call.note_headers()
    call.begin_attempt()
    call.finish(Response(timings=TIMINGS))
    assert recorder.call().attributes["llamatelemetry.queue_source"] == "remainder"


def test_headers_of_a_plain_reply_say_nothing_of_the_queue(start, recorder):
    call = start()
    call.begin_attempt()
    call.note_headers()
    call.finish(Response(timings=TIMINGS))
    assert recorder.call().attributes["llamatelemetry.queue_source"] == "remainder"


def test_of_several_choices_no_queue_no_children_and_no_server_metrics(start, recorder):
    start(choice_count=2).finish(Response(timings=TIMINGS))
    span = recorder.call()
    assert "llamatelemetry.queue_duration" not in span.attributes
    assert "gen_ai.ttft_ms" not in span.attributes
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert recorder.phases(span) == {}
    assert set(recorder.metrics()) == {DURATION}


def test_phase_spans_can_be_switched_off(make_instrumenter, recorder):
    make_instrumenter(phase_spans=False).start(chat()).finish(Response(timings=TIMINGS))
    assert recorder.phases(recorder.call()) == {}
    assert recorder.call().attributes["gen_ai.prefill_ms"] == 20.0


def test_a_call_without_timings_has_no_phases(start, recorder):
    start().finish(Response(usage=Usage(input_tokens=1)))
    assert recorder.phases(recorder.call()) == {}


# --- whatever a server says ----------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(reply=REPLIES)
def test_any_reply_ends_in_telemetry_that_otlp_can_carry(reply, caplog):
    recorder = Recorder()
    instrumenter = call_module.Instrumenter(SCOPE, VERSION, **recorder.providers)
    caplog.clear()
    response = read_response(reply)
    call = instrumenter.start(chat(model=response.model))
    call.finish(response)
    reader: InMemoryMetricReader = recorder._reader
    encode_spans(recorder.spans()).SerializeToString()
    encode_metrics(reader.get_metrics_data()).SerializeToString()
    assert caplog.records == []  # an encoder logs what it drops
    assert len(recorder.calls()) == 1


def test_an_odd_context_value_under_our_key_is_not_a_call(monkeypatch):
    monkeypatch.setattr(call_module.context_api, "get_value", lambda *_: SimpleNamespace())
    assert current_call() is None
