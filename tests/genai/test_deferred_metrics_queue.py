"""The queue of deferred measurements: its thread, its size, locks and forks."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from llamatelemetry.genai import deferred_metrics
from llamatelemetry.genai.deferred_metrics import THREAD_NAME, wait_for_thread
from llamatelemetry.otel._sdk_private import reset_metrics_after_fork
from tests.genai.meters import CHAT, NO_SPAN, queued_batches, run_program

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
ignores_fork_warning = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def test_thread_records_full_queue_when_no_reader_collects(meters, monkeypatch):
    threads: set[str] = set()
    seconds = meters.seconds

    class ThreadRecorder:
        def record(self, value: float, attributes: Any, context: Any) -> None:
            threads.add(threading.current_thread().name)
            seconds.record(value, attributes, context)

    for _ in range(1000):
        meters.recorder.put([(ThreadRecorder().record, CHAT)], [0.5], NO_SPAN)
        assert queued_batches() <= deferred_metrics._FULL_AT
    assert wait_for_thread(5)
    assert threads == {THREAD_NAME}
    assert queued_batches() < deferred_metrics._DRAIN_AT
    assert meters.point().count == 1000
    assert all(thread.name != THREAD_NAME for thread in threading.enumerate())


def test_thread_starts_only_when_queue_fills_up(meters):
    meters.record(1.0)
    for _ in range(deferred_metrics._DRAIN_AT - 1):
        meters.record(1.0)
    assert deferred_metrics._queue.thread is None
    assert queued_batches() == deferred_metrics._DRAIN_AT - 1


def test_callers_record_queue_when_thread_cannot_be_started(meters, monkeypatch):
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(1000):
        meters.record(0.5)
        assert queued_batches() <= deferred_metrics._DRAIN_AT
    monkeypatch.undo()
    assert meters.point().count == 1000


def test_callers_record_queue_when_thread_is_too_slow(meters, monkeypatch):
    monkeypatch.setattr(deferred_metrics, "_FULL_AT", 200)
    deferred_metrics._queue._permit.pop()  # No thread can start, as if one was running.
    try:
        for _ in range(1000):
            meters.record(0.5)
            assert queued_batches() <= 200
    finally:
        deferred_metrics._queue._permit.append(None)
    assert meters.point().count == 1000


def test_threads_lose_no_measurement_during_collections(meters):
    stop = threading.Event()
    collector = threading.Thread(target=lambda: [meters.collect() for _ in iter(stop.is_set, True)])
    collector.start()
    workers = [
        threading.Thread(target=lambda: [meters.record(0.5) for _ in range(500)]) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    collector.join()
    wait_for_thread(5)
    (data,) = meters.collect()
    seconds, tokens = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    assert seconds["data"]["data_points"][0]["count"] == 4000
    assert tokens["data"]["data_points"][0]["value"] == 20000


@needs_fork
@ignores_fork_warning
def test_forked_child_has_own_queue_and_lock(meters):
    meters.record(1.0)
    meters.record(2.0)
    has_lock, may_release = threading.Event(), threading.Event()

    def hold_lock() -> None:
        with deferred_metrics._queue._lock:
            has_lock.set()
            may_release.wait()

    holder = threading.Thread(target=hold_lock)
    holder.start()
    has_lock.wait()
    child = os.fork()
    if child == 0:
        meters.record(3.0)
        meters.record(4.0)
        # The child has a copy of the SDK's state, so its sum includes 1.0.
        os._exit(0 if meters.point().sum == 1.0 + 3.0 + 4.0 else 1)
    may_release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert meters.point().sum == 1.0 + 2.0


@needs_fork
@ignores_fork_warning
def test_forked_child_starts_own_thread(meters):
    deferred_metrics._queue._permit.pop()  # No thread can start, as if the parent's thread was running.
    child = os.fork()
    if child == 0:
        for _ in range(500):
            meters.record(0.5)
        ended = wait_for_thread(5)
        os._exit(0 if ended and queued_batches() < 128 and meters.point().count == 500 else 1)
    deferred_metrics._queue._permit.append(None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_fork
@ignores_fork_warning
def test_forked_child_restarts_series_when_metrics_are_reset(meters):
    meters.record(1.0)
    child = os.fork()
    if child == 0:
        reset_metrics_after_fork(meters.provider)
        meters.record(2.0)
        after_ns = time.time_ns()
        time.sleep(0.01)
        meters.record(3.0)
        point = meters.point()
        os._exit(0 if point.sum == 5.0 and point.start_time_unix_nano <= after_ns else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_signal_handler_can_collect_while_queue_is_locked(meters):
    meters.record(1.0)
    meters.record(2.0)
    with deferred_metrics._queue._lock:  # A signal handler runs while this thread has the lock.
        meters.collect()
    assert queued_batches() == 0


def test_import_starts_no_thread():
    output = run_program(
        """
        import threading
        import llamatelemetry.genai
        print(threading.active_count())
        """
    )
    assert output == "1\n"


def test_measurements_are_recorded_when_gevent_patches_after_import():
    pytest.importorskip("gevent")
    output = run_program(
        """
        from tests.genai.meters import Meters
        from gevent import monkey
        monkey.patch_all()
        import gevent
        from llamatelemetry.genai.deferred_metrics import wait_for_thread

        meters = Meters()
        def work():
            for _ in range(200):
                meters.record(0.5)
                gevent.sleep(0)
        gevent.joinall([gevent.spawn(work) for _ in range(5)], timeout=20)
        assert wait_for_thread(5)
        print(meters.point().count)
        """
    )
    assert output == "1000\n"
