"""Deferred recording: every reader exports the same data as after immediate recording."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeterProvider, get_meter
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import DropAggregation, View
from opentelemetry.trace import NonRecordingSpan

from llamatelemetry.genai import deferred_metrics, internal_errors
from llamatelemetry.genai.deferred_metrics import (
    DeferredRecorder,
    When,
)
from llamatelemetry.otel.providers import DelegatingMeterProvider
from tests.genai.meters import (
    CHAT,
    DELTA,
    EMBEDDINGS,
    NO_SPAN,
    Meters,
    SumExporter,
    queued_batches,
    run_program,
    span_context,
)

pytestmark = pytest.mark.usefixtures("empty_queue")


@pytest.mark.parametrize("temporality", [{}, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("exemplars", [None, AlwaysOnExemplarFilter()], ids=["sampled", "all"])
def test_collected_data_equals_data_of_immediate_recording(temporality, exemplars):
    calls = [
        (
            number / 7,
            EMBEDDINGS if number % 3 else CHAT,
            span_context(number + 1, sampled=number % 2 == 0),
        )
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


def test_measurements_are_queued_until_collection(meters):
    for value in range(5):
        meters.record(value + 0.0)
    assert queued_batches() == 4  # The first measurement starts the series.
    (data,) = meters.collect()
    assert queued_batches() == 0
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
def test_collection_records_queue_when_view_drops_collection_hook(view):
    meters = Meters(views=[view])
    meters.record(1.0)
    meters.record(2.0)
    meters.collect()
    assert queued_batches() == 0
    meters.provider.shutdown()


def test_every_reader_gets_every_measurement_once():
    meters = Meters(InMemoryMetricReader(), InMemoryMetricReader(preferred_temporality=DELTA))
    for value in range(5):
        meters.record(value + 0.0)
    assert [meters.point(reader).count for reader in (0, 1)] == [5, 5]
    meters.provider.shutdown()


def test_concurrent_collections_record_each_measurement_once():
    meters = Meters(*(InMemoryMetricReader() for _ in range(4)))
    for value in range(100):
        meters.record(value + 0.0)
    barrier = threading.Barrier(4)

    def collect(reader: MetricReader) -> None:
        barrier.wait(5)
        reader.collect()

    threads = [threading.Thread(target=collect, args=(reader,)) for reader in meters.readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [meters.point(reader).count for reader in range(4)] == [100] * 4
    meters.provider.shutdown()


def test_collection_of_another_provider_records_queue(meters):
    meters.record(1.0)
    meters.record(2.0)
    other = Meters()
    other.collect()
    assert queued_batches() == 0
    assert meters.point().count == 2
    other.provider.shutdown()


def test_second_recorder_of_same_meter_is_collected(meters):
    """The SDK ignores the callback of an instrument that is created a second time."""
    second = Meters(provider=meters.provider)
    second.readers = meters.readers
    second.record(1.0)
    second.record(2.0)
    assert second.point().count == 2


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


def test_number_of_remembered_series_is_bounded(meters, monkeypatch):
    monkeypatch.setattr(deferred_metrics._SERIES, "most", 1)
    for attributes in (CHAT, EMBEDDINGS, CHAT, CHAT):
        meters.record(1.0, attributes)
    assert len(meters.recorder.series) == 1
    assert queued_batches() == 1


def test_exemplars_have_spans_of_their_calls(meters):
    """The collection runs inside another span, and one call has no span."""
    meters.record(0.001, CHAT, span_context(1))
    meters.record(7.0, CHAT, span_context(2))
    meters.record(700.0, CHAT, span_context(3))
    meters.record(0.3, CHAT, NO_SPAN)
    with trace.use_span(NonRecordingSpan(span_context(9))):
        point = meters.point()
    exemplar_spans = {
        exemplar.value: (exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars
    }
    assert exemplar_spans == {0.001: (1, 1), 7.0: (2, 2), 700.0: (3, 3)}


@pytest.mark.parametrize("provider", [NoOpMeterProvider(), None], ids=["no-op", "proxy"])
def test_measurements_are_dropped_when_no_sdk_is_installed(provider):
    meter = get_meter("m", meter_provider=provider)
    recorder = DeferredRecorder(meter, meter.create_histogram("h"))
    assert recorder.when() is When.NEVER


def test_instruments_of_other_providers_are_recorded_immediately():
    """It is unknown when such a provider runs the callbacks of its instruments."""

    class OtherHistogram:
        def record(self, value: float, attributes: Any, context: Any) -> None: ...

    meter = NoOpMeterProvider().get_meter("m")
    recorder = DeferredRecorder(meter, OtherHistogram())  # type: ignore[arg-type]
    assert recorder.when() is When.NOW


def test_proxy_instruments_are_deferred_when_sdk_is_installed_later():
    output = run_program(
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
    assert output == "1\n"


def test_replaced_sdk_restarts_series_and_exports_queued_measurements():
    provider = DelegatingMeterProvider()
    meters = Meters(provider=provider)
    meters.record(5.0)  # Without an SDK.
    for _ in range(3):
        exported = SumExporter()
        reader = PeriodicExportingMetricReader(exported, export_interval_millis=60_000)
        provider.attach(MeterProvider([reader], shutdown_on_exit=False))
        meters.record(1.0)
        meters.record(2.0)
        assert queued_batches() == 1
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
    output = run_program(
        """
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from tests.genai.meters import Meters, SumExporter

        exporter = SumExporter()
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
        meters = Meters(provider=MeterProvider([reader]))
        for value in (1.0, 2.0, 4.0):
            meters.record(value)
        exporter.shutdown = lambda **_: print(exporter.sums)
        """
    )
    assert output == "[7.0]\n"


def test_failing_measurement_is_logged_and_others_are_recorded(meters, caplog):
    internal_errors.set_strict(False)

    def fail(*_: Any) -> None:
        raise ValueError("broken")

    meters.record(1.0)
    meters.recorder.put([(fail, CHAT)], [1.0], NO_SPAN)
    meters.record(2.0)
    assert meters.point().count == 2
    assert "failed while recording metrics (ValueError at tests.genai" in caplog.text
