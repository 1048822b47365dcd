"""Thirty-two threads at once, with everything on: each call is counted exactly once everywhere.

In a free-threaded Python the threads run at the same time, so a step that is not atomic shows.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from llamatelemetry.genai import flush_pending
from llamatelemetry.local.call_history import CallHistory
from llamatelemetry.otel import RedactionSpanProcessor
from llamatelemetry.otel.sampling import tail_sampler
from llamatelemetry.otel.sampling.rules import Policy
from llamatelemetry.otel.sampling.tail_sampler import TailSampler
from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for

THREADS, ROUNDS = 32, 5
KINDS = ("plain", "stream", "abandoned", "fails")
CALLS = THREADS * ROUNDS * len(KINDS)


def respond(request: httpx.Request) -> httpx.Response:
    body = request.read()
    if b'"fails"' in body:
        return payloads.error_response(400, message="no", type="invalid_request_error")
    if b'"stream":true' in body:
        chunks = payloads.chat_chunks(usage=payloads.USAGE, timings=payloads.TIMINGS)
        return payloads.stream_response(payloads.sse(chunks))
    return payloads.json_response(payloads.chat(timings=payloads.TIMINGS))


def call(client: openai.OpenAI, kind: str, thread: int) -> None:
    text = f"Prompt {thread % 7} of ada@example.com"
    options: Any = {"model": kind, "messages": [{"role": "user", "content": text}]}
    if kind == "fails":
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**options)
        return
    reply: Any = client.chat.completions.create(**options, stream=kind in {"stream", "abandoned"})
    if kind == "stream":
        assert len(list(reply)) == 4
    elif kind == "abandoned":
        next(reply)


@pytest.fixture(scope="module", autouse=True)
def _warm_client() -> None:
    """Let pydantic complete openai's models, which threads must not do at once."""
    with payloads.client(respond) as client:
        for kind in KINDS:
            call(client, kind, 0)


def run_at_once(work: Callable[[int], None]) -> None:
    """Run the function in all threads, and raise what one of them has raised."""
    barrier, failures = threading.Barrier(THREADS), []

    def run(thread: int) -> None:
        try:
            barrier.wait()
            work(thread)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise ExceptionGroup("in the threads", failures)


def test_threads_record_each_call_once_everywhere(
    recorder: Recorder, instrument: Callable[..., None]
) -> None:
    tail_sampler._counts.clear()
    graphs, history, sampler = TraceGraphProcessor(), CallHistory(), TailSampler(Policy(rate=1.0))
    for processor in (RedactionSpanProcessor(), graphs, history, sampler):
        recorder.tracer_provider.add_span_processor(processor)
    instrument(capture_content="span_and_event", diagnostics=True)
    is_over = threading.Event()
    collector = threading.Thread(target=collect_until, args=(recorder, is_over))
    collector.start()
    try:
        with payloads.client(respond) as client:
            run_at_once(
                lambda thread: [call(client, kind, thread) for _ in range(ROUNDS) for kind in KINDS]
            )
    finally:
        is_over.set()
        collector.join()
    gc.collect()  # A free-threaded Python finds an abandoned stream only so.
    wait_for(lambda: len(recorder.calls()) >= CALLS)
    each = CALLS // len(KINDS)
    assert Counter(span.name for span in recorder.calls()) == {f"chat {k}": each for k in KINDS}
    assert len({span.context.span_id for span in recorder.calls()}) == CALLS
    assert len(recorder.events()) == CALLS
    durations = recorder.points("gen_ai.client.operation.duration")
    assert sum(point.count for point in durations) == CALLS
    assert recorder.tokens("output") == 2 * each * payloads.USAGE["completion_tokens"]
    first_chunks = recorder.points("gen_ai.client.operation.time_to_first_chunk")
    assert sum(point.count for point in first_chunks) == 2 * each
    counted = sum(edge.stats.count for edge in graphs.graph().edges if edge.kind == "calls")
    assert counted == CALLS
    summary = history.summary()
    assert (summary.calls, summary.errors) == (CALLS, each)
    kept = tail_sampler._counts.traces[tail_sampler.KEPT]
    assert kept == CALLS
    assert flush_pending(5)


def collect_until(recorder: Recorder, is_over: threading.Event) -> None:
    while not is_over.wait(0.01):
        recorder.metrics()


def test_first_measurements_of_threads_are_all_recorded(
    recorder: Recorder, instrument: Callable[..., None]
) -> None:
    for number in range(20):
        instrument()  # a new recorder of measurements, which does not know the SDK yet
        with payloads.client(respond) as client:
            run_at_once(lambda thread, client=client: call(client, "plain", thread))
        assert flush_pending(5)
        durations = recorder.points("gen_ai.client.operation.duration")
        assert sum(point.count for point in durations) == THREADS * (number + 1)
        OpenAIInstrumentor().uninstrument()
