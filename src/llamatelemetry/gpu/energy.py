"""Energy of calls: the GPU's energy counter, divided among the calls in flight.

At each moment the power of a GPU is divided equally among the calls in flight on it, including
those of other processes. Energy used while no call is in flight belongs to no call. So the shares
of all calls add up to the increase of the counter while calls were in flight.

The counter is read every 100 ms while calls are in flight. The energy between the last reading and
the end of a call is unknown when the call ends; it is estimated from the power of the interval
before. At the next reading, the error of the estimate is assigned to the calls still in flight.

Times are seconds of `time.monotonic`. Only the monitor's thread calls `settle`; other threads may
call the other methods.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal
from weakref import WeakKeyDictionary

from llamatelemetry._limits import Limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Attribution = Literal["exclusive", "shared"]

MIN_UPDATES: Final = 10
"""Minimum number of counter updates within a call. The counter is updated every 10 to 100 ms, so
the energy of a shorter call would be mostly error."""
_IDLE_INTERVALS: Final = 10
# After a longer pause it is unknown when the energy was used.
_LONGEST_INTERVAL_S: Final = 15.0
_ENDED: Final = Limit("ended_gpu_calls", 4096, "Calls on a GPU that ended since the last reading")


@dataclass(frozen=True, slots=True)
class CallEnergy:
    """Energy of one call: its share, and the share minus the energy of the idle GPUs."""

    joules: float
    above_idle_joules: float | None  # None if the GPUs were not observed idle
    attribution: Attribution  # shared if another call was in flight on the same GPUs


@dataclass(slots=True, eq=False)
class _EnergyShare:
    """Energy of one call so far. The mappings are by device."""

    engine: str
    start_s: float
    end_s: float | None = None  # None while the call is in flight
    shared: bool = False
    joules: dict[str, float] = field(default_factory=dict[str, float])
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    updates: dict[str, int] = field(default_factory=dict[str, int])
    has_gap: bool = False  # energy of a part of the call is unknown
    # Estimated energy between the last reading and the end of the call.
    estimated_j: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, device: str, joules: float, seconds: float) -> None:
        self.joules[device] = self.joules.get(device, 0.0) + joules
        self.seconds[device] = self.seconds.get(device, 0.0) + seconds


@dataclass(slots=True)
class _Counter:
    """Energy counter of one GPU at the last reading, and mean power of the intervals before it."""

    at_s: float
    energy_j: float
    power_w: float = 0.0  # 0 after the first reading, when the power is unknown
    others: int = 0  # calls in flight in other processes during the last interval
    idle_w: deque[float] = field(default_factory=lambda: deque[float](maxlen=_IDLE_INTERVALS))


class EnergyLedger:
    """The calls in flight on the GPUs of this machine, and the energy of each so far."""

    def __init__(self) -> None:
        # Weak keys: a span that is never ended would otherwise stay in flight forever.
        self._calls: WeakKeyDictionary[object, _EnergyShare] = WeakKeyDictionary()
        self._ended: deque[_EnergyShare] = deque(maxlen=_ENDED.most)
        self._counters: dict[str, _Counter] = {}
        self._devices: dict[str, frozenset[str]] = {}
        # Reentrant: the garbage collector may end a span at any point, also while the lock is held.
        self._lock = threading.RLock()

    def start(self, key: object, engine: str, at_s: float) -> bool:
        """Register a call. Return whether the energy counters should be read now.

        `place` assigns GPUs to engines, before or later. Only a weak reference to `key` is kept.
        """
        with self._lock:
            engines = {call.engine for call in self._calls.values()}
            self._calls[key] = _EnergyShare(engine, at_s)
            devices = self._devices.get(engine)
            if devices is None:
                return True  # the GPUs of the engine must be looked up
            busy = frozenset[str]().union(*(self._devices.get(each, ()) for each in engines))
            return not devices <= busy  # an idle interval ends here

    def is_open(self, key: object) -> bool:
        """Return whether a call is in flight."""
        return key in self._calls

    def place(self, devices: Mapping[str, frozenset[str]]) -> None:
        """Set the GPUs, by UUID, on which each engine runs."""
        with self._lock:
            self._devices = dict(devices)

    def engines_in_flight(self) -> set[str]:
        """Return the engines of the calls in flight."""
        with self._lock:
            return {call.engine for call in self._calls.values()}

    def calls_in_flight(self) -> dict[str, int]:
        """Return the number of calls in flight on each device."""
        with self._lock:
            counts: dict[str, int] = {}
            for call in self._calls.values():
                for device in self._devices.get(call.engine, ()):
                    counts[device] = counts.get(device, 0) + 1
            return counts

    def is_busy(self) -> bool:
        """Return whether a call is known to be in flight on a GPU of this machine."""
        with self._lock:
            return any(self._devices.get(call.engine) for call in self._calls.values())

    def finish(self, key: object, at_s: float) -> CallEnergy | None:
        """End a call and return its energy.

        Returns `None` if the call was too short, or if the counter of one of its GPUs is missing or
        was not readable during a part of the call.
        """
        with self._lock:
            call = self._calls.pop(key, None)
            devices = self._devices.get(call.engine) if call else None
            if call is None or not devices or not devices <= self._counters.keys():
                return None
            call.end_s = end_s = max(at_s, call.start_s)
            _ENDED.append(self._ended, call)
            if call.has_gap or any(self._is_unknown(call, each, end_s) for each in devices):
                return None
            self._estimate_tail(call, end_s, devices)
            return self._cost(call, devices)

    def settle(
        self,
        readings: Mapping[str, tuple[float, float | None]],
        idle: Iterable[str] = (),
        other_processes: Mapping[str, int] | None = None,
    ) -> None:
        """Divide the increase of the counters since the last reading among the calls.

        Readings are times and counter values in joules, `None` for one that could not be read: the
        next one then covers both intervals. `other_processes` are calls in flight.
        """
        idle = frozenset(idle)
        with self._lock:
            for device, (at_s, now_j) in readings.items():
                others = other_processes.get(device, 0) if other_processes else 0
                if now_j is not None:
                    self._settle_one(device, at_s, now_j, others, idle=device in idle)
            for device in self._counters.keys() - readings.keys():
                self._mark_gap(device)
                del self._counters[device]
            self._ended.clear()

    def clear(self) -> None:
        """Remove all calls and counters."""
        with self._lock:
            self._calls.clear()
            self._ended.clear()
            self._counters.clear()

    def after_fork(self) -> None:
        """Reset in a forked child: the calls belong to the parent, and the lock may have been held."""
        self._lock = threading.RLock()
        self._calls = WeakKeyDictionary()
        self._ended.clear()

    def _settle_one(
        self, device: str, at_s: float, now_j: float, others: int, *, idle: bool
    ) -> None:
        counter = self._counters.get(device)
        if counter is None or now_j < counter.energy_j or at_s - counter.at_s > _LONGEST_INTERVAL_S:
            # First reading, reloaded driver, or a long pause.
            if counter is not None:
                self._mark_gap(device)
            idle_w = deque[float](maxlen=_IDLE_INTERVALS) if counter is None else counter.idle_w
            self._counters[device] = _Counter(at_s, now_j, others=others, idle_w=idle_w)
            return
        duration_s, used_j = at_s - counter.at_s, now_j - counter.energy_j
        if duration_s <= 0:
            return
        on_it = self._on(device)
        counter.power_w = used_j / duration_s
        counter.others = others
        if idle and not on_it and not others:
            counter.idle_w.append(counter.power_w)
        self._divide(device, on_it, counter, at_s)
        if used_j:
            for call in on_it:
                call.updates[device] = call.updates.get(device, 0) + 1
        counter.at_s, counter.energy_j = at_s, now_j

    def _divide(
        self, device: str, on_it: list[_EnergyShare], counter: _Counter, until_s: float
    ) -> None:
        power_w = counter.power_w
        parts_s = _parts(on_it, counter.at_s, until_s, counter.others)
        still_open: list[tuple[_EnergyShare, float]] = []
        mistaken_j = 0.0
        for call, part_s in zip(on_it, parts_s, strict=True):
            if call.end_s is None:
                still_open.append((call, part_s))
            elif device in call.estimated_j:  # no energy is reported for shorter calls
                mistaken_j += power_w * part_s - call.estimated_j[device]
        open_s = sum(part_s for _, part_s in still_open)
        for call, part_s in still_open:
            correction_j = mistaken_j * part_s / open_s if open_s else 0.0
            call.add(device, power_w * part_s + correction_j, part_s)

    def _estimate_tail(self, call: _EnergyShare, end_s: float, devices: Iterable[str]) -> None:
        for device in devices:
            counter = self._counters[device]
            on_it = self._on(device)
            part_s = _parts(on_it, counter.at_s, end_s, counter.others)[on_it.index(call)]
            call.estimated_j[device] = counter.power_w * part_s
            call.add(device, call.estimated_j[device], part_s)

    def _is_unknown(self, call: _EnergyShare, device: str, end_s: float) -> bool:
        is_stale = end_s - self._counters[device].at_s > _LONGEST_INTERVAL_S
        return is_stale or call.updates.get(device, 0) < MIN_UPDATES

    def _mark_gap(self, device: str) -> None:
        for call in self._on(device):
            call.has_gap = True

    def _on(self, device: str) -> list[_EnergyShare]:
        everyone = (*self._calls.values(), *self._ended)
        return [call for call in everyone if device in self._devices.get(call.engine, ())]

    def _cost(self, call: _EnergyShare, devices: Iterable[str]) -> CallEnergy:
        joules = sum(call.joules.values())
        idle_j = self._idle_joules(call, devices)
        return CallEnergy(
            joules=max(0.0, joules),
            above_idle_joules=None if idle_j is None else max(0.0, joules - idle_j),
            attribution="shared" if call.shared else "exclusive",
        )

    def _idle_joules(self, call: _EnergyShare, devices: Iterable[str]) -> float | None:
        total_j = 0.0
        for device in devices:
            idle_w = self._counters[device].idle_w
            if not idle_w:
                return None
            total_j += sum(idle_w) / len(idle_w) * call.seconds.get(device, 0.0)
        return total_j


def _parts(calls: list[_EnergyShare], start_s: float, until_s: float, others: int) -> list[float]:
    """Return the seconds of an interval that belong to each call, with each moment divided equally.

    Sets `shared` on calls that were in flight at the same time as others.

    The `others`, calls of other processes, are assumed to be in flight all the time.
    """
    spans: list[tuple[float, float]] = []
    for call in calls:
        end_s = until_s if call.end_s is None else min(until_s, call.end_s)
        spans.append((min(max(start_s, call.start_s), end_s), end_s))
    changes: dict[float, int] = {}
    for begin_s, end_s in spans:
        changes[begin_s] = changes.get(begin_s, 0) + 1
        changes[end_s] = changes.get(end_s, 0) - 1
    # By time: the share of a call that is in flight from the start, and the time shared so far.
    got: dict[float, tuple[float, float]] = {}
    present, part_s, shared_s, before_s = 0, 0.0, 0.0, start_s
    for moment_s in sorted(changes):
        if present:
            part_s += (moment_s - before_s) / (present + others)
        if present + others > 1:
            shared_s += moment_s - before_s
        present += changes[moment_s]
        before_s = moment_s
        got[moment_s] = (part_s, shared_s)
    for call, (begin_s, end_s) in zip(calls, spans, strict=True):
        call.shared = call.shared or got[end_s][1] > got[begin_s][1]
    return [got[end_s][0] - got[begin_s][0] for begin_s, end_s in spans]
