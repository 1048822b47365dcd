"""NVIDIA GPUs: devices, utilization, topology, and the energy of calls.

A machine without a GPU is a normal state: nothing is recorded, and only `require_cuda` fails.
NVML is called by one background thread, never by a thread of the application.
"""

from __future__ import annotations

from llamatelemetry.gpu.devices import CudaInfo, detect_cuda, require_cuda
from llamatelemetry.gpu.nvml.reader import NvmlReader
from llamatelemetry.gpu.nvml.session import NvmlSession
from llamatelemetry.gpu.reader import (
    GpuDetails,
    GpuDevice,
    GpuReader,
    GpuState,
    GpuUnavailableError,
)

__all__ = [
    "CudaInfo",
    "GpuDetails",
    "GpuDevice",
    "GpuReader",
    "GpuState",
    "GpuUnavailableError",
    "NvmlReader",
    "NvmlSession",
    "detect_cuda",
    "require_cuda",
]
