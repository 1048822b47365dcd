"""A call has one span: the outermost instrumentation opens it, nested ones add to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind
from opentelemetry.util.genai.handler import TelemetryHandler

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import (
    Call,
    Instrumenter,
    Response,
    StreamObserver,
    Usage,
    current_call,
    known_servers,
    spans,
)
from tests.genai.conftest import LOCAL, OTHER_SERVER, SCOPE, TIMINGS, VERSION, chat
from tests.support.recorder import Recorder

CLIENT_METRICS = {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"}
SERVER_METRICS = {
    "gen_ai.server.request.duration",
    "gen_ai.server.time_to_first_token",
    "gen_ai.server.time_per_output_token",
}
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
MEASURED = {  # by the client's clock
    "llamatelemetry.queue_duration",
    "gen_ai.ttft_ms",
    "gen_ai.server.time_to_first_token",
}


def answered(**more: Any) -> Response:
    return Response(id="r", model="smol-q4", usage=Usage(input_tokens=10, output_tokens=5), **more)


@pytest.fixture
def other_tracer(recorder: Recorder) -> trace.Tracer:
    """Return the tracer of another instrumentation, with the same exporter."""
    return trace.get_tracer("another", tracer_provider=recorder.tracer_provider)


def run(instrumenter: Instrumenter, response: Response, **changes: Any) -> Call:
    """Make one call as a plugin does."""
    call = instrumenter.start(chat(**changes))
    assert call is not None
    token = call.activate()
    call.start_attempt()
    time.sleep(0.07)  # Longer than the timings.
    call.deactivate(token)
    call.finish(response)
    return call


CHAT = {"gen_ai.operation.name": "chat"}
SMOL = {**CHAT, "gen_ai.request.model": "smol"}
CLIENT, INTERNAL = SpanKind.CLIENT, SpanKind.INTERNAL


@pytest.mark.parametrize(
    ("outer", "is_this_call"),
    [
        ((CLIENT, CHAT), True),
        ((CLIENT, {"gen_ai.operation.name": "text_completion"}), True),
        ((CLIENT, {"gen_ai.operation.name": "generate_content"}), True),
        ((CLIENT, SMOL), True),
        ((CLIENT, {**SMOL, "server.address": "127.0.0.1", "server.port": 8080}), True),
        ((CLIENT, {**CHAT, "gen_ai.request.model": "ollama/smol"}), True),  # a router's prefix
        ((CLIENT, {**CHAT, "gen_ai.request.model": "other"}), False),
        ((CLIENT, {**SMOL, "server.address": "10.0.0.1"}), False),
        ((CLIENT, {**SMOL, "server.address": "127.0.0.1", "server.port": 9090}), False),
        ((CLIENT, {"gen_ai.operation.name": "embeddings"}), False),
        ((CLIENT, {**SMOL, "gen_ai.operation.name": "invoke_agent"}), False),
        ((CLIENT, {**SMOL, "gen_ai.operation.name": "execute_tool"}), False),
        ((CLIENT, {**SMOL, "gen_ai.operation.name": "invoke_workflow"}), False),
        ((CLIENT, {"http.request.method": "POST"}), False),
        ((CLIENT, {}), False),
        # A framework that leaves the kind at its default; a pipeline; an engine in this process.
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
    instrumenter, recorder, other_tracer, outer, is_this_call
):
    kind, attributes = outer
    with other_tracer.start_as_current_span("outer", kind=kind, attributes=attributes):
        run(instrumenter, answered())
    names = [span.name for span in recorder.spans()]
    assert names == (["outer"] if is_this_call else ["chat smol", "outer"])


@pytest.mark.parametrize(
    ("operations", "is_this_call"),
    [
        (("embeddings", "embeddings"), True),
        (("embeddings", "chat"), False),
        (("fetch_response", "fetch_response"), True),
        (("fetch_response", "chat"), False),
    ],
)
def test_external_span_of_another_operation_is_a_parent(
    instrumenter, recorder, other_tracer, operations, is_this_call
):
    outer, inner = operations
    attributes = {"gen_ai.operation.name": outer}
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=attributes):
        run(instrumenter, Response(), operation=inner)
    assert (len(recorder.spans()) == 1) is is_this_call


def test_external_span_gets_engine_timings_and_nothing_else(instrumenter, recorder, other_tracer):
    attributes = {**SMOL, "gen_ai.provider.name": "ollama"}
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=attributes) as outer:
        call = run(instrumenter, answered(timings=TIMINGS), parameters={"gen_ai.request.seed": 5})
        assert outer.is_recording()
    assert call.ended
    queue, prefill, decode, span = recorder.spans()
    assert span.name == "outer"
    assert {key: span.attributes[key] for key in MEASURED}.keys() == MEASURED
    assert {k: v for k, v in span.attributes.items() if k not in MEASURED} == {
        **attributes,
        **PHASES,
    }
    assert [queue.name, prefill.name, decode.name] == ["queue", "prefill", "decode"]
    assert {phase.parent.span_id for phase in (queue, prefill, decode)} == {span.context.span_id}
    assert prefill.end_time - prefill.start_time == 20_000_000


def test_external_span_gets_server_attributes(instrumenter, recorder, other_tracer):
    known_servers.describe(LOCAL, {"llamatelemetry.server.build": "b1"})
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        run(instrumenter, answered())
    (span,) = recorder.spans()
    assert dict(span.attributes) == {**SMOL, "llamatelemetry.server.build": "b1"}


def test_call_on_external_span_records_only_engine_metrics(instrumenter, recorder, other_tracer):
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        run(instrumenter, answered(timings=TIMINGS))
    assert set(recorder.metrics()) == SERVER_METRICS
    (point,) = recorder.points("gen_ai.server.request.duration")
    assert point.attributes["gen_ai.provider.name"] == "llama_cpp"


def test_call_on_openinference_span_records_all_metrics(instrumenter, recorder, other_tracer):
    attributes = {"openinference.span.kind": "LLM"}
    with other_tracer.start_as_current_span("ChatCompletion", attributes=attributes):
        run(instrumenter, answered(timings=TIMINGS))
    assert set(recorder.metrics()) == SERVER_METRICS | CLIENT_METRICS
    assert recorder.tokens("input") == 10


def test_external_span_is_unchanged_when_timings_are_missing(instrumenter, recorder, other_tracer):
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        run(instrumenter, answered())
    (span,) = recorder.spans()
    assert dict(span.attributes) == SMOL
    assert recorder.metrics() == {}


def test_error_is_left_to_owner_of_external_span(instrumenter, recorder, other_tracer):
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        call = instrumenter.start(chat())
        call.fail(TimeoutError())
    (span,) = recorder.spans()
    assert dict(span.attributes) == SMOL
    assert span.status.is_unset
    assert recorder.metrics() == {}


@pytest.mark.parametrize(
    ("told_proved_configured", "expected"),
    [
        (("openai", True, None), "llama_cpp"),
        (("openai", False, None), "openai"),
        (("azure.ai.openai", True, None), "azure.ai.openai"),  # they know better
        ((None, True, None), None),
        (("openai", True, "openai"), "openai"),  # the option stands against every proof
        (("openai", True, "my_gateway"), "my_gateway"),
        (("openai", False, "my_gateway"), "openai"),
    ],
)
def test_openai_provider_of_external_span_is_corrected_when_response_proves_another(
    make_instrumenter, recorder, other_tracer, told_proved_configured, expected
):
    told, proved, configured = told_proved_configured
    attributes = {**SMOL, "gen_ai.provider.name": told} if told else SMOL
    instrumenter = make_instrumenter(provider_name=configured)
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=attributes):
        run(instrumenter, answered(timings=TIMINGS if proved else None))
    (span,) = [span for span in recorder.spans() if span.name == "outer"]
    assert span.attributes.get("gen_ai.provider.name") == expected


def test_phases_are_recorded_when_external_span_ended_before_stream(
    instrumenter, recorder, other_tracer, caplog
):
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        call = instrumenter.start(chat(stream=True))
        call.start_attempt()
    call.finish(answered(timings=TIMINGS))
    outer, *phases = recorder.spans()
    assert dict(outer.attributes) == SMOL
    assert {phase.parent.span_id for phase in phases} == {outer.context.span_id}
    assert len(phases) == 3
    assert caplog.records == []  # the SDK warns of a span that is written to after its end


def test_task_records_own_calls_when_external_span_has_ended(instrumenter, recorder, other_tracer):
    async def background(go: asyncio.Event) -> None:
        await go.wait()
        run(instrumenter, answered())

    async def main() -> None:
        go = asyncio.Event()
        with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
            task = asyncio.create_task(background(go))
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())
    assert [span.name for span in recorder.spans()] == ["outer", "chat smol"]
    assert set(recorder.metrics()) == CLIENT_METRICS


def test_chunk_metrics_are_left_to_owner_of_external_span(instrumenter, recorder, other_tracer):
    chunk = {"model": "smol-q4", "choices": [{"index": 0, "delta": {"content": "a"}}]}
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        watch = StreamObserver(instrumenter.start(chat(stream=True)))
        for _ in range(3):
            watch.on_chunk(chunk)
        watch.on_end()
    assert recorder.metrics() == {}
    with other_tracer.start_as_current_span("outer", attributes={"openinference.span.kind": "LLM"}):
        watch = StreamObserver(instrumenter.start(chat(stream=True)))
        for _ in range(3):
            watch.on_chunk(chunk)
        watch.on_end()
    (gaps,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert gaps.count == 2


@pytest.fixture
def handler(recorder: Recorder) -> TelemetryHandler:
    return handler_for(recorder)


def handler_for(recorder: Recorder, **providers: Any) -> TelemetryHandler:
    return TelemetryHandler(**{**recorder.providers, **providers})


def test_call_below_util_genai_gets_no_span(handler, instrumenter, recorder):
    with handler.inference("openai", request_model="smol") as outer:
        run(instrumenter, answered(timings=TIMINGS))
        outer.input_tokens, outer.output_tokens = 10, 5
    (span,) = recorder.calls()
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert span.attributes["gen_ai.usage.input_tokens"] == 10
    assert recorder.tokens("input") == 10
    assert {name: recorder.points(name)[0].count for name in CLIENT_METRICS | SERVER_METRICS} == (
        dict.fromkeys(CLIENT_METRICS | SERVER_METRICS, 1)
    )


def test_embeddings_below_util_genai_get_no_span(handler, instrumenter, recorder):
    with handler.embedding("openai", request_model="smol"):
        run(instrumenter, Response(), operation="embeddings")
    assert len(recorder.calls()) == 1


@pytest.mark.parametrize(
    "inner", [{"model": "other"}, {"server": OTHER_SERVER}, {"operation": "embeddings"}]
)
def test_different_call_below_util_genai_gets_own_span(handler, instrumenter, recorder, inner):
    with handler.inference(
        "openai", request_model="smol", server_address=LOCAL.address, server_port=LOCAL.port
    ):
        run(instrumenter, answered(), **inner)
    assert len(recorder.calls()) == 2


@pytest.mark.parametrize(
    "start_outer",
    [
        lambda handler: handler.workflow(name="it"),
        lambda handler: handler.invoke_local_agent(agent_name="it"),
        lambda handler: handler.invoke_remote_agent("openai", request_model="smol"),
        lambda handler: handler.tool(name="it"),
    ],
)
def test_workflow_agent_and_tool_spans_are_parents(handler, instrumenter, recorder, start_outer):
    with start_outer(handler):
        run(instrumenter, answered(timings=TIMINGS))
    *_, call, outer = recorder.spans()
    assert call.name == "chat smol"
    assert call.parent.span_id == outer.context.span_id
    assert call.attributes["gen_ai.prefill_ms"] == 20.0
    assert "gen_ai.prefill_ms" not in outer.attributes


def test_task_below_util_genai_records_own_calls_when_owner_has_ended(
    handler, instrumenter, recorder
):
    """util-genai itself drops these calls, because its key stays in the context of the task."""

    async def background(go: asyncio.Event) -> None:
        await go.wait()
        run(instrumenter, answered())

    async def main() -> None:
        go = asyncio.Event()
        with handler.inference("openai", request_model="smol"):
            task = asyncio.create_task(background(go))
            await asyncio.sleep(0)
        go.set()
        await task

    asyncio.run(main())
    other_tracer, ours = recorder.calls()
    assert (other_tracer.name, ours.name) == ("chat smol", "chat smol")
    assert ours.instrumentation_scope.name == SCOPE


def test_unsampled_util_genai_call_is_counted_once(recorder, monkeypatch):
    phases = []
    monkeypatch.setattr(spans, "record_phase_spans", lambda *args: phases.append(args))
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    handler = handler_for(recorder, tracer_provider=provider)
    instrumenter = Instrumenter(
        SCOPE, VERSION, tracer_provider=provider, meter_provider=recorder.meter_provider
    )
    with handler.inference("openai", request_model="smol"):
        run(instrumenter, answered(timings=TIMINGS))
    assert set(recorder.metrics()) == {"gen_ai.client.operation.duration", *SERVER_METRICS}
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert duration.count == 1
    assert phases == []


def test_unsampled_call_without_external_span_is_counted(recorder):
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    instrumenter = Instrumenter(
        SCOPE, VERSION, tracer_provider=provider, meter_provider=recorder.meter_provider
    )
    tracer = trace.get_tracer("app", tracer_provider=provider)
    with tracer.start_as_current_span("request"):
        run(instrumenter, answered())
    assert set(recorder.metrics()) == CLIENT_METRICS


@pytest.fixture
def below(recorder: Recorder) -> Instrumenter:
    """Return the instrumenter of a nested plugin, such as the one for HTTP."""
    return Instrumenter("plugin-below", VERSION, **recorder.providers)


def test_nested_plugin_completes_enclosing_call(start, below, recorder):
    """Without a response of the outer call, because the application reads it raw."""
    outer = start()
    token = outer.activate()
    outer.start_attempt()
    run(below, answered(timings=TIMINGS))
    assert current_call() is outer
    outer.deactivate(token)
    outer.finish(Response())
    (span,) = recorder.calls()
    assert span.attributes["gen_ai.response.id"] == "r"
    assert span.attributes["gen_ai.usage.input_tokens"] == 10
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert list(recorder.phases(span)) == ["queue", "prefill", "decode"]
    counts = {name: {point.count for point in recorder.points(name)} for name in recorder.metrics()}
    assert counts == {key: {1} for key in CLIENT_METRICS | SERVER_METRICS}


def test_enclosing_call_keeps_its_own_values(start, below, recorder):
    outer = start()
    token = outer.activate()
    run(below, Response(id="inner", model="inner", usage=Usage(1, 1, cache_read_tokens=1)))
    outer.deactivate(token)
    outer.finish(Response(id="outer", finish_reasons=("stop",), usage=Usage(2, 0)))
    attributes = recorder.call().attributes
    assert attributes["gen_ai.response.id"] == "outer"
    assert attributes["gen_ai.response.model"] == "inner"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.input_tokens"] == 2
    assert attributes["gen_ai.usage.output_tokens"] == 0  # which is not unknown
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 1


def test_enclosing_call_merges_times_of_nested_call(start, below, recorder):
    outer = start(stream=True)
    token = outer.activate()
    inner = below.start(chat(stream=True))
    time.sleep(0.05)  # The time before the request is sent does not count as queue.
    inner.start_attempt()
    time.sleep(0.02)
    inner.mark_headers_received()
    watch = StreamObserver(inner)
    watch.on_chunk({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    watch.on_end()
    outer.deactivate(token)
    outer.finish(Response(timings=TIMINGS))
    attributes = recorder.call().attributes
    assert attributes["llamatelemetry.queue_source"] == "header"
    assert 0.02 <= attributes["llamatelemetry.queue_duration"] < 0.05
    assert attributes["gen_ai.response.time_to_first_chunk"] >= 0.07
    assert attributes["gen_ai.ttft_ms"] >= 70  # by the client's clock, not the engine's
    assert "http.request.resend_count" not in attributes


def test_enclosing_call_gets_provider_proved_by_nested_headers(start, below, recorder):
    outer = start()
    token = outer.activate()
    inner = below.start(chat())
    inner.set_provider("llama_cpp")
    inner.finish(Response())
    outer.deactivate(token)
    outer.finish(Response())
    assert recorder.call().attributes["gen_ai.provider.name"] == "llama_cpp"


def test_chunks_are_measured_once_when_calls_are_nested(start, below, recorder):
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    outer = start(stream=True)
    token = outer.activate()
    watches = StreamObserver(outer), StreamObserver(below.start(chat(stream=True)))
    for _ in range(4):
        for watch in watches:
            watch.on_chunk(chunk)
    outer.deactivate(token)
    for watch in reversed(watches):
        watch.on_end()
    (gaps,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert gaps.count == 3


def test_phases_count_from_last_attempt(start, below, recorder):
    outer = start()
    token = outer.activate()
    failed = below.start(chat())
    failed.fail(ConnectionError(), Response(model="first"))
    run(below, answered(timings=TIMINGS))
    outer.deactivate(token)
    outer.finish(Response())
    span = recorder.call()
    assert span.attributes["gen_ai.response.model"] == "smol-q4"
    assert span.status.is_unset


def test_nested_call_ending_after_enclosing_call_changes_nothing(start, below, recorder):
    outer = start()
    token = outer.activate()
    inner = below.start(chat())
    outer.deactivate(token)
    outer.finish(answered())
    inner.finish(answered(timings=TIMINGS))
    assert "gen_ai.prefill_ms" not in recorder.call().attributes
    assert set(recorder.metrics()) == CLIENT_METRICS


def test_three_nested_layers_record_one_span(other_tracer, instrumenter, below, recorder):
    """Such as a framework, the client, and HTTP."""
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        call = instrumenter.start(chat())
        token = call.activate()
        run(below, answered(timings=TIMINGS))
        call.deactivate(token)
        call.finish(Response())
    (span,) = recorder.calls()
    assert span.name == "outer"
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert set(recorder.metrics()) == SERVER_METRICS


@pytest.mark.parametrize("inner", [{"server": OTHER_SERVER}, {"operation": "embeddings"}])
def test_different_request_inside_call_gets_own_span(start, below, recorder, inner):
    outer = start()
    token = outer.activate()
    run(below, answered(), **inner)
    outer.deactivate(token)
    outer.finish(answered())
    child, parent = recorder.calls()
    assert child.parent.span_id == parent.context.span_id


def test_external_span_gets_no_phase_spans_when_disabled(recorder, other_tracer):
    config = LlamaTelemetryConfig(phase_spans=False)
    instrumenter = Instrumenter(SCOPE, VERSION, config=config, **recorder.providers)
    with other_tracer.start_as_current_span("outer", kind=CLIENT, attributes=SMOL):
        run(instrumenter, answered(timings=TIMINGS))
    assert [span.name for span in recorder.spans()] == ["outer"]
