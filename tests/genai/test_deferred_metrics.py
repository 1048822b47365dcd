"""Deferred measurements are exported as if they had been recorded at once, by any reader."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider, get_meter
from opentelemetry.sdk import metrics as sdk_metrics
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.genai import deferred_metrics, internal_errors
from llamatelemetry.genai.deferred_metrics import (
    THREAD_NAME,
    DeferredRecorder,
    When,
    record_now,
    wait_for_thread,
)
from llamatelemetry.otel._sdk_private import reset_metrics_after_fork
from llamatelemetry.otel.providers import DelegatingMeterProvider

CHAT = {"gen_ai.operation.name": "chat"}
EMBEDDINGS = {"gen_ai.operation.name": "embeddings"}
DELTA = {Histogram: AggregationTemporality.DELTA}

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ignores_fork_warning = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


def without_times(value: str) -> Any:
    def strip(found: dict[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in found.items() if "time_unix" not in name}

    return json.loads(value, object_hook=strip)


def span(number: int, *, sampled: bool = True) -> SpanContext:
    return SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(sampled))


NO_SPAN = trace.INVALID_SPAN.get_span_context()


class Meters:
    """A histogram and a counter of one meter, recorded as the metrics of a call are."""

    def __init__(self, *readers: MetricReader, provider: Any = None, **options: Any) -> None:
        self.readers = readers or (InMemoryMetricReader(),)
        self.provider = provider or MeterProvider(self.readers, shutdown_on_exit=False, **options)
        meter = self.provider.get_meter("m")
        self.seconds = meter.create_histogram("seconds")
        self.tokens = meter.create_counter("tokens")
        self.recorder = DeferredRecorder(meter, self.seconds)

    def record(
        self, value: float, attributes: dict[str, str] = CHAT, parent: SpanContext = NO_SPAN
    ) -> None:
        targets = [(self.seconds.record, attributes), (self.tokens.add, attributes)]
        values = [value, int(10 * value)]
        when, series = self.recorder.when(), attributes["gen_ai.operation.name"]
        if when is When.NEVER:
            return
        if when is When.AT_COLLECTION and series in self.recorder.series:
            self.recorder.put(targets, values, parent)
        else:
            record_now(targets, values, parent)
            self.recorder.start_series(series, None)

    def collect(self) -> list[Any]:
        found = [reader.get_metrics_data() for reader in self.readers]
        return [None if data is None else without_times(data.to_json()) for data in found]

    def point(self, reader: int = 0) -> Any:
        """Return the only data point of the histogram, as the reader collects it."""
        data = self.readers[reader].get_metrics_data()
        (scope,) = data.resource_metrics[0].scope_metrics
        (point,) = next(m for m in scope.metrics if m.name == "seconds").data.data_points
        return point


@pytest.fixture
def meters():
    created = Meters()
    yield created
    created.provider.shutdown()


def queued() -> int:
    return len(deferred_metrics._queue.batches)


@pytest.fixture(autouse=True)
def _empty_queue():
    deferred_metrics._queue.record()
    yield
    wait_for_thread(5)


@pytest.mark.parametrize("temporality", [{}, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("exemplars", [None, AlwaysOnExemplarFilter()], ids=["sampled", "all"])
def test_collected_data_equals_that_of_recording_at_once(temporality, exemplars):
    calls = [
        (number / 7, EMBEDDINGS if number % 3 else CHAT, span(number + 1, sampled=number % 2 == 0))
        for number in range(75)
    ]
    calls.append((0.5, CHAT, NO_SPAN))
    collected: list[list[Any]] = []
    for is_deferred in (True, False):
        options = {} if exemplars is None else {"exemplar_filter": exemplars}
        meters = Meters(InMemoryMetricReader(preferred_temporality=temporality), **options)
        rounds: list[Any] = []
        for part in (calls[:40], calls[40:]):
            for value, attributes, parent in part:
                if is_deferred:
                    meters.record(value, attributes, parent)
                else:
                    context = trace.set_span_in_context(NonRecordingSpan(parent))
                    meters.seconds.record(value, attributes, context)
                    meters.tokens.add(int(10 * value), attributes, context)
            (data,) = meters.collect()
            seconds, tokens = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
            for point in tokens["data"]["data_points"]:
                del point["exemplars"]  # The SDK keeps a random sample of them for a sum.
            rounds.append((seconds, tokens))
        meters.provider.shutdown()
        collected.append(rounds)
    assert collected[0] == collected[1]
    assert '"trace_id": 39' in json.dumps(collected[0])


def test_measurements_are_queued_until_collection_and_the_hook_exports_nothing(meters):
    for value in range(5):
        meters.record(value + 0.0)
    assert queued() == 4  # The first measurement starts the series.
    (data,) = meters.collect()
    assert queued() == 0
    (scope,) = data["resource_metrics"][0]["scope_metrics"]
    assert [metric["name"] for metric in scope["metrics"]] == ["seconds", "tokens"]
    assert scope["metrics"][0]["data"]["data_points"][0]["count"] == 5


def test_collection_exports_nothing_when_nothing_was_recorded(meters):
    assert meters.collect() == [None]


@pytest.mark.parametrize(
    "view",
    [
        View(instrument_name="*", aggregation=DropAggregation()),
        View(instrument_name="llamatelemetry.*", aggregation=DropAggregation()),
    ],
    ids=["drop all", "drop the hook"],
)
def test_collection_empties_the_queue_when_a_view_drops_the_hook(view):
    meters = Meters(views=[view])
    meters.record(1.0)
    meters.record(2.0)
    meters.collect()
    assert queued() == 0
    meters.provider.shutdown()


def test_every_reader_gets_every_measurement_once():
    meters = Meters(InMemoryMetricReader(), InMemoryMetricReader(preferred_temporality=DELTA))
    for value in range(5):
        meters.record(value + 0.0)
    assert [meters.point(reader).count for reader in (0, 1)] == [5, 5]
    meters.provider.shutdown()


def test_readers_that_collect_at_once_record_each_measurement_once():
    meters = Meters(*(InMemoryMetricReader() for _ in range(4)))
    for value in range(100):
        meters.record(value + 0.0)
    together = threading.Barrier(4)

    def collect(reader: MetricReader) -> None:
        together.wait(5)
        reader.collect()

    threads = [threading.Thread(target=collect, args=(reader,)) for reader in meters.readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [meters.point(reader).count for reader in range(4)] == [100] * 4
    meters.provider.shutdown()


def test_collection_of_another_provider_records_the_queue(meters):
    meters.record(1.0)
    meters.record(2.0)
    other = Meters()
    other.collect()
    assert queued() == 0
    assert meters.point().count == 2
    other.provider.shutdown()


def test_second_recorder_of_the_same_meter_is_collected_too(meters):
    """Although the SDK ignores the callback of an instrument that is created again."""
    again = Meters(provider=meters.provider)
    again.readers = meters.readers
    again.record(1.0)
    again.record(2.0)
    assert again.point().count == 2


def test_series_starts_with_its_first_measurement(meters):
    for attributes in (CHAT, EMBEDDINGS):
        before_ns = time.time_ns()
        meters.record(1.0, attributes)
        after_ns = time.time_ns()
        time.sleep(0.01)
        meters.record(2.0, attributes)
        metrics = meters.readers[0].get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        points = [point for metric in metrics for point in metric.data.data_points]
        started = [p.start_time_unix_nano for p in points if p.attributes == attributes]
        assert len(started) == 2
        assert all(before_ns <= at_ns <= after_ns for at_ns in started)


def test_series_are_forgotten_when_there_are_too_many(meters, monkeypatch):
    monkeypatch.setattr(deferred_metrics, "_SERIES_AT_MOST", 1)
    for attributes in (CHAT, EMBEDDINGS, CHAT, CHAT):
        meters.record(1.0, attributes)
    assert len(meters.recorder.series) == 1
    assert queued() == 1


def test_exemplars_have_the_spans_of_their_calls(meters):
    """Even if the collection runs inside another span, and for a call without a span."""
    meters.record(0.001, CHAT, span(1))
    meters.record(7.0, CHAT, span(2))
    meters.record(700.0, CHAT, span(3))
    meters.record(0.3, CHAT, NO_SPAN)
    with trace.use_span(NonRecordingSpan(span(9))):
        point = meters.point()
    found = {exemplar.value: (exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars}
    assert found == {0.001: (1, 1), 7.0: (2, 2), 700.0: (3, 3)}


@pytest.mark.parametrize("provider", [NoOpMeterProvider(), None], ids=["no-op", "proxy"])
def test_nothing_is_queued_when_no_sdk_is_installed(provider):
    meter = get_meter("m", meter_provider=provider)
    recorder = DeferredRecorder(meter, meter.create_histogram("h"))
    assert recorder.when() is When.NEVER


def test_instruments_of_other_providers_are_recorded_to_at_once():
    """Because it is unknown when such a provider runs the callbacks of its instruments."""

    class OtherHistogram:
        def record(self, value: float, attributes: Any, context: Any) -> None: ...

    meter = NoOpMeterProvider().get_meter("m")
    recorder = DeferredRecorder(meter, OtherHistogram())  # type: ignore[arg-type]
    assert recorder.when() is When.NOW


def test_proxy_instruments_are_deferred_when_an_sdk_is_installed_later():
    done = run(
        """
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from llamatelemetry.genai.deferred_metrics import DeferredRecorder, When

        meter = metrics.get_meter("m")
        histogram = meter.create_histogram("h")
        recorder = DeferredRecorder(meter, histogram)
        assert recorder.when() is When.NEVER
        recorder.start_series("before", None)
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        assert recorder.when() is When.AT_COLLECTION
        assert recorder.series == {}
        span = trace.INVALID_SPAN.get_span_context()
        recorder.put([(histogram.record, {})], [1.0], span)
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        print(scope.metrics[0].data.data_points[0].count)
        """
    )
    assert done == "1\n"


def test_replaced_sdk_starts_its_series_again_and_the_old_one_loses_nothing():
    provider = DelegatingMeterProvider()
    meters = Meters(provider=provider)
    meters.record(5.0)  # Without an SDK.
    for _ in range(3):
        exported = SumExporter()
        reader = PeriodicExportingMetricReader(exported, export_interval_millis=60_000)
        provider.attach(MeterProvider([reader], shutdown_on_exit=False))
        meters.record(1.0)
        meters.record(2.0)
        assert queued() == 1
        provider.shutdown()
        assert exported.sums == [3.0]
        assert meters.recorder.when() is When.NEVER
        assert meters.recorder.series == {}


def test_provider_shutdown_exports_queued_measurements():
    exported = SumExporter()
    meters = Meters(PeriodicExportingMetricReader(exported, export_interval_millis=60_000))
    meters.record(1.0)
    meters.record(2.0)
    meters.provider.shutdown()
    assert exported.sums == [3.0]


def test_force_flush_exports_queued_measurements():
    exported = SumExporter()
    meters = Meters(PeriodicExportingMetricReader(exported, export_interval_millis=60_000))
    meters.record(1.0)
    meters.record(2.0)
    assert meters.provider.force_flush()
    assert exported.sums == [3.0]
    meters.provider.shutdown()


def test_interpreter_exit_exports_queued_measurements():
    done = run(
        """
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from tests.genai.test_deferred_metrics import Meters, SumExporter

        exporter = SumExporter()
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
        meters = Meters(provider=MeterProvider([reader]))
        for value in (1.0, 2.0, 4.0):
            meters.record(value)
        exporter.shutdown = lambda **_: print(exporter.sums)
        """
    )
    assert done == "[7.0]\n"


class SumExporter(MetricExporter):
    """Keeps the sums of the histogram."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[float] = []

    def export(self, metrics_data: Any, timeout_millis: float = 0, **_: Any) -> Any:
        (scope,) = metrics_data.resource_metrics[0].scope_metrics
        self.sums.append(scope.metrics[0].data.data_points[0].sum)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        pass


def test_thread_records_full_queue_when_no_reader_collects(meters, monkeypatch):
    threads: set[str] = set()
    seconds = meters.seconds

    class Watched:
        def record(self, value: float, attributes: Any, context: Any) -> None:
            threads.add(threading.current_thread().name)
            seconds.record(value, attributes, context)

    for _ in range(1000):
        meters.recorder.put([(Watched().record, CHAT)], [0.5], NO_SPAN)
        assert queued() <= deferred_metrics._FULL_AT
    assert wait_for_thread(5)
    assert threads == {THREAD_NAME}
    assert queued() < deferred_metrics._DRAIN_AT
    assert meters.point().count == 1000
    assert all(thread.name != THREAD_NAME for thread in threading.enumerate())


def test_thread_starts_only_when_the_queue_fills_up(meters):
    meters.record(1.0)
    for _ in range(deferred_metrics._DRAIN_AT - 1):
        meters.record(1.0)
    assert deferred_metrics._queue.thread is None
    assert queued() == deferred_metrics._DRAIN_AT - 1


def test_callers_record_the_queue_when_threads_cannot_be_started(meters, monkeypatch):
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(1000):
        meters.record(0.5)
        assert queued() <= deferred_metrics._DRAIN_AT
    monkeypatch.undo()
    assert meters.point().count == 1000


def test_callers_record_too_when_the_thread_cannot_keep_up(meters, monkeypatch):
    monkeypatch.setattr(deferred_metrics, "_FULL_AT", 200)
    deferred_metrics._queue._permit.pop()  # As if a thread was running that gets no time.
    try:
        for _ in range(1000):
            meters.record(0.5)
            assert queued() <= 200
    finally:
        deferred_metrics._queue._permit.append(None)
    assert meters.point().count == 1000


def test_threads_lose_nothing_while_a_reader_collects(meters):
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
def test_forked_child_leaves_queue_and_lock_to_its_parent(meters):
    meters.record(1.0)
    meters.record(2.0)
    has_lock, may_go = threading.Event(), threading.Event()

    def hold_lock() -> None:
        with deferred_metrics._queue._lock:
            has_lock.set()
            may_go.wait()

    busy = threading.Thread(target=hold_lock)
    busy.start()
    has_lock.wait()
    child = os.fork()
    if child == 0:
        meters.record(3.0)
        meters.record(4.0)
        # 1.0 was recorded before the fork, and the child has a copy of the SDK's state.
        os._exit(0 if meters.point().sum == 1.0 + 3.0 + 4.0 else 1)
    may_go.set()
    busy.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert meters.point().sum == 1.0 + 2.0


@needs_fork
@ignores_fork_warning
def test_forked_child_starts_its_own_thread(meters):
    deferred_metrics._queue._permit.pop()  # As if the parent's thread was running.
    child = os.fork()
    if child == 0:
        for _ in range(500):
            meters.record(0.5)
        ended = wait_for_thread(5)
        os._exit(0 if ended and queued() < 128 and meters.point().count == 500 else 1)
    deferred_metrics._queue._permit.append(None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_fork
@ignores_fork_warning
def test_forked_child_with_reset_metrics_starts_its_series_again(meters):
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


def test_signal_handler_can_flush_during_a_collection(meters):
    meters.record(1.0)
    meters.record(2.0)
    with deferred_metrics._queue._lock:  # The signal interrupts this thread here.
        meters.collect()
    assert queued() == 0


def test_failing_measurement_is_logged_and_the_others_are_recorded(meters, caplog):
    internal_errors.set_strict(False)

    def fail(*_: Any) -> None:
        raise ValueError("odd")

    meters.record(1.0)
    meters.recorder.put([(fail, CHAT)], [1.0], NO_SPAN)
    meters.record(2.0)
    assert meters.point().count == 2
    assert "failed while recording metrics (ValueError at tests.genai" in caplog.text


def test_importing_starts_no_thread():
    done = run(
        """
        import threading
        import llamatelemetry.genai
        print(threading.active_count())
        """
    )
    assert done == "1\n"


def test_gevent_patching_after_import_blocks_nothing():
    pytest.importorskip("gevent")
    done = run(
        """
        from tests.genai.test_deferred_metrics import Meters
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
    assert done == "1000\n"


# Names that a recorder could be tempted to use, in the modules of spans and metrics.
PRIVATE_NAMES = (
    *("_Histogram", "_Counter", "_Span", "_ViewInstrumentMatch", "_measurement_consumer"),
    *("_sdk_config", "_reader_storages", "_get_or_init_view_instrument_match", "_is_enabled"),
    *("_hash_attributes", "_attributes_aggregation", "_get_or_create_aggregation"),
    *("_ExplicitBucketHistogramAggregation", "_boundaries", "_record_min_max", "_reservoir"),
    *("_sample_exemplar", "_get_empty_bucket_counts", "_end_time", "_attribute_keys"),
)


def test_spans_and_metrics_are_complete_when_an_sdk_has_other_private_names(tmp_path):
    renamed = tmp_path / "opentelemetry" / "sdk"
    shutil.copytree(Path(sdk_metrics.__file__).parents[1], renamed)
    pattern = re.compile(rf"\b({'|'.join(PRIVATE_NAMES)})\b")
    for part in ("metrics", "trace"):
        for path in (renamed / part).rglob("*.py"):
            path.write_text(pattern.sub(r"\1_renamed", path.read_text()))
    program = """
        import json
        from opentelemetry.sdk import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from llamatelemetry.genai import EngineTimings, Instrumenter, Request, Response, Usage
        from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics

        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracer_provider = TracerProvider()
        tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        plugin = Instrumenter(
            "test", "1", tracer_provider=tracer_provider, meter_provider=MeterProvider([reader])
        )
        for _ in range(3):
            call = plugin.start(Request("chat", "openai", "smol", stream=True))
            call.start_attempt()
            call.record_chunk_intervals([0.1, 0.2], call.chunk_attributes("smol"))
            timings = EngineTimings(7, 20.0, 5, 40.0)
            call.finish(Response("id", "smol", ("stop",), usage=Usage(21, 5), timings=timings))
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        counts = {m.name: [p.count for p in m.data.data_points] for m in scope.metrics}
        spans = [sorted(span.attributes) for span in exporter.get_finished_spans()]
        print(json.dumps([metrics.__file__, counts, spans], sort_keys=True))
    """
    _, counts, spans = json.loads(run(program))
    assert counts["gen_ai.client.operation.time_per_output_chunk"] == [6]
    assert counts["gen_ai.client.token.usage"] == [3, 3]
    assert len(spans) == 3 * 4  # Each with queue, prefill and decode.
    assert sum("gen_ai.response.id" in names for names in spans) == 3
    path, *others = json.loads(run(program, PYTHONPATH=str(tmp_path)))
    assert Path(path).parents[1] == renamed
    assert others == [counts, spans]


def run(program: str, **environ: str) -> str:
    """Run a program in a process of its own and return what it prints."""
    lines = program.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    code = "\n".join(line[indent:] for line in lines)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
