"""Calls inside the span of another instrumentation: they add to it, or record their own span."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import (
    Instrumenter,
    Response,
    StreamObserver,
    known_servers,
)
from tests.genai.conftest import (
    CLIENT_METRICS,
    LOCAL,
    SCOPE,
    SERVER_METRICS,
    TIMINGS,
    VERSION,
    chat,
    chat_response,
    make_call,
)
from tests.support.recorder import Recorder

PHASES = {
    "gen_ai.prefill_ms": 20.0,
    "llamatelemetry.prompt_tokens": 7,
    "llamatelemetry.cached_tokens": 3,
    "gen_ai.decode_ms": 40.0,
    "gen_ai.tpot_ms": 10.0,
    "llamatelemetry.predicted_tokens": 5,
    "llamatelemetry.queue_source": "remainder",
    "gen_ai.server.time_per_output_token": 0.01,
}
TOKENS = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
MEASURED = {  # Measured with the client's clock.
    "llamatelemetry.queue_duration",
    "gen_ai.ttft_ms",
    "gen_ai.server.time_to_first_token",
}


@pytest.fixture
def other_tracer(recorder: Recorder) -> trace.Tracer:
    """Return the tracer of another instrumentation, with the same exporter."""
    return trace.get_tracer("another", tracer_provider=recorder.tracer_provider)


CHAT = {"gen_ai.operation.name": "chat"}
SMOL = {**CHAT, "gen_ai.request.model": "smol"}
CLIENT, INTERNAL = SpanKind.CLIENT, SpanKind.INTERNAL


@pytest.mark.parametrize(
    ("external", "is_same_call"),
    [
        ((CLIENT, CHAT), True),
        ((CLIENT, {"gen_ai.operation.name": "text_completion"}), True),
        ((CLIENT, {"gen_ai.operation.name": "generate_content"}), True),
        ((CLIENT, SMOL), True),
        ((CLIENT, {**SMOL, "server.address": "127.0.0.1", "server.port": 8080}), True),
        ((CLIENT, {**CHAT, "gen_ai.request.model": "ollama/smol"}), True),  # Prefix of a router.
        ((CLIENT, {**CHAT, "gen_ai.request.model": "other"}), False),
        ((CLIENT, {**SMOL, "server.address": "10.0.0.1"}), False),
        ((CLIENT, {**SMOL, "server.address": "127.0.0.1", "server.port": 9090}), False),
        ((CLIENT, {"gen_ai.operation.name": "embeddings"}), False),
        ((CLIENT, {**SMOL, "gen_ai.operation.name": "invoke_agent"}), False),
        ((CLIENT, {**SMOL, "gen_ai.operation.name": "execute_tool"}), False),
        ((CLIENT, {**SMOL, "gen_ai.operation.name": "invoke_workflow"}), False),
        ((CLIENT, {"http.request.method": "POST"}), False),
        ((CLIENT, {}), False),
        # Internal spans: a framework with the default kind, a pipeline, an in-process engine.
        ((INTERNAL, SMOL), True),
        ((INTERNAL, CHAT), False),
        ((INTERNAL, {**SMOL, "gen_ai.operation.name": "invoke_agent"}), False),
        ((INTERNAL, {**CHAT, "gen_ai.request.model": "gguf-in-process"}), False),
        ((SpanKind.SERVER, SMOL), False),
        # OpenInference has its own names.
        ((INTERNAL, {"openinference.span.kind": "LLM"}), True),
        ((INTERNAL, {"openinference.span.kind": "LLM", "llm.model_name": "other"}), False),
        ((INTERNAL, {"openinference.span.kind": "EMBEDDING"}), False),
        ((INTERNAL, {"openinference.span.kind": "CHAIN"}), False),
        ((INTERNAL, {"openinference.span.kind": "AGENT", **SMOL}), False),
        ((INTERNAL, {"openinference.span.kind": "TOOL"}), False),
    ],
)
def test_external_span_is_used_only_when_operation_model_and_server_agree(
    instrumenter, recorder, other_tracer, external, is_same_call
):
    kind, attributes = external
    with other_tracer.start_as_current_span("external", kind=kind, attributes=attributes):
        make_call(instrumenter, chat_response())
    names = [span.name for span in recorder.spans()]
    assert names == (["external"] if is_same_call else ["chat smol", "external"])


@pytest.mark.parametrize(
    ("operations", "is_same_call"),
    [
        (("embeddings", "embeddings"), True),
        (("embeddings", "chat"), False),
        (("fetch_response", "fetch_response"), True),
        (("fetch_response", "chat"), False),
    ],
)
def test_external_span_of_another_operation_is_a_parent(
    instrumenter, recorder, other_tracer, operations, is_same_call
):
    external, operation = operations
    attributes = {"gen_ai.operation.name": external}
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=attributes):
        make_call(instrumenter, Response(), operation=operation)
    assert (len(recorder.spans()) == 1) is is_same_call


def test_external_span_gets_engine_timings_and_missing_tokens(instrumenter, recorder, other_tracer):
    attributes = {**SMOL, "gen_ai.provider.name": "ollama"}
    with other_tracer.start_as_current_span(
        "external", kind=CLIENT, attributes=attributes
    ) as external_span:
        call = make_call(
            instrumenter, chat_response(timings=TIMINGS), parameters={"gen_ai.request.seed": 5}
        )
        assert external_span.is_recording()
    assert call.ended
    queue, prefill, decode, span = recorder.spans()
    assert span.name == "external"
    assert {key: span.attributes[key] for key in MEASURED}.keys() == MEASURED
    assert {k: v for k, v in span.attributes.items() if k not in MEASURED} == {
        **attributes,
        **TOKENS,
        **PHASES,
    }
    assert [queue.name, prefill.name, decode.name] == ["queue", "prefill", "decode"]
    assert {phase.parent.span_id for phase in (queue, prefill, decode)} == {span.context.span_id}
    assert prefill.end_time - prefill.start_time == 20_000_000


def test_external_span_gets_server_attributes(instrumenter, recorder, other_tracer):
    known_servers.describe(LOCAL, {"llamatelemetry.server.build": "b1"})
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        make_call(instrumenter, chat_response())
    (span,) = recorder.spans()
    assert dict(span.attributes) == {**SMOL, **TOKENS, "llamatelemetry.server.build": "b1"}


def test_call_on_external_span_records_only_engine_metrics(instrumenter, recorder, other_tracer):
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        make_call(instrumenter, chat_response(timings=TIMINGS))
    assert set(recorder.metrics()) == SERVER_METRICS
    (point,) = recorder.points("gen_ai.server.request.duration")
    assert point.attributes["gen_ai.provider.name"] == "llama_cpp"


def test_call_on_openinference_span_records_all_metrics(instrumenter, recorder, other_tracer):
    attributes = {"openinference.span.kind": "LLM"}
    with other_tracer.start_as_current_span("ChatCompletion", attributes=attributes):
        make_call(instrumenter, chat_response(timings=TIMINGS))
    assert set(recorder.metrics()) == SERVER_METRICS | CLIENT_METRICS
    assert recorder.tokens("input") == 10


def test_external_span_gets_only_tokens_when_timings_are_missing(
    instrumenter, recorder, other_tracer
):
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        make_call(instrumenter, chat_response())
    (span,) = recorder.spans()
    assert dict(span.attributes) == {**SMOL, **TOKENS}
    assert recorder.metrics() == {}


def test_error_is_not_recorded_on_external_span(instrumenter, recorder, other_tracer):
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        call = instrumenter.start(chat())
        call.fail(TimeoutError())
    (span,) = recorder.spans()
    assert dict(span.attributes) == SMOL
    assert span.status.is_unset
    assert recorder.metrics() == {}


@pytest.mark.parametrize(
    ("attribute_detected_configured", "expected"),
    [
        (("openai", True, None), "llama_cpp"),
        (("openai", False, None), "openai"),
        (("azure.ai.openai", True, None), "azure.ai.openai"),  # Only `openai` is corrected.
        ((None, True, None), None),
        (("openai", True, "openai"), "openai"),  # The option has precedence over detection.
        (("openai", True, "my_gateway"), "my_gateway"),
        (("openai", False, "my_gateway"), "openai"),
    ],
)
def test_openai_provider_of_external_span_is_replaced_by_detected_provider(
    make_instrumenter, recorder, other_tracer, attribute_detected_configured, expected
):
    attribute, is_detected, configured = attribute_detected_configured
    attributes = {**SMOL, "gen_ai.provider.name": attribute} if attribute else SMOL
    instrumenter = make_instrumenter(provider_name=configured)
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=attributes):
        make_call(instrumenter, chat_response(timings=TIMINGS if is_detected else None))
    (span,) = [span for span in recorder.spans() if span.name == "external"]
    assert span.attributes.get("gen_ai.provider.name") == expected


def test_phases_are_recorded_when_external_span_ended_before_stream(
    instrumenter, recorder, other_tracer, caplog
):
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        call = instrumenter.start(chat(stream=True))
        call.start_attempt()
    call.finish(chat_response(timings=TIMINGS))
    external_span, *phases = recorder.spans()
    assert dict(external_span.attributes) == SMOL
    assert {phase.parent.span_id for phase in phases} == {external_span.context.span_id}
    assert len(phases) == 3
    assert caplog.records == []  # The SDK warns when an ended span is changed.


def test_task_records_own_calls_when_external_span_has_ended(instrumenter, recorder, other_tracer):
    async def background(span_ended: asyncio.Event) -> None:
        await span_ended.wait()
        make_call(instrumenter, chat_response())

    async def main() -> None:
        span_ended = asyncio.Event()
        with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
            task = asyncio.create_task(background(span_ended))
            await asyncio.sleep(0)
        span_ended.set()
        await task

    asyncio.run(main())
    assert [span.name for span in recorder.spans()] == ["external", "chat smol"]
    assert set(recorder.metrics()) == CLIENT_METRICS


def test_chunk_metrics_are_recorded_for_openinference_spans_only(
    instrumenter, recorder, other_tracer
):
    chunk = {"model": "smol-q4", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        observer = StreamObserver(instrumenter.start(chat(stream=True)))
        for _ in range(3):
            observer.on_chunk(chunk)
        observer.on_end()
    assert recorder.metrics() == {}
    with other_tracer.start_as_current_span(
        "external", attributes={"openinference.span.kind": "LLM"}
    ):
        observer = StreamObserver(instrumenter.start(chat(stream=True)))
        for _ in range(3):
            observer.on_chunk(chunk)
        observer.on_end()
    (intervals,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 2


def test_external_span_gets_latency_names_on_request(recorder, other_tracer):
    config = LlamaTelemetryConfig(engine_latency_names=True)
    instrumenter = Instrumenter(SCOPE, VERSION, config=config, **recorder.providers)
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        make_call(instrumenter, chat_response(timings=TIMINGS))
    external = recorder.spans()[-1].attributes
    assert external["gen_ai.latency.time_in_model_decode"] == 0.04


def test_external_span_gets_no_phase_spans_when_disabled(recorder, other_tracer):
    config = LlamaTelemetryConfig(phase_spans=False)
    instrumenter = Instrumenter(SCOPE, VERSION, config=config, **recorder.providers)
    with other_tracer.start_as_current_span("external", kind=CLIENT, attributes=SMOL):
        make_call(instrumenter, chat_response(timings=TIMINGS))
    assert [span.name for span in recorder.spans()] == ["external"]
