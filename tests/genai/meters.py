"""Instruments that are recorded through a `DeferredRecorder`, and their exported data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricReader,
)
from opentelemetry.trace import SpanContext, TraceFlags

from llamatelemetry.genai import deferred_metrics
from llamatelemetry.genai.deferred_metrics import DeferredRecorder, When, record_now

CHAT = {"gen_ai.operation.name": "chat"}
EMBEDDINGS = {"gen_ai.operation.name": "embeddings"}
DELTA = {Histogram: AggregationTemporality.DELTA}


def without_times(value: str) -> Any:
    """Parse exported metrics as JSON, without their timestamps."""

    def strip(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if "time_unix" not in name}

    return json.loads(value, object_hook=strip)


def span_context(number: int, *, sampled: bool = True) -> SpanContext:
    return SpanContext(number, number, is_remote=False, trace_flags=TraceFlags(sampled))


NO_SPAN = trace.INVALID_SPAN.get_span_context()


class Meters:
    """A histogram and a counter of one meter, recorded like the metrics of a call."""

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
        """Collect with each reader. Return the data, or `None` if there is none."""
        collected = [reader.get_metrics_data() for reader in self.readers]
        return [None if data is None else without_times(data.to_json()) for data in collected]

    def point(self, reader: int = 0) -> Any:
        """Return the only data point of the histogram, as the reader collects it."""
        data = self.readers[reader].get_metrics_data()
        (scope,) = data.resource_metrics[0].scope_metrics
        (point,) = next(m for m in scope.metrics if m.name == "seconds").data.data_points
        return point


class SumExporter(MetricExporter):
    """An exporter that keeps the sums of the histogram."""

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


def queued_batches() -> int:
    """Return the number of batches in the queue of deferred measurements."""
    return len(deferred_metrics._queue.batches)


def run_program(program: str, **environ: str) -> str:
    """Run a program in a separate process and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
