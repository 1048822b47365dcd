"""What makes a call and what does not: suppressed, unsampled, inside another."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from llamatelemetry.genai import Response, Usage, current_call, spans
from tests.genai.conftest import DURATION, OTHER_SERVER, TIMINGS, chat


def test_unsampled_span_gets_no_attributes_but_metrics_are_recorded(
    make_instrumenter, recorder, monkeypatch
):
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    computed = []
    monkeypatch.setattr(spans, "record_span", lambda *args: computed.append(args))
    monkeypatch.setattr(spans, "record_phase_spans", lambda *args: computed.append(args))
    call = make_instrumenter(tracer_provider=provider).start(chat())
    call.finish(Response(usage=Usage(input_tokens=2), timings=TIMINGS))
    assert computed == []
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
def test_nested_call_of_same_operation_and_server_gets_no_span(start, instrumenter, inner, is_same):
    outer = start()
    token = outer.activate()
    try:
        call = instrumenter.start(chat(**inner))
    finally:
        outer.deactivate(token)
    assert (call is None) is is_same


def test_nested_call_of_another_request_gets_child_span(start, instrumenter, recorder):
    outer = start()
    token = outer.activate()
    inner = instrumenter.start(chat(operation="embeddings"))
    inner.finish(Response())
    outer.deactivate(token)
    outer.finish(Response())
    child, parent = recorder.calls()
    assert child.parent.span_id == parent.context.span_id


def test_library_wrapped_twice_records_one_call(make_instrumenter):
    first, second = make_instrumenter(), make_instrumenter()
    call = first.start(chat())
    token = call.activate()
    assert second.start(chat()) is None
    assert current_call() is call
    call.deactivate(token)
    assert current_call() is None
    assert second.start(chat()) is not None


def test_current_call_returns_none_after_call_has_ended(start):
    call = start()
    token = call.activate()
    call.finish(Response())
    assert current_call() is None
    call.deactivate(token)


def test_task_that_outlives_its_call_records_own_calls(start, instrumenter, recorder):
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


def test_thread_with_context_of_ended_call_records_own_calls(start, instrumenter):
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


def test_concurrent_tasks_record_separate_calls(instrumenter, recorder):
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
