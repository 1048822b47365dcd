"""Checks that need a real NVIDIA GPU. Run by `scripts/gpu-check`; prints Markdown.

1. The devices, and the duration of each NVML query of a reading.
2. The exported metrics.
3. The energy of a known load, compared with the increase of the GPU's energy counter.
4. The GPU attributes of a span of a Transformers model.
5. A collective operation over one rank.

A check is skipped, with the reason, if its library is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llamatelemetry.genai import internal_errors
from llamatelemetry.gpu import NvmlReader, NvmlSession, detect_cuda
from llamatelemetry.gpu.metrics import GpuMetrics
from llamatelemetry.gpu.monitor.monitor import GpuMonitor
from llamatelemetry.gpu.spans import SpanGpu
from llamatelemetry.otel.span_processors import EnrichingSpanProcessor

QUERIES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("nvmlDeviceGetMemoryInfo", ()),
    ("nvmlDeviceGetUtilizationRates", ()),
    ("nvmlDeviceGetTemperature", (0,)),
    ("nvmlDeviceGetFieldValues", ([186],)),
    ("nvmlDeviceGetPowerUsage", ()),
    ("nvmlDeviceGetTotalEnergyConsumption", ()),
    ("nvmlDeviceGetEncoderUtilization", ()),
    ("nvmlDeviceGetEnforcedPowerLimit", ()),
    ("nvmlDeviceGetClockInfo", (1,)),
    ("nvmlDeviceGetCurrentClocksEventReasons", ()),
    ("nvmlDeviceGetCurrPcieLinkGeneration", ()),
    ("nvmlDeviceGetTotalEccErrors", (0, 0)),
    ("nvmlDeviceGetComputeRunningProcesses", ()),
)
REPEATS = 50
LOAD_S = 10.0
TOLERANCE = 0.05
IN_PROCESS = "llamatelemetry_instrumentation_transformers"

failures: list[str] = []


def check(passed: bool, name: str) -> None:
    """Print the result of a check, and add it to `failures` if it failed."""
    print(f"- {'ok' if passed else '**FAILED**'}: {name}")
    if not passed:
        failures.append(name)


def devices() -> bool:
    """Print the devices. Return whether there is one."""
    info = detect_cuda()
    print(f"# GPU results\n\n{platform.platform()}, Python {platform.python_version()}, ", end="")
    print(f"driver {info.driver_version}, CUDA {info.cuda_version}, {os.cpu_count()} CPUs\n")
    if not info.available:
        print(f"No NVIDIA GPU available: {info.reason}")
        return False
    print("| Index | Name | Memory | Compute capability |\n|---|---|---|---|")
    for device in info.devices:
        memory = f"{(device.memory_total_bytes or 0) / 2**30:.0f} GiB"
        print(f"| {device.index} | {device.name} | {memory} | {device.compute_capability} |")
    return True


def query_durations() -> None:
    """Print the duration of each query, and of a whole reading."""
    print(f"\n## Duration of the queries of one reading (median of {REPEATS})\n")
    print("| Query | Duration (µs) |\n|---|---|")
    start = time.perf_counter()
    with NvmlSession() as nvml:
        started_ms = (time.perf_counter() - start) * 1000
        handle = nvml.query("nvmlDeviceGetHandleByIndex", 0)
        for name, arguments in QUERIES:
            if nvml.query(name, handle, *arguments) is None:
                print(f"| `{name}` | not supported |")
                continue
            duration_us = median_us(lambda n=name, a=arguments: nvml.query(n, handle, *a))
            print(f"| `{name}` | {duration_us:.0f} |")
    reader = NvmlReader()
    (device, *_) = reader.open()
    print(f"| State of one GPU | {median_us(lambda: reader.state(device)):.0f} |")
    print(f"| Details of one GPU (every 5 s) | {median_us(lambda: reader.details(device)):.0f} |")
    print(f"| Start of NVML (once) | {started_ms * 1000:.0f} |")
    print(
        f"| Interval between updates of the energy counter | {counter_interval_us(reader, device):.0f} |"
    )
    reader.close()


def median_us(call: Callable[[], object]) -> float:
    """Return the median duration of a call."""
    durations: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        durations.append((time.perf_counter() - start) * 1e6)
    return statistics.median(durations)


def counter_interval_us(reader: NvmlReader, device: Any) -> float:
    """Return the median interval between two updates of the energy counter."""
    updates: list[float] = []
    until, last = time.perf_counter() + 3.0, reader.state(device).energy_j
    while time.perf_counter() < until:
        now = reader.state(device).energy_j
        if now != last:
            updates.append(time.perf_counter())
            last = now
    intervals = [(b - a) * 1e6 for a, b in itertools.pairwise(updates)]
    return statistics.median(intervals) if intervals else float("nan")


@contextmanager
def monitoring() -> Iterator[tuple[GpuMonitor, TracerProvider, InMemorySpanExporter]]:
    """Run a monitor as `init()` does, and yield it with a provider that enriches its spans."""
    monitor = GpuMonitor(NvmlReader(), reports_host=lambda: True)
    spans = SpanGpu(monitor, only_genai=False)
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(
        EnrichingSpanProcessor(spans.started, spans.ending, internal_errors.log_once)
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monitor.start()
    time.sleep(3)
    yield monitor, provider, exporter
    monitor.stop(5)


def metrics() -> None:
    """Print the exported metrics."""
    print("\n## Metrics\n\n| Metric | Unit | Value of the first GPU |\n|---|---|---|")
    reader = InMemoryMetricReader()
    instruments = GpuMetrics(MeterProvider([reader]))
    with monitoring() as (monitor, _, _):
        instruments.show(monitor)
        data = reader.get_metrics_data()
    names: set[str] = set()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                names.add(metric.name)
                value = getattr(metric.data.data_points[0], "value", "")
                print(f"| `{metric.name}` | {metric.unit} | {value} |")
    check(
        {"hw.power", "hw.energy", "hw.gpu.utilization", "hw.status"} <= names,
        "the metrics of the hw conventions are exported",
    )


def energy() -> None:
    """Compare the energy of the span of a load with the increase of the counter."""
    print("\n## Energy of a known load\n")
    torch = torch_with_cuda()
    if torch is None:
        return
    with monitoring() as (_, provider, exporter), NvmlSession() as nvml:
        index = torch.cuda.current_device()
        handle = nvml.query("nvmlDeviceGetHandleByIndex", detect_cuda().devices[index].index)

        def counter_j() -> float:
            return (nvml.query("nvmlDeviceGetTotalEnergyConsumption", handle) or 0) / 1000

        matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
        torch.cuda.synchronize()
        time.sleep(3)
        before_j = counter_j()
        tracer = provider.get_tracer(IN_PROCESS)
        start = {"gen_ai.operation.name": "text_completion", "gen_ai.provider.name": "huggingface"}
        with tracer.start_as_current_span("load", attributes=start):
            until = time.monotonic() + LOAD_S
            while time.monotonic() < until:
                matrix @ matrix
                torch.cuda.synchronize()
        after_j = counter_j()
    span = exporter.get_finished_spans()[-1]
    show(span)
    found = (span.attributes or {}).get("llamatelemetry.gpu.energy")
    counted_j = after_j - before_j
    print(f"\nIncrease of the counter: {counted_j:.1f} J\n")
    is_close = isinstance(found, float) and abs(found - counted_j) <= TOLERANCE * counted_j
    check(
        is_close, f"the energy of the span is within {TOLERANCE:.0%} of the increase of the counter"
    )


def model() -> None:
    """Run a Transformers model on the GPU and print the attributes of its span."""
    print("\n## Transformers model\n")
    torch = torch_with_cuda()
    if torch is None or importlib.util.find_spec("transformers") is None:
        print("Skipped: needs torch with CUDA, and transformers.")
        return
    transformers = importlib.import_module("transformers")
    instrumentor = importlib.import_module(IN_PROCESS).TransformersInstrumentor()
    config = transformers.LlamaConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=12
    )
    llama = transformers.LlamaForCausalLM(config).to("cuda").half()
    with monitoring() as (_, provider, exporter):
        instrumentor.instrument(tracer_provider=provider)
        prompt = torch.ones((1, 16), dtype=torch.long, device="cuda")
        llama.generate(prompt, max_new_tokens=512, min_new_tokens=512, do_sample=False)
        instrumentor.uninstrument()
    spans = [s for s in exporter.get_finished_spans() if s.attributes and len(s.attributes) > 3]
    check(bool(spans), "generate() is recorded as a span")
    for span in spans[-1:]:
        show(span)
        name = "llamatelemetry.gpu.energy_per_output_token"
        check(name in (span.attributes or {}), f"the span has {name}")


def collective() -> None:
    """Run an all-reduce over one rank and print its result."""
    print("\n## NCCLGroup(world_size=1)\n")
    if importlib.util.find_spec("llamatelemetry.nccl") is None or torch_with_cuda() is None:
        print("Skipped: needs llamatelemetry.nccl, and torch with CUDA.")
        return
    with importlib.import_module("llamatelemetry.nccl").NCCLGroup(world_size=1, rank=0) as group:
        print(group.check())


def torch_with_cuda() -> Any | None:
    """Return torch. Print the reason and return `None` if it cannot use the GPU."""
    if importlib.util.find_spec("torch") is None:
        print("Skipped: torch is not installed.\n")
        return None
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        print(f"Skipped: torch {torch.__version__} cannot use the GPU.\n")
        return None
    return torch


def show(span: Any) -> None:
    """Print the GPU attributes of a span."""
    print("| Attribute | Value |\n|---|---|")
    for name, value in span.attributes.items():
        if name.startswith("llamatelemetry.gpu."):
            print(f"| `{name}` | {value} |")


def main() -> int:
    """Run all checks. Return 1 if one failed or there is no GPU."""
    if not devices():
        return 1
    for step in (query_durations, metrics, energy, model, collective):
        try:
            step()
        except Exception as error:  # the other checks still run
            check(False, f"{step.__name__}: {type(error).__name__}: {error}")
    print(f"\n{'All passed.' if not failures else f'{len(failures)} failed.'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
