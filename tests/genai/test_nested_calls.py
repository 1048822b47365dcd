"""Calls inside another call: the enclosing call has the span, and nested ones complete it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from llamatelemetry.genai import Instrumenter, Response, StreamObserver, Usage, current_call
from tests.genai.conftest import (
    CLIENT_METRICS,
    OTHER_SERVER,
    SERVER_METRICS,
    TIMINGS,
    VERSION,
    chat,
    chat_response,
    make_call,
)
from tests.support.recorder import Recorder

SMOL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "smol"}


@pytest.fixture
def http_instrumenter(recorder: Recorder) -> Instrumenter:
    """Return the instrumenter of a plugin for an HTTP client."""
    return Instrumenter("http-plugin", VERSION, **recorder.providers)


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        # The client may change the request body before it sends it.
        ({"model": "other", "stream": True}, True),
        ({"operation": "embeddings"}, False),
        ({"server": OTHER_SERVER}, False),
        ({"server": None}, False),
    ],
)
def test_nested_call_of_same_operation_and_server_gets_no_span(
    start, instrumenter, changes, is_same
):
    enclosing = start()
    token = enclosing.activate()
    try:
        call = instrumenter.start(chat(**changes))
    finally:
        enclosing.deactivate(token)
    assert (call is None) is is_same


def test_nested_call_of_another_request_gets_child_span(start, instrumenter, recorder):
    enclosing = start()
    token = enclosing.activate()
    nested = instrumenter.start(chat(operation="embeddings"))
    nested.finish(Response())
    enclosing.deactivate(token)
    enclosing.finish(Response())
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
    async def background(call_ended: asyncio.Event) -> None:
        await call_ended.wait()
        call = instrumenter.start(chat())
        assert call is not None
        call.finish(Response())

    async def run() -> None:
        call_ended = asyncio.Event()
        call = start()
        token = call.activate()
        task = asyncio.create_task(background(call_ended))
        await asyncio.sleep(0)
        call.deactivate(token)
        call.finish(Response())
        call_ended.set()
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
    async def make_one_call() -> None:
        call = instrumenter.start(chat())
        assert call is not None
        token = call.activate()
        await asyncio.sleep(0.001)
        assert current_call() is call
        call.deactivate(token)
        call.finish(Response())

    async def make_calls() -> None:
        await asyncio.gather(*(make_one_call() for _ in range(20)))

    asyncio.run(make_calls())
    assert len(recorder.calls()) == 20
    assert {span.parent for span in recorder.calls()} == {None}


def test_nested_plugin_completes_enclosing_call(start, http_instrumenter, recorder):
    """The enclosing call has no parsed response when the application reads the raw response."""
    enclosing = start()
    token = enclosing.activate()
    enclosing.start_attempt()
    make_call(http_instrumenter, chat_response(timings=TIMINGS))
    assert current_call() is enclosing
    enclosing.deactivate(token)
    enclosing.finish(Response())
    (span,) = recorder.calls()
    assert span.attributes["gen_ai.response.id"] == "r"
    assert span.attributes["gen_ai.usage.input_tokens"] == 10
    assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert list(recorder.phases(span)) == ["queue", "prefill", "decode"]
    counts = {name: {point.count for point in recorder.points(name)} for name in recorder.metrics()}
    assert counts == {key: {1} for key in CLIENT_METRICS | SERVER_METRICS}


def test_enclosing_call_keeps_its_own_values(start, http_instrumenter, recorder):
    enclosing = start()
    token = enclosing.activate()
    make_call(
        http_instrumenter,
        Response(id="nested", model="nested-model", usage=Usage(1, 1, cache_read_tokens=1)),
    )
    enclosing.deactivate(token)
    enclosing.finish(Response(id="enclosing", finish_reasons=("stop",), usage=Usage(2, 0)))
    attributes = recorder.call().attributes
    assert attributes["gen_ai.response.id"] == "enclosing"
    assert attributes["gen_ai.response.model"] == "nested-model"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.usage.input_tokens"] == 2
    assert attributes["gen_ai.usage.output_tokens"] == 0  # 0 is a known count.
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 1


def test_enclosing_call_merges_times_of_nested_call(start, http_instrumenter, recorder):
    enclosing = start(stream=True)
    token = enclosing.activate()
    nested = http_instrumenter.start(chat(stream=True))
    time.sleep(0.05)  # Time before the request is sent is not queue time.
    nested.start_attempt()
    time.sleep(0.02)
    nested.mark_headers_received()
    observer = StreamObserver(nested)
    observer.on_chunk({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    observer.on_end()
    enclosing.deactivate(token)
    enclosing.finish(Response(timings=TIMINGS))
    attributes = recorder.call().attributes
    assert attributes["llamatelemetry.queue_source"] == "header"
    assert 0.02 <= attributes["llamatelemetry.queue_duration"] < 0.05
    assert attributes["gen_ai.response.time_to_first_chunk"] >= 0.07
    assert attributes["gen_ai.ttft_ms"] >= 70  # Measured with the client's clock.
    assert "http.request.resend_count" not in attributes


def test_enclosing_call_gets_provider_detected_by_nested_call(start, http_instrumenter, recorder):
    enclosing = start()
    token = enclosing.activate()
    nested = http_instrumenter.start(chat())
    nested.set_provider("llama_cpp")
    nested.finish(Response())
    enclosing.deactivate(token)
    enclosing.finish(Response())
    assert recorder.call().attributes["gen_ai.provider.name"] == "llama_cpp"


def test_chunks_are_measured_once_when_calls_are_nested(start, http_instrumenter, recorder):
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    enclosing = start(stream=True)
    token = enclosing.activate()
    observers = (
        StreamObserver(enclosing),
        StreamObserver(http_instrumenter.start(chat(stream=True))),
    )
    for _ in range(4):
        for observer in observers:
            observer.on_chunk(chunk)
    enclosing.deactivate(token)
    for observer in reversed(observers):
        observer.on_end()
    (intervals,) = recorder.points("gen_ai.client.operation.time_per_output_chunk")
    assert intervals.count == 3


def test_response_of_next_attempt_replaces_values_of_failed_attempt(
    start, http_instrumenter, recorder
):
    enclosing = start()
    token = enclosing.activate()
    failed = http_instrumenter.start(chat())
    failed.fail(ConnectionError(), Response(model="first"))
    make_call(http_instrumenter, chat_response(timings=TIMINGS))
    enclosing.deactivate(token)
    enclosing.finish(Response())
    span = recorder.call()
    assert span.attributes["gen_ai.response.model"] == "smol-q4"
    assert span.status.is_unset


def test_nested_call_ending_after_enclosing_call_changes_nothing(
    start, http_instrumenter, recorder
):
    enclosing = start()
    token = enclosing.activate()
    nested = http_instrumenter.start(chat())
    enclosing.deactivate(token)
    enclosing.finish(chat_response())
    nested.finish(chat_response(timings=TIMINGS))
    assert "gen_ai.prefill_ms" not in recorder.call().attributes
    assert set(recorder.metrics()) == CLIENT_METRICS


def test_three_nested_layers_record_one_span(instrumenter, http_instrumenter, recorder):
    """A framework, the client library and the HTTP client."""
    framework = trace.get_tracer("framework", tracer_provider=recorder.tracer_provider)
    with framework.start_as_current_span("framework", kind=SpanKind.CLIENT, attributes=SMOL):
        call = instrumenter.start(chat())
        token = call.activate()
        make_call(http_instrumenter, chat_response(timings=TIMINGS))
        call.deactivate(token)
        call.finish(Response())
    (span,) = recorder.calls()
    assert span.name == "framework"
    assert span.attributes["gen_ai.prefill_ms"] == 20.0
    assert set(recorder.metrics()) == SERVER_METRICS


@pytest.mark.parametrize("changes", [{"server": OTHER_SERVER}, {"operation": "embeddings"}])
def test_different_request_inside_call_gets_own_span(start, http_instrumenter, recorder, changes):
    enclosing = start()
    token = enclosing.activate()
    make_call(http_instrumenter, chat_response(), **changes)
    enclosing.deactivate(token)
    enclosing.finish(chat_response())
    child, parent = recorder.calls()
    assert child.parent.span_id == parent.context.span_id
