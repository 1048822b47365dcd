"""`session()`: attributes of all spans in its block, baggage only on request."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from opentelemetry import propagate, trace

from llamatelemetry import session
from llamatelemetry.pipeline import PipelineTracer
from tests.support.recorder import Recorder


def attributes_of(recorder: Recorder) -> dict[str, dict[str, object]]:
    return {span.name: dict(span.attributes or {}) for span in recorder.spans()}


def test_session_sets_attributes_on_all_spans_in_block(telemetry: Recorder) -> None:
    application = trace.get_tracer("application")
    with session("thread-42", "ada"):
        with PipelineTracer().stage("stage"), application.start_as_current_span("application span"):
            pass
        application.start_span("own session", attributes={"gen_ai.conversation.id": "own"}).end()
    application.start_span("outside").end()
    assert attributes_of(telemetry) == {
        "application span": {"gen_ai.conversation.id": "thread-42", "user.id": "ada"},
        "stage": {
            "llamatelemetry.task": "stage",
            "gen_ai.conversation.id": "thread-42",
            "user.id": "ada",
        },
        "own session": {"gen_ai.conversation.id": "own", "user.id": "ada"},
        "outside": {},
    }


def test_session_sets_attributes_of_pipeline_spans_without_session_processor(
    recorder: Recorder,
) -> None:
    tracer = PipelineTracer(tracer_provider=recorder.tracer_provider)
    with session("thread-42"), tracer.stage("stage"):
        pass
    assert attributes_of(recorder)["stage"]["gen_ai.conversation.id"] == "thread-42"


async def test_inner_session_replaces_outer_session_only_in_its_task(
    telemetry: Recorder,
) -> None:
    tracer = PipelineTracer()

    async def inner() -> None:
        async with session("inner"):
            await asyncio.sleep(0)
            with tracer.stage("in the task"):
                pass

    with session("outer", "ada"):
        running = asyncio.create_task(inner())
        await asyncio.sleep(0)
        with tracer.stage("outside the task"):
            pass
        await running
    found = attributes_of(telemetry)
    assert found["in the task"]["gen_ai.conversation.id"] == "inner"
    assert "user.id" not in found["in the task"]
    assert found["outside the task"]["gen_ai.conversation.id"] == "outer"


def test_session_is_propagated_as_baggage_only_when_requested(telemetry: Recorder) -> None:
    carrier: dict[str, str] = {}
    with session("thread-42", "ada"):
        propagate.inject(carrier)
    assert carrier == {}
    with session("thread-42", "ada", baggage=True):
        propagate.inject(carrier)
    assert carrier["baggage"] == "gen_ai.conversation.id=thread-42,user.id=ada"


def test_session_raises_for_empty_id() -> None:
    with pytest.raises(ValueError, match="session_id must be text such as 'thread-42', got ''"):
        session("")


def test_session_and_agent_apply_to_calls_of_plugin(telemetry: Recorder) -> None:
    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"content": "hi"}, headers={"server": "llama.cpp"})

    instrumentor = LlamaCppInstrumentor()
    instrumentor.instrument(**telemetry.providers)
    try:
        with (
            session("thread-42"),
            PipelineTracer().agent("researcher"),
            httpx.Client(transport=httpx.MockTransport(reply)) as client,
        ):
            client.post("http://127.0.0.1:8080/completion", json={"prompt": "x"})
    finally:
        instrumentor.uninstrument()
    call, run = telemetry.spans()
    assert (call.attributes or {})["gen_ai.conversation.id"] == "thread-42"
    assert call.parent is not None
    assert call.parent.span_id == run.context.span_id
    (calls,) = telemetry.points("gen_ai.invoke_agent.inference_calls")
    assert calls.sum == 1
