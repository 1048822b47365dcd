"""A bounded history of GPU samples, with mean and peak over any time range.

Means come from running sums, and peaks from precomputed peaks of blocks, so that a long range costs
little more than a short one. Times are seconds of `time.monotonic`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.gpu.reader import GpuDevice, GpuState

_BLOCK: Final = 32
_TRIMMED: Final = 16 * _BLOCK
"""Number of samples removed at once; a multiple of the block size."""
_NEGLIGIBLE_S: Final = 1e-9
"""Shorter times are rounding errors of the running sums."""
CAPACITY: Final = 3072
"""Number of samples kept: 5 minutes at 10 per second, 51 minutes at 1 per second. 2 MB per GPU."""


class GpuUsage(NamedTuple):
    """Usage of one GPU over a time range: mean utilization and power, peak memory and temperature."""

    utilization: float | None = None
    utilization_peak: float | None = None
    memory_used_bytes: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None


UNKNOWN: Final = GpuUsage()


class _Peaks(NamedTuple):
    utilization: float | None = None
    memory_used_bytes: int | None = None
    temperature_c: float | None = None


class _Device(NamedTuple):
    """One device in one sample. A sample applies to the time since the previous one.

    The areas are integrals since the first sample, each with the time during which the value was
    known. The peaks are those since the start of the block.
    """

    state: GpuState
    utilization_area: float
    utilization_known_s: float
    power_area: float
    power_known_s: float
    peaks: _Peaks


class History:
    """Bounded list of samples of some devices. One thread appends, any thread reads."""

    def __init__(
        self, stale_after_s: float, devices: tuple[GpuDevice, ...] = (), capacity: int = CAPACITY
    ) -> None:
        self.devices = devices
        self._stale_after_s = stale_after_s
        self._capacity = capacity
        self._times: list[float] = []
        self._samples: list[tuple[_Device, ...]] = []
        # Reentrant: the garbage collector may end a span at any point, also while the lock is held.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._times)

    def append(self, at_s: float, states: Sequence[GpuState]) -> None:
        """Append a sample: one state for each device, in the order of `devices`."""
        # Created outside the lock: only this thread appends.
        before = self._samples[-1] if self._samples else None
        duration_s = at_s - self._times[-1] if self._times else 0.0
        # A long pause, for example of a suspended machine, is unknown time.
        duration_s = duration_s if duration_s <= self._stale_after_s else 0.0
        starts_block = len(self._times) % _BLOCK == 0
        sample = tuple(
            _next(state, None if before is None else before[i], duration_s, starts_block)
            for i, state in enumerate(states)
        )
        with self._lock:
            self._times.append(at_s)
            self._samples.append(sample)
            if len(self._times) >= self._capacity + _TRIMMED:
                del self._times[:_TRIMMED]
                del self._samples[:_TRIMMED]

    def over(self, start_s: float, end_s: float) -> list[GpuUsage] | None:
        """Return the usage of each device over a time range; `None` if it is unknown.

        Time before the first sample is unknown. The last sample applies until it is stale, so that
        a span shorter than the sampling interval gets the state at its start.
        """
        with self._lock:
            times, samples = self._times, self._samples
            if not times or end_s < times[0] or start_s > times[-1] + self._stale_after_s:
                return None
            start_s = max(start_s, times[0])
            end_s = max(start_s, min(end_s, times[-1] + self._stale_after_s))
            last = len(times) - 1
            first_in = min(bisect_left(times, start_s), last)
            last_in = min(bisect_left(times, end_s, first_in), last)
            return [
                self._usage(device, start_s, end_s, first_in, last_in)
                for device in range(len(samples[last]))
            ]

    def _usage(
        self, device: int, start_s: float, end_s: float, first_in: int, last_in: int
    ) -> GpuUsage:
        first, last = self._samples[first_in][device], self._samples[last_in][device]
        # Distance of each end of the range from the sample that applies to it.
        before_s = start_s - self._times[first_in]
        after_s = end_s - self._times[last_in]
        utilization, power = last.state.utilization, last.state.power_w
        area, known_s = _area(
            (first.utilization_area, first.utilization_known_s, first.state.utilization, before_s),
            (last.utilization_area, last.utilization_known_s, utilization, after_s),
        )
        if known_s > _NEGLIGIBLE_S:
            utilization = area / known_s
        area, known_s = _area(
            (first.power_area, first.power_known_s, first.state.power_w, before_s),
            (last.power_area, last.power_known_s, power, after_s),
        )
        if known_s > _NEGLIGIBLE_S:
            power = area / known_s
        peaks = self._peaks(device, first_in, last_in)
        return GpuUsage(
            utilization=utilization,
            utilization_peak=peaks.utilization,
            memory_used_bytes=peaks.memory_used_bytes,
            power_w=power,
            temperature_c=peaks.temperature_c,
        )

    def _peaks(self, device: int, first_in: int, last_in: int) -> _Peaks:
        samples = self._samples
        if first_in == last_in:
            return _peaks_of(samples[last_in][device].state)
        next_block = (first_in // _BLOCK + 1) * _BLOCK
        if last_in < next_block:
            found = [_peaks_of(each[device].state) for each in samples[first_in : last_in + 1]]
        else:
            found = [_peaks_of(each[device].state) for each in samples[first_in:next_block]]
            # The last sample of a block has the peaks of the whole block.
            found += [
                each[device].peaks for each in samples[next_block + _BLOCK - 1 : last_in : _BLOCK]
            ]
            found.append(samples[last_in][device].peaks)
        return _joined(found)


def _next(
    state: GpuState, before: _Device | None, duration_s: float, starts_block: bool
) -> _Device:
    peaks = _peaks_of(state)
    if before is None:
        return _Device(state, 0.0, 0.0, 0.0, 0.0, peaks)
    load, power_w = state.utilization, state.power_w
    return _Device(
        state,
        before.utilization_area + (load or 0.0) * duration_s,
        before.utilization_known_s + (0.0 if load is None else duration_s),
        before.power_area + (power_w or 0.0) * duration_s,
        before.power_known_s + (0.0 if power_w is None else duration_s),
        peaks if starts_block else _joined((before.peaks, peaks)),
    )


def _area(
    start: tuple[float, float, float | None, float], end: tuple[float, float, float | None, float]
) -> tuple[float, float]:
    """Return the area between two times, and the part of the time during which it is known.

    Each end is given by a sample, as area, known time and value, and by the seconds from the sample.
    """
    area, known_s = end[0] - start[0], end[1] - start[1]
    if end[2] is not None:
        area, known_s = area + end[2] * end[3], known_s + end[3]
    if start[2] is not None:
        area, known_s = area - start[2] * start[3], known_s - start[3]
    return area, known_s


def _joined(peaks: Sequence[_Peaks]) -> _Peaks:
    return _Peaks(
        max((p.utilization for p in peaks if p.utilization is not None), default=None),
        max((p.memory_used_bytes for p in peaks if p.memory_used_bytes is not None), default=None),
        max((p.temperature_c for p in peaks if p.temperature_c is not None), default=None),
    )


def _peaks_of(state: GpuState) -> _Peaks:
    return _Peaks(state.utilization, state.memory_used_bytes, state.temperature_c)
