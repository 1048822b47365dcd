"""Providers that record all telemetry and drop it, to measure without the transport."""

from __future__ import annotations

from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class DroppingExporter(SpanExporter):
    """Exporter that drops all spans."""

    def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002 - the SDK's signature
        """Drop the spans."""
        return SpanExportResult.SUCCESS


def providers() -> dict[str, Any]:
    """Return a tracer and a meter provider, as arguments of `instrument()`."""
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(
        BatchSpanProcessor(DroppingExporter(), max_queue_size=200_000)
    )
    meter_provider = MeterProvider([InMemoryMetricReader()])
    return {"tracer_provider": tracer_provider, "meter_provider": meter_provider}


def global_providers() -> dict[str, Any]:
    """Return them, and install them as OpenTelemetry's global providers."""
    created = providers()
    trace.set_tracer_provider(created["tracer_provider"])
    metrics.set_meter_provider(created["meter_provider"])
    return created
