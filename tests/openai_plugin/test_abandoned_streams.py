"""Abandoned streams that the garbage collector finds while the SDK holds its locks."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from llamatelemetry.genai import flush_pending
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder

STREAMS = 1000  # at least: they go on until the exporter has run along
EXPORTS = 4
STREAMS_AT_MOST = 3 * STREAMS
MODELS = 40  # each new one is a new series, for which the SDK needs its lock
BODY = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE))


class CollectingReservoir(AlignedHistogramBucketExemplarReservoir):
    """Collects garbage while the SDK holds the lock of a new time series. Not each time: it is slow."""

    times = 0

    def collect(self, point_attributes: Any) -> Any:
        CollectingReservoir.times += 1
        if CollectingReservoir.times % 30 == 0:
            gc.collect()
        return super().collect(point_attributes)


class CollectingExporter(MetricExporter):
    """Collects garbage during an export, and keeps the last export."""

    def __init__(self) -> None:
        super().__init__()
        self.exports = 0
        self.last: MetricsData | None = None
        self.reader = PeriodicExportingMetricReader(self, export_interval_millis=10)

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        gc.collect()
        self.exports += 1
        self.last = metrics_data
        return MetricExportResult.SUCCESS

    def force_flush(self, *_: Any, **__: Any) -> bool:
        return True

    def shutdown(self, *_: Any, **__: Any) -> None: ...

    def count(self, name: str) -> int:
        """Return the number of measurements of a histogram, over all its time series."""
        return sum(
            point.count
            for resource in (self.last.resource_metrics if self.last else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        )


def collect_in_callback(_options: CallbackOptions) -> Iterator[Observation]:
    """Collect garbage in the callback of an observable instrument, during metric collection."""
    gc.collect()
    yield Observation(1)


@pytest.fixture
def exporter(recorder: Recorder) -> Iterator[CollectingExporter]:
    """Turn the plugin on with a reader that exports continuously. Only the test collects garbage."""
    exporter = CollectingExporter()
    view = View(
        instrument_name="gen_ai.*", exemplar_reservoir_factory=lambda _: CollectingReservoir
    )
    provider = MeterProvider(
        [exporter.reader],
        views=[view],
        shutdown_on_exit=False,
    )
    OpenAIInstrumentor().instrument(
        tracer_provider=recorder.tracer_provider, meter_provider=provider
    )
    provider.get_meter("app").create_observable_gauge("app.gauge", [collect_in_callback])
    gc.collect()
    gc.freeze()  # Existing objects need not be examined at each of a hundred collections.
    gc.disable()
    yield exporter
    gc.enable()
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # The default of the test suite.
    OpenAIInstrumentor().uninstrument()
    provider.shutdown(timeout_millis=5_000)


def ask(client: Any, n: int) -> Any:
    return client.chat.completions.create(
        model=f"model-{n % MODELS}", messages=payloads.MESSAGES, stream=True
    )


def numbers(exporter: CollectingExporter) -> Iterator[int]:
    """Yield the numbers of the streams, an even number of them."""
    for n in range(STREAMS_AT_MOST):
        if n >= STREAMS:
            if n % 2 == 0 and exporter.exports >= EXPORTS:
                return
            time.sleep(0.01)  # Let the exporter's thread run.
        yield n


def abandon_streams(exporter: CollectingExporter) -> int:
    """Abandon half of the streams unread and half after the first chunk. Return their number."""
    client = payloads.client(lambda _: payloads.stream_response(BODY))
    n = -1
    for n in numbers(exporter):
        stream = ask(client, n)
        if n % 2:
            next(stream)
    return n + 1


async def abandon_async_streams(exporter: CollectingExporter) -> int:
    client = payloads.async_client(lambda _: payloads.stream_response(BODY))
    n = -1
    for n in numbers(exporter):
        stream = await ask(client, n)
        if n % 2:
            await anext(stream)
        del stream
        if not n % 10:
            # Let the event loop close the generators that the collector has found.
            await asyncio.sleep(0.001)
    return n + 1


def wait_for_all(recorder: Recorder, streams: int) -> list[ReadableSpan]:
    """Collect until all calls have ended. A collection does nothing while another thread collects."""
    deadline = time.monotonic() + 20
    while True:
        gc.collect()
        assert flush_pending(20), "deadlock"
        calls = recorder.calls()
        if len(calls) >= streams or time.monotonic() > deadline:
            return calls


@pytest.mark.slow
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_calls_end_when_thousand_streams_are_dropped_during_metric_collection(
    exporter: CollectingExporter, recorder: Recorder, is_async: bool
) -> None:
    streams = (
        asyncio.run(abandon_async_streams(exporter)) if is_async else abandon_streams(exporter)
    )
    assert exporter.exports > 3, "the exporter has not run along"
    calls = wait_for_all(recorder, streams)
    assert len(calls) == streams
    assert {call.status.status_code for call in calls} == {StatusCode.UNSET}
    begun = [call for call in calls if "gen_ai.response.id" in call.attributes]
    assert len(begun) == streams // 2
    assert exporter.reader.force_flush(20_000), "deadlock"
    assert exporter.count("gen_ai.client.operation.duration") == streams
