"""Providers that record everything and send nothing: what telemetry costs without its transport."""

from __future__ import annotations

from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class Dropping(SpanExporter):
    """An exporter that costs nothing."""

    def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002 - the SDK's signature
        """Drop them."""
        return SpanExportResult.SUCCESS


def providers() -> dict[str, Any]:
    """Give a tracer and a meter provider, as arguments of ``instrument()``."""
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(Dropping(), max_queue_size=200_000))
    meter_provider = MeterProvider([InMemoryMetricReader()])
    return {"tracer_provider": tracer_provider, "meter_provider": meter_provider}


def global_providers() -> dict[str, Any]:
    """Give them, and make them OpenTelemetry's global ones as well."""
    made = providers()
    trace.set_tracer_provider(made["tracer_provider"])
    metrics.set_meter_provider(made["meter_provider"])
    return made
