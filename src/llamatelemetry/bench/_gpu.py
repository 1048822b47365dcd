"""What the GPUs of this machine used during a run; nothing where there are none."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from llamatelemetry.genai import Server

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_IDLE_SAMPLES: Final = 5
_IDLE_PAUSE_S: Final = 0.1


class GpuMeter:
    """Measures the energy of the GPUs that an engine on this machine may use.

    Nothing is measured for a server elsewhere, or where no process is on a GPU.

    Args:
        server: that is benchmarked; ``None`` is an engine in this process.
    """

    def __init__(self, server: Server | None) -> None:
        self._reader: Any = None
        self._devices: list[Any] = []
        self._begun_j: list[float | None] = []
        self.idle_w: float | None = None
        self.energy_j: float | None = None
        if server is None or server.address in _LOOPBACK:
            self._open()

    @property
    def names(self) -> list[str]:
        """The GPUs' names."""
        return [str(device.name) for device in self._devices]

    def _open(self) -> None:
        from llamatelemetry.gpu import GpuUnavailableError, NvmlReader, detect_cuda
        from llamatelemetry.gpu.reader import GpuLostError

        try:
            visible = {device.uuid for device in detect_cuda().devices}
            self._reader = NvmlReader()
            found = [device for device in self._reader.open() if device.uuid in visible]
            self._devices = [device for device in found if self._reader.processes(device) != {}]
        except (GpuUnavailableError, GpuLostError):
            pass  # a normal state

    def measure_idle(self) -> None:
        """Note what the GPUs draw now, before there is anything to do."""
        if not self._devices:
            return
        drawn: list[float] = []
        for _ in range(_IDLE_SAMPLES):
            powers = [state.power_w for state in self._states()]
            if None in powers or not powers:
                return
            drawn.append(sum(powers))
            time.sleep(_IDLE_PAUSE_S)
        self.idle_w = sum(drawn) / len(drawn)

    def begin(self) -> None:
        """A run begins."""
        self._begun_j = [state.energy_j for state in self._states()]

    def end(self) -> list[str]:
        """A run has ended: `energy_j` is what it took. Give what may have disturbed it."""
        ended = [state.energy_j for state in self._states()]
        self.energy_j = None
        if ended and len(ended) == len(self._begun_j) and None not in [*ended, *self._begun_j]:
            self.energy_j = sum(ended) - sum(begun or 0.0 for begun in self._begun_j)
        return self._throttling()

    def _states(self) -> list[Any]:
        try:
            return [self._reader.state(device) for device in self._devices]
        except Exception:  # a device that is lost says nothing any more
            return []

    def _throttling(self) -> list[str]:
        found: list[str] = []
        for device in self._devices:
            with suppress(Exception):
                reasons = self._reader.details(device).throttle_reasons
                if reasons:
                    held = ", ".join(reasons)
                    found.append(f"{device.name} is throttled at the end of the run: {held}")
        return found

    def close(self) -> None:
        """End the session with the driver."""
        if self._reader is not None:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
