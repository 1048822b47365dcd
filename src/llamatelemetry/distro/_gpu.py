"""Wires the GPUs to a set-up: the processor of spans, the metrics, and the thread behind both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry.genai import guard, unrecorded
from llamatelemetry.otel.host_election import HostElection

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.gpu.metrics import GpuMetrics
    from llamatelemetry.gpu.monitor import GpuMonitor
    from llamatelemetry.gpu.spans import SpanGpu

DETECTOR: Final = "llamatelemetry_gpu"
"""The entry point of the resource detector."""

_instruments: list[GpuMetrics] = []
"""The one there is: observable instruments cannot be taken back, so it outlives set-ups."""


class GpuWatch:
    """What one set-up does about GPUs, by its options. It does nothing until `start`."""

    def __init__(self, config: LlamaTelemetryConfig) -> None:
        self._config = config
        self._monitor: GpuMonitor | None = None
        self._election: HostElection | None = None
        self._spans: SpanGpu | None = None
        self.processors: tuple[SpanProcessor, ...] = ()
        if config.gpu_enrichment or config.enable_metrics:
            try:
                self._prepare()
            except Exception as error:
                guard.report("preparing to read the GPUs", error)

    def _prepare(self) -> None:
        from llamatelemetry.gpu.monitor import GpuMonitor
        from llamatelemetry.gpu.nvml_reader import NvmlReader

        self._monitor = GpuMonitor(
            NvmlReader(),
            interval_s=self._config.gpu_interval_ms / 1000,
            pids_of=_pids_of,
            reports_host=self._reports_host,
            record_pass=_record_pass,
            shared_folder=_shared_folder,
        )
        if self._config.gpu_enrichment:
            from llamatelemetry.gpu.spans import SpanGpu
            from llamatelemetry.otel.gpu_enrichment import EnrichingSpanProcessor

            spans = SpanGpu(self._monitor, only_genai=self._config.gpu_enrichment == "genai")
            self._spans = spans
            self.processors = (EnrichingSpanProcessor(spans.started, spans.ending, guard.report),)

    def start(self, service_name: str) -> None:
        """Start to read, in a thread. Without a driver that ends at once.

        Args:
            service_name: whose processes choose one among them to report for the host.
        """
        if self._monitor is None:
            return
        try:
            if self._config.enable_metrics:
                self._election = HostElection("gpu-metrics", service_name)
                _the_instruments().show(self._monitor)
            unrecorded.watch(self._spans)
            self._monitor.start()
        except Exception as error:
            guard.report("starting to read the GPUs", error)

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread, and let another process report. False when it is not done in time."""
        if self._monitor is None:
            return True
        unrecorded.watch(None)
        for instruments in _instruments:
            instruments.show(None)
        # First, so that a reading that is still under way does not stand for it again.
        election, self._election = self._election, None
        stopped = self._monitor.stop(timeout_s)
        if election is not None:
            election.resign()
        return stopped

    def _reports_host(self) -> bool:
        election = self._election
        return election is not None and election.is_elected()


def _the_instruments() -> GpuMetrics:
    from llamatelemetry.gpu.metrics import GpuMetrics

    if not _instruments:
        _instruments.append(GpuMetrics())
    return _instruments[0]


def _record_pass(duration_s: float) -> None:
    for instruments in _instruments:
        instruments.record_pass(duration_s)


def _shared_folder() -> Path | None:
    """The folder of this user's lock files, which all its processes on this host find."""
    election = HostElection("gpu-calls", "")
    election.is_elected()
    folder = election.path.parent if election.path else None
    election.resign()
    return folder


def _pids_of(origin: str) -> Collection[int]:
    from llamatelemetry.llama.server.pids import pids_of

    return pids_of(origin) or pids_of(origin.replace("http:", "https:", 1))
