"""GPUs: what there is, how busy it is, and what a request costs in energy.

No GPU is a normal state: nothing is recorded, and nothing fails but `require_cuda`. NVML is
called by one thread of our own, never by the application's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .devices import CudaInfo, detect_cuda, require_cuda
    from .nvml import NvmlSession
    from .nvml_reader import NvmlReader
    from .reader import GpuDetails, GpuDevice, GpuReader, GpuState, GpuUnavailableError

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

_MODULES = {
    "CudaInfo": "devices",
    "detect_cuda": "devices",
    "require_cuda": "devices",
    "GpuDetails": "reader",
    "GpuDevice": "reader",
    "GpuReader": "reader",
    "GpuState": "reader",
    "GpuUnavailableError": "reader",
    "NvmlReader": "nvml_reader",
    "NvmlSession": "nvml",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
