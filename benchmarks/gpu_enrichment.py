"""CPU time that GPU attributes add to a span, on the thread that creates it.

The GPU reader returns invented values, so no GPU is needed and no driver is measured. Threads of
requests never call the driver. Spans with and without GPU attributes alternate in blocks in one
run. The results are medians of the differences between blocks, in microseconds of CPU time of this
thread. `scripts/gpu-check` measures readings in the background on a real GPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from llamatelemetry.genai import internal_errors
from llamatelemetry.gpu import GpuDetails, GpuDevice, GpuState
from llamatelemetry.gpu.monitor.monitor import GpuMonitor
from llamatelemetry.gpu.spans import SpanGpu
from llamatelemetry.otel.span_processors import EnrichingSpanProcessor

BLOCKS = 21
SPANS_PER_BLOCK = 300
HERE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "llama_cpp",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
SERVER_PID = 4711


class InventedGpuReader:
    """Reader of GPUs that do not exist."""

    def __init__(self, count: int) -> None:
        self._devices = tuple(GpuDevice(index=i, uuid=f"GPU-{i}") for i in range(count))

    def open(self) -> tuple[GpuDevice, ...]:
        """Return the devices."""
        return self._devices

    def state(self, device: GpuDevice) -> GpuState:
        """Return the state of a busy GPU."""
        return GpuState(0.9, 10**10, 300.0 + device.index, time.monotonic() * 300, 60.0)

    def details(self, device: GpuDevice) -> GpuDetails:  # noqa: ARG002 - signature of GpuReader
        """Return no details."""
        return GpuDetails()

    def processes(self, device: GpuDevice) -> Mapping[int, int | None]:  # noqa: ARG002
        """Return one server process per GPU."""
        return {SERVER_PID: 1}

    def close(self) -> None:
        """Do nothing."""


def provider_with(monitor: GpuMonitor | None) -> TracerProvider:
    """Return a provider without an exporter, with GPU attributes if a monitor is given."""
    provider = TracerProvider(shutdown_on_exit=False)
    if monitor is not None:
        spans = SpanGpu(monitor, only_genai=False)
        processor = EnrichingSpanProcessor(spans.started, spans.ending, internal_errors.log_once)
        provider.add_span_processor(processor)
    return provider


def start_monitor(count: int) -> GpuMonitor:
    """Start a monitor and return it after some readings."""
    monitor = GpuMonitor(InventedGpuReader(count), pids_of=lambda _: {SERVER_PID})
    monitor.start()
    while count and not monitor.snapshot.states:
        time.sleep(0.01)
    time.sleep(0.5)
    return monitor


def block(provider: TracerProvider, attributes: Mapping[str, Any]) -> float:
    """Return the CPU time of a span, in microseconds."""
    tracer = provider.get_tracer("benchmark")
    start = time.thread_time()
    for _ in range(SPANS_PER_BLOCK):
        tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=attributes).end()
    return (time.thread_time() - start) / SPANS_PER_BLOCK * 1e6


def long_call(monitor: GpuMonitor) -> float:
    """Return the CPU time of a two-second call among four, in microseconds."""
    provider = provider_with(monitor)
    tracer = provider.get_tracer("benchmark")
    others = [tracer.start_span("o", kind=SpanKind.CLIENT, attributes=HERE) for _ in range(3)]
    costs: list[float] = []
    for _ in range(5):
        start = time.thread_time()
        span = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=HERE)
        begun = time.thread_time() - start
        time.sleep(2)
        start = time.thread_time()
        span.end()
        costs.append((begun + time.thread_time() - start) * 1e6)
    for span in others:
        span.end()
    return statistics.median(costs)


def added(monitor: GpuMonitor, attributes: Mapping[str, Any]) -> float:
    """Return the CPU time that GPU attributes add to a span, in microseconds."""
    bare, enriched = provider_with(None), provider_with(monitor)
    block(bare, attributes), block(enriched, attributes)
    return statistics.median(
        block(enriched, attributes) - block(bare, attributes) for _ in range(BLOCKS)
    )


def main() -> None:
    """Print the table."""
    print(f"{'':10}{'any span':>12}{'short local call':>22}{'local call of 2 s, total':>31}")
    for count in (0, 1, 8):
        monitor = start_monitor(count)
        title = f"{count} GPU{'' if count == 1 else 's'}"
        figures = added(monitor, {}), added(monitor, HERE), long_call(monitor)
        print("{:10}{:>9.1f} µs{:>19.1f} µs{:>28.0f} µs".format(title, *figures))
        monitor.stop(5)


if __name__ == "__main__":
    main()
