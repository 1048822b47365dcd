"""The most GPU memory that each of several calls saw allocated, by the one counter there is.

``torch.cuda`` keeps one peak for each device, which can only be started anew. It is, when a call
starts; the calls that run already take note of it just before. It is never when a call ends, so
that an application that started a measurement before a call reads its own result after it.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Counters(Protocol):
    """The counters of an allocator, for each device: ``torch.cuda``."""

    def memory_allocated(self, device: Any) -> int:
        """What is allocated now, in bytes."""
        ...

    def max_memory_allocated(self, device: Any) -> int:
        """The most that was since the last reset."""
        ...

    def reset_peak_memory_stats(self, device: Any) -> None:
        """Start anew from what is allocated now."""
        ...


class MemoryPeak:
    """What one call has seen so far, device by device."""

    __slots__ = ("_watch", "allocated", "devices", "peaks")

    def __init__(self, watch: MemoryWatch, devices: Sequence[Any]) -> None:
        self._watch = watch
        self.devices = tuple(devices)
        self.peaks = dict.fromkeys(self.devices, 0)
        self.allocated: list[int] = []

    def stop(self) -> None:
        """The call has ended: read the counters for the last time."""
        self._watch.stop(self)


class MemoryWatch:
    """The calls that run now.

    Args:
        counters: of the allocator; those of ``torch.cuda`` when not given.
    """

    def __init__(self, counters: Counters | None = None) -> None:
        self._counters = counters
        self._lock = threading.Lock()
        self._running: list[MemoryPeak] = []

    def start(self, devices: Sequence[Any]) -> MemoryPeak | None:
        """A call starts on these devices; ``None`` when it has none."""
        if not devices:
            return None
        peak = MemoryPeak(self, devices)
        with self._lock:
            for device in devices:
                self._take_note(device)
                self.counters.reset_peak_memory_stats(device)
            self._running.append(peak)
        return peak

    def stop(self, peak: MemoryPeak) -> None:
        """A call has ended."""
        with self._lock:
            if peak not in self._running:
                return
            for device in peak.devices:
                self._take_note(device)
                peak.allocated.append(self.counters.memory_allocated(device))
            self._running.remove(peak)

    @property
    def counters(self) -> Counters:
        """The allocator's counters. They count on the host: reading them waits for nothing."""
        return sys.modules["torch"].cuda if self._counters is None else self._counters

    def _take_note(self, device: Any) -> None:
        running = [peak for peak in self._running if device in peak.peaks]
        if running:
            seen = self.counters.max_memory_allocated(device)
            for peak in running:
                peak.peaks[device] = max(peak.peaks[device], seen)


memory_watch: Final = MemoryWatch()
