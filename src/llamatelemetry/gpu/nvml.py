"""A session with NVML through nvidia-ml-py, in which "not supported" is an ordinary answer.

    with NvmlSession() as nvml:
        count = nvml.ask("nvmlDeviceGetCount")

NVML has some four hundred queries, and each device refuses others. `NvmlSession.ask` gives
``None`` for those, and tells apart the two failures that matter: one device is gone, or all of
NVML is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Self, cast

from llamatelemetry._optional import required_by
from llamatelemetry.gpu.reader import GpuLostError, GpuUnavailableError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

_NOT_SUPPORTED: Final = 3
_DRIVER_NOT_LOADED: Final = 9
_LIBRARY_NOT_FOUND: Final = 12
_FUNCTION_NOT_FOUND: Final = 13
# The device fell off the bus, must be reset, or its handle means nothing any more.
_LOST: Final = frozenset({15, 16, 28})
# Not initialised, no driver, driver and library of different versions: as after a driver update.
_SESSION_OVER: Final = frozenset({1, _DRIVER_NOT_LOADED, 18})

_LIBRARY: Final = "libnvidia-ml.so.1"
_UNSIGNED_INT, _SIGNED_INT, _DOUBLE = 1, 5, 0


class NvmlSession:
    """One initialisation of NVML. Not for several threads at once."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._refused: set[Hashable] = set()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Load and initialise the library.

        Raises:
            GpuUnavailableError: why there is none.
        """
        if not _has_library():
            reason = f"the NVIDIA driver's library {_LIBRARY} is not there"
            raise GpuUnavailableError(reason, for_good=True)
        try:
            with required_by("Reading GPUs", "nvidia-ml-py"):
                nvml: Any = importlib.import_module("pynvml")
        except ImportError as error:
            raise GpuUnavailableError(str(error), for_good=True) from None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            for_good = error.value == _LIBRARY_NOT_FOUND
            raise GpuUnavailableError(f"NVML does not start: {error}", for_good=for_good) from None
        self._nvml = nvml
        self._refused.clear()

    def close(self) -> None:
        """End the session. Never raises."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):  # it was over already
                nvml.nvmlShutdown()

    def ask(self, function: str, *arguments: Any) -> Any | None:
        """Call a function of nvidia-ml-py; ``None`` when it has no answer.

        What a device says it does not support is not asked again in this session.

        Args:
            function: its name, as ``nvmlDeviceGetPowerUsage``.
            arguments: the device's handle first, if it takes one.

        Raises:
            GpuLostError: the device is gone.
            GpuUnavailableError: the session is over.
        """
        if self._nvml is None:
            raise GpuUnavailableError("the session is closed")
        key = (function, *map(_identity, arguments))
        if key in self._refused:
            return None
        call = getattr(self._nvml, function, None)
        if call is None:  # an older nvidia-ml-py
            return None
        try:
            answer = call(*arguments)
        except self._nvml.NVMLError as error:
            self._judge(error, key)
            return None
        # Old releases of nvidia-ml-py give bytes.
        return answer.decode(errors="replace") if isinstance(answer, bytes) else answer

    def fields(self, handle: Any, fields: Sequence[int | tuple[int, int]]) -> list[int | None]:
        """Ask for field values in one call; each is ``None`` when it has no answer.

        Args:
            handle: of the device.
            fields: numbers, or pairs of a number and a scope, such as a link.
        """
        values = self.ask("nvmlDeviceGetFieldValues", handle, list(fields))
        if values is None:
            return [None] * len(fields)
        return [_field_value(value) if value.nvmlReturn == 0 else None for value in values]

    def _judge(self, error: Any, key: Hashable) -> None:
        if error.value in _LOST:
            raise GpuLostError(str(error)) from None
        if error.value in _SESSION_OVER:
            raise GpuUnavailableError(f"NVML: {error}") from None
        if error.value in {_NOT_SUPPORTED, _FUNCTION_NOT_FOUND}:
            self._refused.add(key)


def _has_library() -> bool:
    """Whether nvidia-ml-py can find NVML: it takes 30 ms to import, and most machines have none."""
    if sys.platform == "win32":  # which has it elsewhere
        return True
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def _identity(argument: Any) -> Hashable:
    if isinstance(argument, ctypes._Pointer):  # pyright: ignore[reportPrivateUsage] - it has no public name
        # The handles of nvidia-ml-py, which compare by object: the address is what counts.
        return ctypes.cast(cast("Any", argument), ctypes.c_void_p).value
    return str(argument)


def _field_value(value: Any) -> int:
    if value.valueType == _UNSIGNED_INT:
        return int(value.value.uiVal)
    if value.valueType == _SIGNED_INT:
        return int(value.value.siVal)
    return int(value.value.dVal if value.valueType == _DOUBLE else value.value.ullVal)


def _renew_lock_of_nvidia_ml_py() -> None:
    """In a forked child: another thread may have held it, and is not there to release it."""
    nvml: Any = sys.modules.get("pynvml")
    if nvml is not None:
        nvml.libLoadLock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock_of_nvidia_ml_py)
