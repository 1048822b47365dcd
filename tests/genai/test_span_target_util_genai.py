"""Calls inside the spans of opentelemetry-util-genai."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.util.genai.handler import TelemetryHandler

from llamatelemetry.genai import Instrumenter, Response, spans
from tests.genai.conftest import (
    CLIENT_METRICS,
    LOCAL,
    OTHER_SERVER,
    SCOPE,
    SERVER_METRICS,
    TIMINGS,
    VERSION,
    chat_response,
    make_call,
)
from tests.support.recorder import Recorder


@pytest.fixture
def handler(recorder: Recorder) -> TelemetryHandler:
    return make_handler(recorder)


def make_handler(recorder: Recorder, **providers: Any) -> TelemetryHandler:
    return TelemetryHandler(**{**recorder.providers, **providers})


def test_call_inside_util_genai_inference_adds_to_its_span(handler, instrumenter, recorder):
    with handler.inference("openai", request_model="smol") as inference:
        make_call(instrumenter, chat_response(timings=TIMINGS))
        inference.input_tokens, inference.output_tokens = 10, 5
    (span,) = recorder.calls()
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert span.attributes["gen_ai.usage.input_tokens"] == 10
    assert recorder.tokens("input") == 10
    assert {name: recorder.points(name)[0].count for name in CLIENT_METRICS | SERVER_METRICS} == (
        dict.fromkeys(CLIENT_METRICS | SERVER_METRICS, 1)
    )


def test_embeddings_inside_util_genai_embedding_add_to_its_span(handler, instrumenter, recorder):
    with handler.embedding("openai", request_model="smol"):
        make_call(instrumenter, Response(), operation="embeddings")
    assert len(recorder.calls()) == 1


@pytest.mark.parametrize(
    "changes", [{"model": "other"}, {"server": OTHER_SERVER}, {"operation": "embeddings"}]
)
def test_different_call_inside_util_genai_inference_records_own_span(
    handler, instrumenter, recorder, changes
):
    with handler.inference(
        "openai", request_model="smol", server_address=LOCAL.address, server_port=LOCAL.port
    ):
        make_call(instrumenter, chat_response(), **changes)
    assert len(recorder.calls()) == 2


@pytest.mark.parametrize(
    "start_span",
    [
        lambda handler: handler.workflow(name="planner"),
        lambda handler: handler.invoke_local_agent(agent_name="planner"),
        lambda handler: handler.invoke_remote_agent("openai", request_model="smol"),
        lambda handler: handler.tool(name="planner"),
    ],
)
def test_workflow_agent_and_tool_spans_are_parents(handler, instrumenter, recorder, start_span):
    with start_span(handler):
        make_call(instrumenter, chat_response(timings=TIMINGS))
    *_, call, parent = recorder.spans()
    assert call.name == "chat smol"
    assert call.parent.span_id == parent.context.span_id
    assert call.attributes["gen_ai.prefill_ms"] == 20.0
    assert "gen_ai.prefill_ms" not in parent.attributes


def test_task_records_own_calls_when_util_genai_inference_has_ended(
    handler, instrumenter, recorder
):
    """util-genai drops such calls, because the context of the task keeps its key."""

    async def background(inference_ended: asyncio.Event) -> None:
        await inference_ended.wait()
        make_call(instrumenter, chat_response())

    async def main() -> None:
        inference_ended = asyncio.Event()
        with handler.inference("openai", request_model="smol"):
            task = asyncio.create_task(background(inference_ended))
            await asyncio.sleep(0)
        inference_ended.set()
        await task

    asyncio.run(main())
    inference, own_call = recorder.calls()
    assert (inference.name, own_call.name) == ("chat smol", "chat smol")
    assert own_call.instrumentation_scope.name == SCOPE


def test_unsampled_util_genai_call_is_counted_once(recorder, monkeypatch):
    phases = []
    monkeypatch.setattr(spans, "record_phase_spans", lambda *args: phases.append(args))
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    handler = make_handler(recorder, tracer_provider=provider)
    instrumenter = Instrumenter(
        SCOPE, VERSION, tracer_provider=provider, meter_provider=recorder.meter_provider
    )
    with handler.inference("openai", request_model="smol"):
        make_call(instrumenter, chat_response(timings=TIMINGS))
    assert set(recorder.metrics()) == {"gen_ai.client.operation.duration", *SERVER_METRICS}
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert duration.count == 1
    assert phases == []
