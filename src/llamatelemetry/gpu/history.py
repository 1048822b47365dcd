"""The last samples of the GPUs, and what they say about any span of time within them.

The mean over a span comes from running sums and the peak from peaks of whole blocks, so that a
long span costs hardly more than a short one. Times are seconds of `time.monotonic`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.gpu.reader import GpuState

_BLOCK: Final = 32
CAPACITY: Final = 6144
"""Samples that are kept at least: ten minutes at ten a second, most of two hours at one."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One GPU over a span of time. ``None`` is unknown.

    Attributes:
        utilization: mean, 0 to 1.
        utilization_peak: of the samples.
        memory_used_bytes: peak.
        power_w: mean.
        temperature_c: peak.
    """

    utilization: float | None = None
    utilization_peak: float | None = None
    memory_used_bytes: int | None = None
    power_w: float | None = None
    temperature_c: float | None = None


UNKNOWN: Final = Usage()


@dataclass(frozen=True, slots=True)
class _Sum:
    """The area under a curve up to a sample, and the time in which it was known."""

    area: float = 0.0
    known_s: float = 0.0

    def plus(self, value: float | None, duration_s: float) -> _Sum:
        if value is None:
            return self
        return _Sum(self.area + value * duration_s, self.known_s + duration_s)


@dataclass(frozen=True, slots=True)
class _Peaks:
    utilization: float | None = None
    memory_used_bytes: int | None = None
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class _Device:
    """One device in one sample. A sample stands for the time since the one before it."""

    state: GpuState
    utilization: _Sum
    power: _Sum
    peaks: _Peaks
    """Of the block so far."""


class History:
    """A bounded ring of samples: one thread appends, any thread reads.

    Args:
        stale_after_s: for how long the last sample still tells what is the case.
        capacity: samples kept at least.
    """

    def __init__(self, stale_after_s: float, capacity: int = CAPACITY) -> None:
        self._stale_after_s = stale_after_s
        self._capacity = -(-capacity // _BLOCK) * _BLOCK
        self._times: list[float] = []
        self._samples: list[tuple[_Device, ...]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._times)

    def append(self, at_s: float, states: Sequence[GpuState]) -> None:
        """Add a sample: the states of the same devices in the same order each time."""
        # Made outside the lock: this is the only thread that appends.
        before = self._samples[-1] if self._samples else None
        duration_s = at_s - self._times[-1] if self._times else 0.0
        # A time in which nobody looked, as of a suspended machine, is not known.
        duration_s = duration_s if duration_s <= self._stale_after_s else 0.0
        starts_block = len(self._times) % _BLOCK == 0
        sample = tuple(
            _next(state, None if before is None else before[i], duration_s, starts_block)
            for i, state in enumerate(states)
        )
        with self._lock:
            self._times.append(at_s)
            self._samples.append(sample)
            if len(self._times) >= 2 * self._capacity:
                del self._times[: self._capacity]
                del self._samples[: self._capacity]

    def clear(self) -> None:
        """Forget all samples: these are other devices."""
        with self._lock:
            self._times.clear()
            self._samples.clear()

    def over(self, start_s: float, end_s: float) -> list[Usage] | None:
        """Give what each device did from one time to another; ``None`` when nothing is known.

        Before the first sample nothing is known. After the last one its values stand, until it
        is stale: a span that is shorter than the pause between two samples gets the state in
        which it found the GPUs.
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
    ) -> Usage:
        samples = self._samples
        utilization = power = None
        if end_s > start_s:
            first, last = samples[first_in][device], samples[last_in][device]
            # From the sample that stands for a time back, or on, to that time.
            before_s = start_s - self._times[first_in]
            after_s = end_s - self._times[last_in]
            utilization = _mean(
                first.utilization.plus(first.state.utilization, before_s),
                last.utilization.plus(last.state.utilization, after_s),
            )
            power = _mean(
                first.power.plus(first.state.power_w, before_s),
                last.power.plus(last.state.power_w, after_s),
            )
        if utilization is None:
            utilization = samples[last_in][device].state.utilization
        if power is None:
            power = samples[last_in][device].state.power_w
        peaks = self._peaks(device, first_in, last_in)
        return Usage(
            utilization=utilization,
            utilization_peak=peaks.utilization,
            memory_used_bytes=peaks.memory_used_bytes,
            power_w=power,
            temperature_c=peaks.temperature_c,
        )

    def _peaks(self, device: int, first_in: int, last_in: int) -> _Peaks:
        samples = self._samples
        next_block = (first_in // _BLOCK + 1) * _BLOCK
        if last_in < next_block:
            found = [_peaks_of(each[device].state) for each in samples[first_in : last_in + 1]]
        else:
            found = [_peaks_of(each[device].state) for each in samples[first_in:next_block]]
            # The last sample of a block has the peaks of all of it.
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
        return _Device(state, _Sum(), _Sum(), peaks)
    return _Device(
        state,
        before.utilization.plus(state.utilization, duration_s),
        before.power.plus(state.power_w, duration_s),
        peaks if starts_block else _joined((before.peaks, peaks)),
    )


def _joined(peaks: Sequence[_Peaks]) -> _Peaks:
    return _Peaks(
        max((p.utilization for p in peaks if p.utilization is not None), default=None),
        max((p.memory_used_bytes for p in peaks if p.memory_used_bytes is not None), default=None),
        max((p.temperature_c for p in peaks if p.temperature_c is not None), default=None),
    )


def _peaks_of(state: GpuState) -> _Peaks:
    return _Peaks(state.utilization, state.memory_used_bytes, state.temperature_c)


def _mean(start: _Sum, end: _Sum) -> float | None:
    known_s = end.known_s - start.known_s
    # Sums of many terms leave a remainder of nothing.
    return (end.area - start.area) / known_s if known_s > 1e-9 else None
