"""SDK providers that keep all telemetry in memory."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from llamatelemetry.genai import flush_pending, internal_errors, known_servers
from llamatelemetry.genai.wire.openai_responses import unfinished_responses
from llamatelemetry.otel.providers import SIGNALS
from tests.support.telemetry_names import ReferenceProcessor, logs_problems, metrics_problems


class Recorder:
    """Tracer, meter and logger providers with in-memory exporters."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self._reference = ReferenceProcessor()
        self.tracer_provider.add_span_processor(self._reference)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._logs = InMemoryLogRecordExporter()
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))

    @property
    def providers(self) -> dict[str, object]:
        return {
            "tracer_provider": self.tracer_provider,
            "meter_provider": self.meter_provider,
            "logger_provider": self.logger_provider,
        }

    def spans(self) -> list[ReadableSpan]:
        """Return all ended spans, in the order in which they ended."""
        assert flush_pending(5)
        return list(self._exporter.get_finished_spans())

    def calls(self) -> list[ReadableSpan]:
        """Return the spans of calls, without phase spans."""
        return [span for span in self.spans() if span.kind is SpanKind.CLIENT]

    def call(self) -> ReadableSpan:
        """Return the span of the only call."""
        (span,) = self.calls()
        return span

    def phases(self, of: ReadableSpan) -> dict[str, ReadableSpan]:
        """Return the phase spans of a call by name."""
        return {
            span.name: span
            for span in self.spans()
            if span.parent is not None and span.parent.span_id == of.context.span_id
        }

    def events(self) -> list[ReadableLogRecord]:
        """Return all events in the order of emission."""
        assert flush_pending(5)
        return list(self._logs.get_finished_logs())

    def check_reference(self) -> None:
        """Fail if a span, metric, event or attribute is not in the reference, or of another type."""
        flush_pending(5)
        problems = {
            *self._reference.problems,
            *metrics_problems(self._reader.get_metrics_data()),
            *logs_problems(self._logs.get_finished_logs()),
        }
        assert not problems, f"not in semconv/telemetry.toml: {sorted(problems)}"

    def clear_spans(self) -> None:
        self._exporter.clear()

    def metrics(self) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for metric in self._all_metrics():
            assert metric.name not in found, f"{metric.name} is in two scopes"
            found[metric.name] = metric
        return found

    def _all_metrics(self) -> Iterator[Metric]:
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                yield from scope.metrics

    def points(self, name: str) -> list[HistogramDataPoint]:
        """Return the points of a metric, of all active plugins."""
        return [
            point
            for metric in self._all_metrics()
            if metric.name == name
            for point in metric.data.data_points
        ]

    def tokens(self, token_type: str) -> int:
        """Return the sum of `gen_ai.client.token.usage` of one token type."""
        return sum(
            int(point.sum)
            for point in self.points("gen_ai.client.token.usage")
            if point.attributes["gen_ai.token.type"] == token_type
        )


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.check_reference()
    recorder.tracer_provider.shutdown()
    recorder.meter_provider.shutdown()
    recorder.logger_provider.shutdown()


@pytest.fixture
def recorded(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Install the recorder as OpenTelemetry's global providers, for code that accepts no others."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", recorder.tracer_provider)
    monkeypatch.setattr("opentelemetry.metrics._internal._METER_PROVIDER", recorder.meter_provider)
    monkeypatch.setattr("opentelemetry._logs._internal._LOGGER_PROVIDER", recorder.logger_provider)
    return recorder


@pytest.fixture
def attached(recorder: Recorder) -> Iterator[Recorder]:
    """Attach the recorder to the delegating global providers, as `init()` does.

    Unlike with `recorded`, a tracer that code keeps after the test does not record any more.
    """
    SIGNALS["traces"].attach(recorder.tracer_provider)
    SIGNALS["metrics"].attach(recorder.meter_provider)
    yield recorder
    SIGNALS["traces"].delegating.detach()
    SIGNALS["metrics"].delegating.detach()


@pytest.fixture(autouse=True)
def internal_errors_fail_tests() -> Iterator[None]:
    """Make internal errors fail the test. Tests of the error handling switch this off."""
    internal_errors.set_strict(True)
    yield
    internal_errors.set_strict(False)


@pytest.fixture(autouse=True)
def forget_known_servers() -> Iterator[None]:
    known_servers.forget()
    yield
    known_servers.forget()
    unfinished_responses.clear()


@pytest.fixture(autouse=True)
def release_wrapped_openai_clients() -> Iterator[None]:
    """Restore the classes of openai if the test has left only unreachable wrapped clients."""
    yield
    openai: Any = sys.modules.get("openai")
    plugin: Any = sys.modules.get("llamatelemetry_instrumentation_openai._patches")
    if openai is not None and plugin is not None and "request" in vars(openai.OpenAI):
        gc.collect()
        plugin.patches.uninstrument(SimpleNamespace())
