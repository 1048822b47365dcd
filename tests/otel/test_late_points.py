"""Points that wait are those that would have been recorded at once, whoever collects, and when."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider, get_meter
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, ExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from llamatelemetry.otel import late_points
from llamatelemetry.otel._sdk_private import reset_metrics_after_fork
from llamatelemetry.otel.late_points import LatePoints
from llamatelemetry.otel.points import AttributeSet, record_each
from tests.otel.test_points import DELTA, timeless

CHAT = AttributeSet({"gen_ai.operation.name": "chat"})
OTHER = AttributeSet({"gen_ai.operation.name": "embeddings"})


def spanning(number: int, *, sampled: bool = True) -> Any:
    span = SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(sampled))
    return trace.set_span_in_context(NonRecordingSpan(span))


def span_of(context: Any) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


class Meters:
    """A histogram and a counter of one meter, and points that are made late or at once."""

    def __init__(self, *readers: MetricReader, **options: Any) -> None:
        self.readers = readers or (InMemoryMetricReader(),)
        self.provider = MeterProvider(self.readers, shutdown_on_exit=False, **options)
        meter = self.provider.get_meter("m")
        self.seconds = meter.create_histogram("seconds")
        self.tokens = meter.create_counter("tokens")
        self.made: list[float] = []
        self.late: LatePoints[Any] = LatePoints(meter, self.seconds, self.points_of)

    def points_of(self, call: tuple[float, AttributeSet]) -> list[Any]:
        value, attributes = call
        self.made.append(value)
        return [(self.seconds, value, attributes), (self.tokens, int(10 * value), attributes)]

    def record(self, value: float, attributes: AttributeSet = CHAT, context: Any = None) -> None:
        series = attributes["gen_ai.operation.name"]
        self.late.record((value, attributes), series, span_of(context), context)

    def collect(self) -> list[Any]:
        found = [reader.get_metrics_data() for reader in self.readers]
        return [None if data is None else timeless(data.to_json()) for data in found]


@pytest.fixture
def meters():
    made = Meters()
    yield made
    made.provider.shutdown()


@pytest.mark.parametrize("temporality", [{}, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("exemplars", [None, AlwaysOnExemplarFilter()], ids=["by trace", "all"])
def test_what_is_collected_is_what_would_have_been_at_once(temporality, exemplars):
    calls = [
        (number / 7, OTHER if number % 3 else CHAT, spanning(number + 1, sampled=number % 2 == 0))
        for number in range(75)
    ]
    calls.append((0.5, CHAT, trace.set_span_in_context(trace.INVALID_SPAN)))
    collected: list[list[Any]] = []
    for is_late in (True, False):
        options = {} if exemplars is None else {"exemplar_filter": exemplars}
        made = Meters(InMemoryMetricReader(preferred_temporality=temporality), **options)
        rounds: list[Any] = []
        for part in (calls[:40], calls[40:]):
            for value, attributes, context in part:
                if is_late:
                    made.record(value, attributes, context)
                else:
                    record_each(made.points_of((value, attributes)), context)
            (data,) = made.collect()
            seconds, tokens = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
            for point in tokens["data"]["data_points"]:
                del point["exemplars"]  # of a sum, the SDK keeps some that it draws by lot
            rounds.append((seconds, tokens))
        made.provider.shutdown()
        collected.append(rounds)
    assert collected[0] == collected[1]
    assert '"trace_id": 39' in json.dumps(collected[0])


def test_points_wait_until_they_are_asked_for_and_no_instrument_is_seen(meters):
    for value in range(5):
        meters.record(value + 0.0)
    assert meters.made == [0.0]  # the first begins the series
    (data,) = meters.collect()
    assert meters.made == [0.0, 1.0, 2.0, 3.0, 4.0]
    (scope,) = data["resource_metrics"][0]["scope_metrics"]
    assert [metric["name"] for metric in scope["metrics"]] == ["seconds", "tokens"]


def test_no_more_than_some_dozens_wait(meters):
    for value in range(100):
        meters.record(value + 0.0)
        assert len(late_points._waiting.calls) < late_points._AT_MOST
    assert len(meters.made) >= 100 - late_points._AT_MOST


def test_of_more_series_than_are_kept_each_call_is_recorded_at_once(meters, monkeypatch):
    monkeypatch.setattr(late_points, "_SERIES_AT_MOST", 1)
    asked: list[Any] = []
    monkeypatch.setattr(meters.late, "_layout_of", asked.append)
    for attributes in (CHAT, OTHER, OTHER):
        meters.record(1.0, attributes)
    assert meters.made == [1.0, 1.0, 1.0]
    assert len(asked) == 1  # that of one which is not kept would be found for each call anew


def test_each_reader_gets_all():
    made = Meters(InMemoryMetricReader(), InMemoryMetricReader(preferred_temporality=DELTA))
    for value in range(5):
        made.record(value + 0.0)
    for data in made.collect():
        (point,) = data["resource_metrics"][0]["scope_metrics"][0]["metrics"][0]["data"][
            "data_points"
        ]
        assert point["count"] == 5
    made.provider.shutdown()


def test_a_collection_of_another_meter_brings_them_too(meters):
    meters.record(1.0)
    meters.record(2.0)
    other = Meters()
    other.collect()
    assert meters.made == [1.0, 2.0]
    other.provider.shutdown()


def test_a_series_begins_when_its_first_point_was_made(meters):
    for attributes in (CHAT, OTHER):
        before_ns = time.time_ns()
        meters.record(1.0, attributes)
        after_ns = time.time_ns()
        time.sleep(0.01)
        meters.record(2.0, attributes)
        metrics = meters.readers[0].get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        points = [point for metric in metrics for point in metric.data.data_points]
        begun = [p.start_time_unix_nano for p in points if p.attributes == attributes]
        assert len(begun) == 2
        assert all(before_ns <= at_ns <= after_ns for at_ns in begun)


def test_exemplars_have_the_times_and_spans_of_their_calls(meters):
    meters.record(0.001, CHAT, spanning(1))
    times_ns = []
    for number, value in ((2, 7.0), (3, 700.0)):
        before_ns = time.time_ns()
        meters.record(value, CHAT, spanning(number))
        times_ns.append((before_ns, time.time_ns()))
        time.sleep(0.01)
    metrics = meters.readers[0].get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    (point,) = metrics[0].data.data_points
    found = {exemplar.value: exemplar for exemplar in point.exemplars}
    for number, value, (before_ns, after_ns) in zip((2, 3), (7.0, 700.0), times_ns, strict=True):
        assert (found[value].trace_id, found[value].span_id) == (number, number)
        assert before_ns <= found[value].time_unix_nano <= after_ns


class OfSomebody(ExemplarFilter):
    """Wants the context as it is."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []

    def should_sample(self, value, time_unix_nano, attributes, context):
        self.contexts.append(context)
        return False


def test_a_filter_of_the_applications_own_sees_each_context_at_once():
    seen = OfSomebody()
    made = Meters(exemplar_filter=seen)
    context = spanning(1)
    made.record(1.0, CHAT, context)
    made.record(2.0, CHAT, context)
    assert made.made == [1.0, 2.0]
    assert len(seen.contexts) == 4
    assert all(found is context for found in seen.contexts)
    made.provider.shutdown()


@pytest.mark.parametrize("provider", [NoOpMeterProvider(), None], ids=["no-op", "proxy"])
def test_with_another_makers_instruments_nothing_waits(provider):
    meter = get_meter("m", meter_provider=provider)
    histogram = meter.create_histogram("h")
    made: list[float] = []

    def points_of(value: float) -> list[Any]:
        made.append(value)
        return [(histogram, value, CHAT)]

    late = LatePoints(meter, histogram, points_of)
    late.record(1.0, "chat", span_of(spanning(1)), spanning(1))
    late.record(2.0, "chat", span_of(spanning(1)), spanning(1))
    assert made == [1.0, 2.0]


def test_many_threads_lose_nothing_while_somebody_collects(meters):
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
    (data,) = meters.collect()
    seconds, tokens = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    assert seconds["data"]["data_points"][0]["count"] == 4000
    assert tokens["data"]["data_points"][0]["value"] == 20000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12's of forking
def test_a_forked_child_does_not_count_what_its_parent_was_about_to(meters):
    meters.record(1.0)
    meters.record(2.0)
    has_lock, may_go = threading.Event(), threading.Event()

    def record() -> None:
        with late_points._waiting.lock:
            has_lock.set()
            may_go.wait()

    busy = threading.Thread(target=record)
    busy.start()
    has_lock.wait()
    child = os.fork()
    if child == 0:
        meters.record(3.0)
        meters.record(4.0)
        (data,) = meters.collect()
        point = data["resource_metrics"][0]["scope_metrics"][0]["metrics"][0]["data"]["data_points"]
        # 1.0 had been recorded when it was forked: the SDK's own state is a copy.
        os._exit(0 if point[0]["sum"] == 1.0 + 3.0 + 4.0 else 1)
    may_go.set()
    busy.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (data,) = meters.collect()
    point = data["resource_metrics"][0]["scope_metrics"][0]["metrics"][0]["data"]["data_points"]
    assert point[0]["sum"] == 1.0 + 2.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12's of forking
def test_in_a_child_whose_metrics_start_anew_a_series_begins_with_its_first_point(meters):
    meters.record(1.0)
    child = os.fork()
    if child == 0:
        reset_metrics_after_fork(meters.provider)
        meters.record(2.0)
        after_ns = time.time_ns()
        time.sleep(0.01)
        meters.record(3.0)
        metrics = meters.readers[0].get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        (point,) = metrics[0].data.data_points
        os._exit(0 if point.sum == 5.0 and point.start_time_unix_nano <= after_ns else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_signal_handler_may_flush_while_points_are_recorded(meters):
    meters.record(1.0)
    meters.record(2.0)
    with late_points._waiting.lock:  # where a signal finds this thread
        meters.collect()
    assert meters.made == [1.0, 2.0]


def test_the_collection_at_shutdown_brings_the_last_ones():
    exported = Exported()
    made = Meters(PeriodicExportingMetricReader(exported, export_interval_millis=60_000))
    made.record(1.0)
    made.record(2.0)
    made.provider.shutdown()
    assert exported.sums == [3.0]


class Exported(MetricExporter):
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
