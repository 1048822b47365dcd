"""GPU telemetry of a set-up: the span processor, the metrics, and the thread that reads both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry._nvml_library import has_nvml_library
from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.gpu.metrics import GpuMetrics
    from llamatelemetry.gpu.monitor import GpuMonitor
    from llamatelemetry.gpu.spans import SpanGpu
    from llamatelemetry.otel.process.leader_election import LeaderElection

DETECTOR: Final = "llamatelemetry_gpu"
"""Entry point of the resource detector."""

_instruments: list[GpuMetrics] = []
"""At most one: observable instruments cannot be removed, so it outlives set-ups."""


class GpuTelemetry:
    """The GPU telemetry of one set-up, by its options. Nothing runs before `start`.

    Without the library of an NVIDIA driver, there is no telemetry.
    """

    def __init__(self, config: LlamaTelemetryConfig) -> None:
        self._config = config
        self._monitor: GpuMonitor | None = None
        self._election: LeaderElection | None = None
        self._spans: SpanGpu | None = None
        self.processors: tuple[SpanProcessor, ...] = ()
        if (config.gpu_enrichment or config.enable_metrics) and has_nvml_library():
            try:
                self._prepare()
            except Exception as error:
                internal_errors.log_once("preparing to read the GPUs", error)

    def _prepare(self) -> None:
        from llamatelemetry.gpu import NvmlReader
        from llamatelemetry.gpu.monitor import GpuMonitor

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
            from llamatelemetry.otel.span_processors import EnrichingSpanProcessor

            spans = SpanGpu(self._monitor, only_genai=self._config.gpu_enrichment == "genai")
            self._spans = spans
            self.processors = (
                EnrichingSpanProcessor(spans.started, spans.ending, internal_errors.log_once),
            )

    def start(self, service_name: str) -> None:
        """Start the reading thread. It ends at once if the driver does not run.

        One process per host and `service_name` reports the metrics.
        """
        if self._monitor is None:
            return
        try:
            if self._config.enable_metrics:
                from llamatelemetry.otel.process.leader_election import LeaderElection

                self._election = LeaderElection("gpu-metrics", service_name)
                _the_instruments().show(self._monitor)
            _observe_dropped_spans(self._spans)
            self._monitor.start()
        except Exception as error:
            internal_errors.log_once("starting to read the GPUs", error)

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread, and release the leadership. Return whether that was in time."""
        if self._monitor is None:
            return True
        _observe_dropped_spans(None)
        for instruments in _instruments:
            instruments.show(None)
        # Removed first, so that a running reading does not acquire the leadership again.
        election, self._election = self._election, None
        stopped = self._monitor.stop(timeout_s)
        if election is not None:
            election.release()
        return stopped

    def _reports_host(self) -> bool:
        election = self._election
        return election is not None and election.is_leader()


def _observe_dropped_spans(observer: SpanGpu | None) -> None:
    from llamatelemetry.genai.spans import DroppedSpans

    DroppedSpans.observer = observer


def _the_instruments() -> GpuMetrics:
    from llamatelemetry.gpu.metrics import GpuMetrics

    if not _instruments:
        _instruments.append(GpuMetrics())
    return _instruments[0]


def _record_pass(duration_s: float) -> None:
    for instruments in _instruments:
        instruments.record_pass(duration_s)


def _shared_folder() -> Path | None:
    """Return the directory of this user's lock files, which all processes on this host share."""
    from llamatelemetry.otel.process.leader_election import LeaderElection

    election = LeaderElection("gpu-calls", "")
    election.is_leader()
    folder = election.path.parent if election.path else None
    election.release()
    return folder


def _pids_of(origin: str) -> Collection[int]:
    from llamatelemetry.genai.server_pids import pids_of

    return pids_of(origin) or pids_of(origin.replace("http:", "https:", 1))
