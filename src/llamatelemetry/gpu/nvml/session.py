"""A session with NVML through nvidia-ml-py.

    with NvmlSession() as nvml:
        count = nvml.query("nvmlDeviceGetCount")

NVML has about 400 queries, and every device supports a different subset. `NvmlSession.query` returns
`None` for unsupported queries, and distinguishes two failures: one device is lost, or NVML is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Self, cast

from llamatelemetry._nvml_library import NVML_LIBRARY, has_nvml_library
from llamatelemetry._optional import required_by
from llamatelemetry.gpu.nvml.plausibility import memory
from llamatelemetry.gpu.reader import GpuLostError, GpuUnavailableError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_NOT_SUPPORTED: Final = 3
_DRIVER_NOT_LOADED: Final = 9
_LIBRARY_NOT_FOUND: Final = 12
_FUNCTION_NOT_FOUND: Final = 13
_VERSION_MISMATCH: Final = 25  # the driver does not know this version of a structure
# The device fell off the bus, must be reset, or its handle is no longer valid.
_LOST: Final = frozenset({15, 16, 28})
# Not initialized, no driver, or different versions of driver and library after an update.
_SESSION_OVER: Final = frozenset({1, _DRIVER_NOT_LOADED, 18})

_UNSIGNED_INT, _SIGNED_INT, _DOUBLE = 1, 5, 0


class NvmlSession:
    """One initialization of NVML. Not thread-safe.

    Attributes:
        failures: Number of queries that failed although the device supports them.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._nvml: Any = None
        self._unsupported: set[Hashable] = set()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Load and initialize the library.

        Raises:
            GpuUnavailableError: NVML is not available.
        """
        if not has_nvml_library():
            raise GpuUnavailableError(f"{NVML_LIBRARY} not found", is_permanent=True)
        try:
            with required_by("Reading GPUs", "nvidia-ml-py"):
                nvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise GpuUnavailableError(str(error), is_permanent=True) from None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            is_permanent = error.value == _LIBRARY_NOT_FOUND
            raise GpuUnavailableError(
                f"NVML failed to start: {error}", is_permanent=is_permanent
            ) from None
        self._nvml = nvml
        self._unsupported.clear()

    def close(self) -> None:
        """Close the session. Never raises."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):  # the session was closed already
                nvml.nvmlShutdown()

    def query(self, function: str, *arguments: Any) -> Any | None:
        """Call a function of nvidia-ml-py. Return `None` if it is not supported or fails.

        A query that a device does not support is not repeated in this session.

        Raises:
            GpuLostError: The device is lost.
            GpuUnavailableError: The session has ended.
        """
        if self._nvml is None:
            raise GpuUnavailableError("the session is closed")
        key = (function, *map(_identity, arguments))
        if key in self._unsupported:
            return None
        call = getattr(self._nvml, function, None)
        if call is None:  # an older nvidia-ml-py
            return None
        try:
            return _text(call(*arguments))
        except self._nvml.NVMLError as error:
            self._handle_error(error, key)
            return None

    def memory(self, handle: Any) -> tuple[int | None, int | None]:
        """Return total and used memory in bytes. `None` is unknown.

        The first version of this query counts the memory that the driver reserves as used.
        """
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        found = version and self.query("nvmlDeviceGetMemoryInfo", handle, version)
        found = found or self.query("nvmlDeviceGetMemoryInfo", handle)
        return (None, None) if found is None else memory(int(found.total), int(found.used))

    def bus_id(self, handle: Any, *link: int) -> str | None:
        """Return the PCI bus ID of a device, or of the other end of one of its NVLinks."""
        function = "nvmlDeviceGetNvLinkRemotePciInfo" if link else "nvmlDeviceGetPciInfo"
        pci = self.query(function, handle, *link)
        return None if pci is None else _text(pci.busId)

    def fields(self, handle: Any, fields: Sequence[int | tuple[int, int]]) -> list[int | None]:
        """Query several fields in one call: IDs, or pairs of an ID and a scope, such as a link.

        The value of an unsupported field is `None`.
        """
        values = self.query("nvmlDeviceGetFieldValues", handle, list(fields))
        if values is None:
            return [None] * len(fields)
        return [_field_value(value) if value.nvmlReturn == 0 else None for value in values]

    def _handle_error(self, error: Any, key: Hashable) -> None:
        if error.value in _LOST:
            raise GpuLostError(str(error)) from None
        if error.value in _SESSION_OVER:
            raise GpuUnavailableError(f"NVML: {error}") from None
        if error.value in {_NOT_SUPPORTED, _FUNCTION_NOT_FOUND, _VERSION_MISMATCH}:
            self._unsupported.add(key)
        else:
            self.failures += 1


def _identity(argument: Any) -> Hashable:
    if isinstance(argument, ctypes._Pointer):  # pyright: ignore[reportPrivateUsage] - there is no public name
        # Handles of nvidia-ml-py compare by object identity. The address identifies the device.
        return ctypes.cast(cast("Any", argument), ctypes.c_void_p).value
    return str(argument)


def _text(value: Any) -> Any:
    """Decode bytes, which old releases of nvidia-ml-py return."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _field_value(value: Any) -> int:
    if value.valueType == _UNSIGNED_INT:
        return int(value.value.uiVal)
    if value.valueType == _SIGNED_INT:
        return int(value.value.siVal)
    return int(value.value.dVal if value.valueType == _DOUBLE else value.value.ullVal)


def _replace_lock_of_nvidia_ml_py() -> None:
    """Replace the lock in a forked child: a thread of the parent may have held it."""
    nvml: Any = sys.modules.get("pynvml")
    if nvml is not None:
        nvml.libLoadLock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_replace_lock_of_nvidia_ml_py)
