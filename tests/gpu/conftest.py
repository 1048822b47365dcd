"""Fixtures of the GPU tests: an NVML library in this process or a child process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.genai import internal_errors
from llamatelemetry.gpu.monitor.monitor import GpuMonitor
from llamatelemetry.gpu.nvml.reader import NvmlReader
from llamatelemetry.gpu.spans import SpanGpu
from llamatelemetry.otel.span_processors import EnrichingSpanProcessor
from tests.support.nvml import driver_with
from tests.support.waiting import wait_for

__all__ = ["driver_with"]


@pytest.fixture
def start_monitor() -> Iterator[Callable[..., GpuMonitor]]:
    """Return a function that starts a monitor and waits for its first reading."""
    monitors: list[GpuMonitor] = []

    def start(*, first_reading: bool = True, **options: Any) -> GpuMonitor:
        options = {"interval_s": 0.02, **options}
        monitor = GpuMonitor(NvmlReader(), **options)
        monitors.append(monitor)
        monitor.start()
        if first_reading:
            wait_for(lambda: monitor.snapshot.states)
        return monitor

    yield start
    for monitor in monitors:
        assert monitor.stop(10)


class Tracing:
    """A real provider with enrichment, and the spans that it exports."""

    def __init__(self, monitor: GpuMonitor, *, only_genai: bool = False) -> None:
        spans = SpanGpu(monitor, only_genai=only_genai)
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        # Added after the exporter, to show that the order does not matter.
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.provider.add_span_processor(
            EnrichingSpanProcessor(spans.started, spans.ending, internal_errors.log_once)
        )

    def tracer(self, scope: str = "test"):
        return self.provider.get_tracer(scope)

    def attributes(self, name: str) -> dict[str, Any]:
        (span,) = (each for each in self.exporter.get_finished_spans() if each.name == name)
        return {
            key.removeprefix("llamatelemetry.gpu."): value
            for key, value in span.attributes.items()
            if key.startswith("llamatelemetry.gpu.")
        }
