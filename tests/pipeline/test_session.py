"""A session is on every span below it, and goes nowhere else unless that is asked for."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from opentelemetry import propagate, trace

from llamatelemetry import session
from llamatelemetry.pipeline import PipelineTracer
from tests.recorder import Recorder


def attributes_of(recorder: Recorder) -> dict[str, dict[str, object]]:
    return {span.name: dict(span.attributes or {}) for span in recorder.spans()}


def test_every_span_below_says_whose_it_is(telemetry: Recorder) -> None:
    somebody = trace.get_tracer("somebody")
    with session("thread-42", "ada"):
        with PipelineTracer().stage("ours"), somebody.start_as_current_span("theirs"):
            pass
        somebody.start_span("their own", attributes={"gen_ai.conversation.id": "own"}).end()
    somebody.start_span("outside").end()
    assert attributes_of(telemetry) == {
        "theirs": {"gen_ai.conversation.id": "thread-42", "user.id": "ada"},
        "ours": {
            "llamatelemetry.task": "ours",
            "gen_ai.conversation.id": "thread-42",
            "user.id": "ada",
        },
        "their own": {"gen_ai.conversation.id": "own", "user.id": "ada"},
        "outside": {},
    }


def test_without_a_processor_of_ours_blocks_still_say_it(recorder: Recorder) -> None:
    tracer = PipelineTracer(tracer_provider=recorder.tracer_provider)
    with session("thread-42"), tracer.stage("ours"):
        pass
    assert attributes_of(recorder)["ours"]["gen_ai.conversation.id"] == "thread-42"


async def test_an_inner_session_replaces_the_outer_one_in_its_task_only(
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
        with tracer.stage("beside it"):
            pass
        await running
    found = attributes_of(telemetry)
    assert found["in the task"]["gen_ai.conversation.id"] == "inner"
    assert "user.id" not in found["in the task"]
    assert found["beside it"]["gen_ai.conversation.id"] == "outer"


def test_nothing_of_it_leaves_with_requests_unless_asked(telemetry: Recorder) -> None:
    carrier: dict[str, str] = {}
    with session("thread-42", "ada"):
        propagate.inject(carrier)
    assert carrier == {}
    with session("thread-42", "ada", baggage=True):
        propagate.inject(carrier)
    assert carrier["baggage"] == "gen_ai.conversation.id=thread-42,user.id=ada"


def test_a_session_needs_an_id() -> None:
    with pytest.raises(ValueError, match="needs the id of a conversation"):
        session("")


def test_calls_to_models_say_it_too(telemetry: Recorder) -> None:
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
