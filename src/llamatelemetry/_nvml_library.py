"""Whether the library of the NVIDIA driver is installed. Everything else about GPUs needs it."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

NVML_LIBRARY: Final = "libnvidia-ml.so.1"


def has_nvml_library() -> bool:
    """Return whether NVML is installed, before code that uses it is imported.

    Importing nvidia-ml-py takes 30 ms, and llamatelemetry's own code for GPUs another 10 ms.
    """
    if sys.platform == "win32":  # the library has another name and place there
        return True
    try:
        ctypes.CDLL(NVML_LIBRARY)
    except OSError:
        return False
    return True
