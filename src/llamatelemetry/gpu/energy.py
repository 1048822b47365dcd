"""What a request costs in energy: the GPU's counter, shared among the calls in flight.

The rule: at each moment the power of a GPU belongs in equal parts to the calls in flight on it,
those of other processes among them;
of a moment without a call it belongs to nobody. So the shares of all calls add up to what the
counter went up by while there were any.

The counter is read every 100 ms while calls are in flight. The piece between the last reading
and the end of a call is not known when the call ends, and is estimated from the power before.
When the next reading comes, what was estimated wrongly goes to the calls that are still open.

Times are seconds of `time.monotonic`. The sampler's thread calls `settle`, any other the rest.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Attribution = Literal["exclusive", "shared"]

MIN_UPDATES: Final = 10
"""Steps of the counter that a call must span: it steps 10 to 100 ms, so a single one says little."""
_IDLE_PIECES: Final = 10
# A reading after a pause as long as this says nothing of when the energy was used.
_LONGEST_PIECE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class CallEnergy:
    """What one call has cost. Joules.

    Attributes:
        joules: its share.
        above_idle_joules: without what the GPUs would have used idle; None when they have not
            been seen idle.
        attribution: whether another call was in flight on the same GPUs in its time.
    """

    joules: float
    above_idle_joules: float | None
    attribution: Attribution


@dataclass(slots=True, eq=False)
class _Call:
    engine: str
    start_s: float
    end_s: float | None = None
    shared: bool = False
    joules: dict[str, float] = field(default_factory=dict[str, float])
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    """Of each device's time, the part that was this call's."""
    updates: dict[str, int] = field(default_factory=dict[str, int])
    estimated: dict[str, float] = field(default_factory=dict[str, float])
    """Joules of the piece that was open when the call ended."""

    def add(self, device: str, joules: float, seconds: float) -> None:
        self.joules[device] = self.joules.get(device, 0.0) + joules
        self.seconds[device] = self.seconds.get(device, 0.0) + seconds


@dataclass(slots=True)
class _Counter:
    """One GPU's counter."""

    at_s: float
    energy_j: float
    power_w: float | None = None
    """Over the piece before."""
    others: int = 0
    """Calls in flight in other processes, then."""
    idle_w: deque[float] = field(default_factory=lambda: deque[float](maxlen=_IDLE_PIECES))


class EnergyLedger:
    """The calls in flight on this machine's GPUs, and what each has used so far."""

    def __init__(self) -> None:
        # Weakly: a span that is dropped without being ended would be in flight for ever.
        self._calls: WeakKeyDictionary[object, _Call] = WeakKeyDictionary()
        self._ended: list[_Call] = []
        self._counters: dict[str, _Counter] = {}
        self._devices: dict[str, frozenset[str]] = {}
        # Reentrant: the garbage collector may close a generator, and end the span in it, anywhere.
        self._lock = threading.RLock()

    def begin(self, key: object, engine: str, at_s: float) -> bool:
        """Note that a call has begun. Whether the counters had better be read now.

        Args:
            key: to end it by; it is kept by a weak reference.
            engine: what runs it; `place` says on which GPUs that is, then or later.
            at_s: when.
        """
        with self._lock:
            engines = {call.engine for call in self._calls.values()}
            self._calls[key] = _Call(engine, at_s)
            devices = self._devices.get(engine)
            if devices is None:
                return True  # where it runs has to be looked up
            busy = frozenset[str]().union(*(self._devices.get(each, ()) for each in engines))
            return not devices <= busy  # what was idle ends here

    def is_open(self, key: object) -> bool:
        """Whether this call is in flight."""
        return key in self._calls

    def place(self, devices: Mapping[str, frozenset[str]]) -> None:
        """Say on which GPUs, by UUID, each engine runs."""
        with self._lock:
            self._devices = dict(devices)

    def engines_in_flight(self) -> set[str]:
        """Give the engines that calls are in flight on, wherever those run."""
        with self._lock:
            return {call.engine for call in self._calls.values()}

    def calls_in_flight(self) -> dict[str, int]:
        """Give the number of calls in flight on each device."""
        with self._lock:
            counts: dict[str, int] = {}
            for call in self._calls.values():
                for device in self._devices.get(call.engine, ()):
                    counts[device] = counts.get(device, 0) + 1
            return counts

    def is_busy(self) -> bool:
        """Whether a call is in flight on one of the GPUs, as far as that is known."""
        with self._lock:
            return any(self._devices.get(call.engine) for call in self._calls.values())

    def end(self, key: object, at_s: float) -> CallEnergy | None:
        """Note that a call has ended, and give what it cost.

        ``None`` when it was too short to tell, or one of its GPUs has no counter.
        """
        with self._lock:
            call = self._calls.pop(key, None)
            devices = self._devices.get(call.engine) if call else None
            if call is None or not devices or not devices <= self._counters.keys():
                return None
            call.end_s = max(at_s, call.start_s)
            self._ended.append(call)
            if any(call.updates.get(device, 0) < MIN_UPDATES for device in devices):
                return None
            self._estimate_tail(call, call.end_s, devices)
            return self._cost(call, devices)

    def settle(
        self,
        readings: Mapping[str, tuple[float, float]],
        idle: Iterable[str] = (),
        elsewhere: Mapping[str, int] | None = None,
    ) -> None:
        """Share out what the counters went up by since the last reading.

        Args:
            readings: of the devices that have a counter: when it was read, and its joules.
            idle: the devices on which nothing ran.
            elsewhere: calls in flight on each device in other processes: they have their share.
        """
        idle = frozenset(idle)
        with self._lock:
            for device, (at_s, now_j) in readings.items():
                others = elsewhere.get(device, 0) if elsewhere else 0
                self._settle_one(device, at_s, now_j, others, idle=device in idle)
            for device in self._counters.keys() - readings.keys():
                del self._counters[device]
            self._ended.clear()

    def forget(self) -> None:
        """Forget everything: of another process, or of devices that are gone."""
        with self._lock:
            self._calls.clear()
            self._ended.clear()
            self._counters.clear()

    def after_fork(self) -> None:
        """In the child: the calls are the parent's, and the lock may have been held."""
        self._lock = threading.RLock()
        self._calls = WeakKeyDictionary()
        self._ended = []

    def _settle_one(
        self, device: str, at_s: float, now_j: float, others: int, *, idle: bool
    ) -> None:
        counter = self._counters.get(device)
        if counter is None or now_j < counter.energy_j or at_s - counter.at_s > _LONGEST_PIECE_S:
            # The first reading, a driver that was loaded anew, or nobody looked for long.
            idle_w = deque[float](maxlen=_IDLE_PIECES) if counter is None else counter.idle_w
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
        self._share_out(device, on_it, counter, at_s)
        if used_j:
            for call in on_it:
                call.updates[device] = call.updates.get(device, 0) + 1
        counter.at_s, counter.energy_j = at_s, now_j

    def _share_out(
        self, device: str, on_it: list[_Call], counter: _Counter, until_s: float
    ) -> None:
        power_w = counter.power_w or 0.0
        parts_s = _parts(on_it, counter.at_s, until_s, counter.others)
        still_open: list[tuple[_Call, float]] = []
        mistaken_j = 0.0
        for call, part_s in zip(on_it, parts_s, strict=True):
            if call.end_s is None:
                still_open.append((call, part_s))
            elif device in call.estimated:  # else it was too short, and has told nothing
                mistaken_j += power_w * part_s - call.estimated[device]
        open_s = sum(part_s for _, part_s in still_open)
        for call, part_s in still_open:
            correction_j = mistaken_j * part_s / open_s if open_s else 0.0
            call.add(device, power_w * part_s + correction_j, part_s)

    def _estimate_tail(self, call: _Call, end_s: float, devices: Iterable[str]) -> None:
        for device in devices:
            counter = self._counters[device]
            if counter.power_w is None or end_s - counter.at_s > _LONGEST_PIECE_S:
                continue
            on_it = self._on(device)
            part_s = _parts(on_it, counter.at_s, end_s, counter.others)[on_it.index(call)]
            call.estimated[device] = counter.power_w * part_s
            call.add(device, call.estimated[device], part_s)

    def _on(self, device: str) -> list[_Call]:
        everyone = (*self._calls.values(), *self._ended)
        return [call for call in everyone if device in self._devices.get(call.engine, ())]

    def _cost(self, call: _Call, devices: Iterable[str]) -> CallEnergy:
        joules = sum(call.joules.values())
        idle_j = self._idle_joules(call, devices)
        return CallEnergy(
            joules=max(0.0, joules),
            above_idle_joules=None if idle_j is None else max(0.0, joules - idle_j),
            attribution="shared" if call.shared else "exclusive",
        )

    def _idle_joules(self, call: _Call, devices: Iterable[str]) -> float | None:
        total_j = 0.0
        for device in devices:
            idle_w = self._counters[device].idle_w
            if not idle_w:
                return None
            total_j += sum(idle_w) / len(idle_w) * call.seconds.get(device, 0.0)
        return total_j


def _parts(calls: list[_Call], start_s: float, until_s: float, others: int) -> list[float]:
    """Seconds between two times that belong to each call, when each moment is shared equally.

    ``others`` are calls of other processes, in flight all the time as far as is known. Marks the
    calls that shared any moment as shared.
    """
    spans: list[tuple[float, float]] = []
    for call in calls:
        end_s = until_s if call.end_s is None else min(until_s, call.end_s)
        spans.append((min(max(start_s, call.start_s), end_s), end_s))
    changes: dict[float, int] = {}
    for begin_s, end_s in spans:
        changes[begin_s] = changes.get(begin_s, 0) + 1
        changes[end_s] = changes.get(end_s, 0) - 1
    # Up to each moment: what a call present all the time would have got, and the time shared.
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
