"""Abandoned calls: a thread ends them, because garbage collection may run under any lock."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

from llamatelemetry.genai import (
    Instrumenter,
    Response,
    StreamObserver,
    StreamWrapper,
    flush_pending,
    internal_errors,
    stop_finalizer,
)
from llamatelemetry.genai.streams.abandoned_calls import AbandonedCallFinalizer
from tests.genai.conftest import chat

ROOT = Path(__file__).parents[3]


class FakeCall:
    """A call that can be finalized: it runs `action` and stores the name of the thread."""

    def __init__(self, action: Callable[[], Any] = lambda: None) -> None:
        self.action = action
        self.ended: list[str] = []

    def finalize(self) -> None:
        self.action()
        self.ended.append(threading.current_thread().name)


@pytest.fixture
def finalizer() -> Iterator[AbandonedCallFinalizer]:
    finalizer = AbandonedCallFinalizer()
    yield finalizer
    assert finalizer.stop(5)


def finalizer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llamatelemetry-finalizer"]


def test_finalizer_starts_one_daemon_thread_on_first_use():
    assert stop_finalizer(5)
    assert finalizer_threads() == []
    finalizer = AbandonedCallFinalizer()
    assert finalizer_threads() == []
    barrier = threading.Barrier(10)

    def start() -> None:
        barrier.wait(5)
        finalizer.start()

    starters = [threading.Thread(target=start) for _ in range(10)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(5)
    assert [thread.daemon for thread in finalizer_threads()] == [True]
    assert finalizer.stop(5)
    assert finalizer_threads() == []


def test_finalizer_ends_calls_in_order_in_its_thread(finalizer):
    order: list[int] = []
    calls = [FakeCall(lambda number=number: order.append(number)) for number in range(100)]
    finalizer.start()
    for call in calls:
        finalizer.put(call)
    assert finalizer.flush(5)
    assert order == list(range(100))
    assert {name for call in calls for name in call.ended} == {"llamatelemetry-finalizer"}


def test_flush_starts_no_thread_when_queue_is_empty(finalizer):
    assert stop_finalizer(5)
    assert finalizer.flush(0)
    assert finalizer_threads() == []


def test_flush_ends_calls_queued_before_thread_started(finalizer):
    call = FakeCall()
    finalizer.put(call)
    assert call.ended == []
    assert finalizer.flush(5)
    assert len(call.ended) == 1


def test_flush_returns_false_after_timeout(finalizer):
    may_end = threading.Event()
    last = FakeCall()
    finalizer.put(FakeCall(lambda: may_end.wait(10)))
    finalizer.put(last)
    started_s = time.monotonic()
    assert finalizer.flush(0.05) is False
    assert time.monotonic() - started_s < 5
    may_end.set()
    assert finalizer.flush(5)
    assert len(last.ended) == 1


def test_failing_call_is_logged_and_next_call_ends(finalizer, caplog):
    internal_errors.set_strict(False)

    def fail() -> None:
        raise ValueError("broken")

    last = FakeCall()
    finalizer.start()
    finalizer.put(FakeCall(fail))
    finalizer.put(last)
    assert finalizer.flush(5)
    assert len(last.ended) == 1
    assert "ending an abandoned call" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dead_thread_is_replaced(finalizer):
    def die() -> None:
        raise KeyboardInterrupt

    finalizer.start()
    finalizer.put(FakeCall(die))
    for thread in finalizer_threads():
        thread.join(0.5)
    last = FakeCall()
    finalizer.put(last)
    assert finalizer.flush(5)
    assert len(last.ended) == 1


def test_finalizer_keeps_no_reference_to_ended_call(finalizer):
    finalizer.start()
    call = FakeCall()
    reference = weakref.ref(call)
    finalizer.put(call)
    assert finalizer.flush(5)
    del call
    assert reference() is None


def test_stop_ends_queued_calls_and_start_works_again(finalizer):
    for _ in range(3):
        calls = [FakeCall() for _ in range(20)]
        finalizer.start()
        for call in calls:
            finalizer.put(call)
        assert finalizer.stop(5)
        assert all(call.ended for call in calls)
    assert finalizer.stop(5)  # Stopping a stopped finalizer succeeds.


def test_stop_returns_false_after_timeout(finalizer):
    may_end = threading.Event()
    finalizer.start()
    finalizer.put(FakeCall(lambda: may_end.wait(10)))
    assert finalizer.stop(0.05) is False
    may_end.set()
    assert finalizer.flush(5)


def test_stop_and_start_from_many_threads_lose_no_call(finalizer):
    calls = [FakeCall() for _ in range(400)]

    def work(own_items: list[FakeCall]) -> None:
        for call in own_items:
            finalizer.start()
            finalizer.put(call)
            assert finalizer.stop(5)

    workers = [threading.Thread(target=work, args=(calls[n::8],)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert finalizer.flush(5)
    assert all(len(call.ended) == 1 for call in calls)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("no_threads")
def test_calls_end_without_thread(finalizer):
    first, second = FakeCall(), FakeCall()
    finalizer.start()
    finalizer.put(first)
    finalizer.start()  # as the next stream does
    assert first.ended == ["MainThread"]
    finalizer.put(second)
    assert finalizer.flush(5)
    assert second.ended == ["MainThread"]


def test_start_ends_calls_that_thread_leaves_queued(finalizer):
    may_end = threading.Event()
    finalizer.start()
    finalizer.put(FakeCall(lambda: may_end.wait(20)))
    calls = [FakeCall() for _ in range(100)]
    for call in calls:
        finalizer.put(call)
    finalizer.start()
    assert any(call.ended for call in calls)
    may_end.set()
    assert finalizer.flush(5)


def test_call_abandoned_before_response_ends_at_that_time(start, recorder):
    call = start()
    time.sleep(0.01)
    call.abandon(call)
    abandoned_ns = time.time_ns()
    time.sleep(0.05)
    span = recorder.call()
    assert span.attributes["error.type"] == "GeneratorExit"
    assert span.start_time + 10_000_000 <= span.end_time <= abandoned_ns


def test_ended_call_is_not_queued(start, recorder):
    call = start()
    call.finish(Response(id="r"))
    call.abandon(call)
    assert recorder.call().attributes["gen_ai.response.id"] == "r"


class CyclicHolder:
    """A stream in a reference cycle, like every stream of the openai client."""

    def __init__(self, wrapper: StreamWrapper) -> None:
        self.wrapper = wrapper
        self.cycle = self


def abandoned_stream(instrumenter: Instrumenter, model: str = "smol") -> None:
    call = instrumenter.start(chat(stream=True, model=model))
    assert call is not None
    chunks = ({"id": "c", "choices": [{"delta": {"content": "a"}}]} for _ in range(5))
    wrapper = StreamWrapper(chunks, StreamObserver(call))
    next(wrapper)
    next(wrapper)
    CyclicHolder(wrapper)


def test_garbage_collection_during_metric_collection_does_not_hang(instrumenter, recorder):
    collected_objects = []

    def collect_garbage(_options: CallbackOptions) -> Iterator[Observation]:
        collected_objects.append(gc.collect())
        yield Observation(1)

    meter = recorder.meter_provider.get_meter("app")
    meter.create_observable_gauge("app.gauge", [collect_garbage])
    gc.disable()  # Only the callback collects the cycle.
    try:
        for _ in range(3):
            abandoned_stream(instrumenter)
        collection = threading.Thread(target=recorder.metrics, daemon=True)
        collection.start()
        collection.join(20)
        assert not collection.is_alive(), "deadlock"
    finally:
        gc.enable()
    assert collected_objects
    assert flush_pending(5)
    assert len(recorder.calls()) == 3
    (duration,) = recorder.points("gen_ai.client.operation.duration")
    assert duration.count == 3


class CollectingReservoir(AlignedHistogramBucketExemplarReservoir):
    """A reservoir that collects garbage while the SDK holds the lock that a new series needs."""

    def collect(self, point_attributes: Any) -> Any:
        gc.collect()
        return super().collect(point_attributes)


def test_garbage_collection_under_sdk_locks_does_not_hang(make_instrumenter):
    reader = InMemoryMetricReader()
    view = View(
        instrument_name="gen_ai.*", exemplar_reservoir_factory=lambda _: CollectingReservoir
    )
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    instrumenter = make_instrumenter(meter_provider=provider)
    instrumenter.start(chat()).finish(Response())  # The reader needs a series to collect.
    gc.disable()
    try:
        abandoned_stream(instrumenter, model="model without a series")
        collection = threading.Thread(target=reader.get_metrics_data, daemon=True)
        collection.start()
        collection.join(20)
        assert not collection.is_alive(), "deadlock"
    finally:
        gc.enable()
    assert flush_pending(5)


def test_garbage_collection_during_span_export_does_not_hang(instrumenter, recorder):
    class Collecting:
        def on_start(self, *_args: Any, **_kwargs: Any) -> None: ...
        def _on_ending(self, _span: Any) -> None: ...
        def on_end(self, _span: Any) -> None:
            gc.collect()

        def shutdown(self) -> None: ...
        def force_flush(self, *_args: Any) -> bool:
            return True

    recorder.tracer_provider.add_span_processor(Collecting())
    gc.disable()
    try:
        abandoned_stream(instrumenter)
        other = threading.Thread(
            target=lambda: recorder.tracer_provider.get_tracer("app").start_span("app").end(),
            daemon=True,
        )
        other.start()
        other.join(20)
        assert not other.is_alive(), "deadlock"
    finally:
        gc.enable()
    assert len(recorder.calls()) == 1


# Runs in a separate process, because forking a process with threads, such as pytest, warns.
PROGRAM = textwrap.dedent("""
    import gc, json, os, threading, time
    from llamatelemetry.genai import (
        Instrumenter, StreamObserver, StreamWrapper, flush_pending, stop_finalizer
    )
    from llamatelemetry.genai.streams.abandoned_calls import finalizer
    from tests.genai.conftest import chat
    from tests.support.recorder import Recorder

    recorder = Recorder()
    instrumenter = Instrumenter("test", "1", **recorder.providers)

    def stream(name):
        call = instrumenter.start(chat(stream=True, model=name))
        chunks = ({"id": name, "choices": []} for _ in range(5))
        wrapper = StreamWrapper(chunks, StreamObserver(call))
        next(wrapper)
        return wrapper

    class BlockingCall:
        def finalize(self):
            may_end.wait(20)

    may_end = threading.Event()
    queued, open_in_both, finished_in_both = stream("queued"), stream("open"), stream("read")
    finalizer.put(BlockingCall())
    del queued  # Queued, and still waiting when the process forks.
    stopping = threading.Thread(target=stop_finalizer, args=(20,))
    stopping.start()  # Waits for the blocked call.
    while finalizer._worker is not None:
        time.sleep(0.01)

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            del open_in_both
            list(finished_in_both)
            gc.collect()
            own = stream("child")
            del own
            flushed = flush_pending(10)
            stopped = stop_finalizer(10)
        except BaseException as error:
            flushed = stopped = repr(error)
        results = [flushed, stopped, [span.name for span in recorder.spans()]]
        os.write(writing, json.dumps(results).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        in_child = json.load(pipe)
    os.waitpid(child, 0)
    may_end.set()
    stopping.join()
    del open_in_both
    list(finished_in_both)
    in_parent = [flush_pending(10), stop_finalizer(10), [span.name for span in recorder.spans()]]
    print(json.dumps({"child": in_child, "parent": in_parent}))
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_forked_child_ends_own_calls_and_not_those_of_parent():
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    results = json.loads(done.stdout)
    assert results["child"] == [True, True, ["chat child"]]
    flushed, stopped, names = results["parent"]
    assert (flushed, stopped) == (True, True)
    assert sorted(names) == ["chat open", "chat queued", "chat read"]
