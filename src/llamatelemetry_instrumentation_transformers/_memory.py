"""Peak GPU memory of concurrent calls, from the single counter of the allocator.

`torch.cuda` keeps one peak per device, which can only be reset. It is reset at the start of a call,
after the running calls have stored its value. It is not reset at the end of a call, so that an
application that measures around a call reads its own result.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


class MemoryPeak:
    """Memory of one call in bytes: the peak so far, and the allocated memory at its end.

    `peaks` has the devices of the model as keys. `allocated` has their order.
    """

    __slots__ = ("allocated", "peaks")

    def __init__(self, devices: Sequence[Any]) -> None:
        self.peaks = dict.fromkeys(devices, 0)
        self.allocated: list[int] = []


class PeakMemoryTracker:
    """Tracks the peak memory of the running calls.

    Args:
        counters: Object with the memory functions of `torch.cuda`, which is used if `None`.
    """

    def __init__(self, counters: Any = None) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._running: list[MemoryPeak] = []

    def start(self, devices: Sequence[Any]) -> MemoryPeak | None:
        """Start a call on these devices. Return `None` if there are none."""
        if not devices:
            return None
        peak = MemoryPeak(devices)
        with self._lock:
            for device in devices:
                self._update_peaks(device)
                self.counters.reset_peak_memory_stats(device)
            self._running.append(peak)
        return peak

    def stop(self, peak: MemoryPeak) -> None:
        """End a call."""
        with self._lock:
            if peak not in self._running:
                return
            for device in peak.peaks:
                self._update_peaks(device)
                peak.allocated.append(self.counters.memory_allocated(device))
            self._running.remove(peak)

    @property
    def counters(self) -> Any:
        """Counters of the allocator. They are kept on the host, so that reading them does not wait."""
        return sys.modules["torch"].cuda if self._counters is None else self._counters

    def _update_peaks(self, device: Any) -> None:
        running = [peak for peak in self._running if device in peak.peaks]
        if running:
            seen = self.counters.max_memory_allocated(device)
            for peak in running:
                peak.peaks[device] = max(peak.peaks[device], seen)


memory_tracker: Final = PeakMemoryTracker()
