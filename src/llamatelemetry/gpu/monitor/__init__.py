"""The background thread that reads the GPUs, and the data it keeps for spans and metrics."""

from __future__ import annotations

from llamatelemetry.gpu.monitor.monitor import GpuMonitor, Snapshot

__all__ = ["GpuMonitor", "Snapshot"]
