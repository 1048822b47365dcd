"""Occupancy of a server over time, from all known calls to it.

The requests in processing form a step function of time. Its integrals are prefix sums, so that the
time of a call beside other calls costs two binary searches, not a comparison with each of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_SCANNED = 200
_HANDOVER_MS = 5.0
_PEAK_SHARE = 0.01


class Hold(NamedTuple):
    """A request in processing, from `start` over the end of its prefill to `end`, in ms.

    Attributes:
        name: Name of the call for evidence.
        tokens: Prompt tokens that the prefill processed.
    """

    start: float
    prefilled: float
    end: float
    tokens: int
    name: str


class _State(NamedTuple):
    held: int
    prefilling: int
    decoding: int
    tokens_per_ms: float


class Occupancy:
    """Step function of the requests in processing, and its integrals.

    Attributes:
        peak: Largest number of requests in processing at once.
    """

    def __init__(self, holds: Sequence[Hold]) -> None:
        self._holds = sorted(holds)
        self._starts = [hold.start for hold in self._holds]
        self._longest = max((hold.end - hold.start for hold in self._holds), default=0.0)
        changes: list[tuple[float, int, int, int, float]] = []
        for hold in self._holds:
            prefill_ms = hold.prefilled - hold.start
            rate = hold.tokens / prefill_ms if prefill_ms > 0 else 0.0
            changes += [
                (hold.start, 1, 1, 0, rate),
                (hold.prefilled, 0, -1, 1, -rate),
                (hold.end, -1, 0, -1, 0.0),
            ]
        changes.sort()
        self._times: list[float] = []
        self._states: list[_State] = []
        held = prefilling = decoding = 0
        rate = 0.0
        for time, more, prefills, decodes, speed in changes:
            held, prefilling, decoding = held + more, prefilling + prefills, decoding + decodes
            rate = rate + speed if prefilling else 0.0
            state = _State(held, prefilling, decoding, rate)
            if self._times and self._times[-1] == time:
                self._states[-1] = state
            else:
                self._times.append(time)
                self._states.append(state)
        self.peak = _peak(self._holds)
        self._sums: dict[str, Sequence[float]] = {}

    def held_ms(self, start: float, end: float, *, least: int) -> float:
        """Return the ms with at least `least` requests in processing."""
        return self._integral(f"held{least}", lambda state: state.held >= least, start, end)

    def prefilling_ms(self, start: float, end: float, *, slots: int) -> float:
        """Return the ms with a prefill in progress and fewer than `slots` requests."""
        return self._integral(
            f"free{slots}", lambda state: state.prefilling and state.held < slots, start, end
        )

    def decoding_ms(self, start: float, end: float, *, least: int) -> float:
        """Return the ms with at least `least` requests in their decode."""
        return self._integral(f"decoding{least}", lambda state: state.decoding >= least, start, end)

    def prompt_tokens(self, start: float, end: float) -> float:
        """Return the prompt tokens that all prefills processed, spread evenly over each one."""
        return self._integral("tokens", lambda state: state.tokens_per_ms, start, end)

    def beside(self, start: float, end: float, *, prefill: bool = False) -> list[Hold]:
        """Return the requests in processing, or in their prefill, largest overlap first.

        Looks back over a limited number of requests, because it only serves evidence.
        """
        last = bisect_right(self._starts, end)
        first = max(bisect_left(self._starts, start - self._longest), last - _MAX_SCANNED, 0)
        found: list[tuple[float, Hold]] = []
        for hold in self._holds[first:last]:
            until = hold.prefilled if prefill else hold.end
            overlap = min(end, until) - max(start, hold.start)
            if overlap > 0:
                found.append((-overlap, hold))
        return [hold for _, hold in sorted(found)]

    def _integral(
        self, key: str, value: Callable[[_State], float], start: float, end: float
    ) -> float:
        if end <= start or not self._times:
            return 0.0
        sums = self._sums.get(key)
        if sums is None:
            times = self._times
            pieces = (
                float(value(state)) * (after - before)
                for state, before, after in zip(self._states, times, times[1:], strict=False)
            )
            # An array, because a list of floats takes four times the memory.
            sums = self._sums[key] = array("d", accumulate(pieces, initial=0.0))
        return max(0.0, self._until(end, sums, value) - self._until(start, sums, value))

    def _until(self, time: float, sums: Sequence[float], value: Callable[[_State], float]) -> float:
        at = bisect_left(self._times, time) - 1
        if at < 0:
            return 0.0
        return sums[at] + float(value(self._states[at])) * (time - self._times[at])


def _peak(holds: Sequence[Hold]) -> int:
    """Return the largest number of requests at once that is not just a moment.

    Ends and starts are seen at the client, and late on a busy machine or behind a proxy, so that a
    slot seems to hold two requests for a moment.
    """
    changes = sorted(
        change
        for hold in holds
        if hold.end - hold.start > 2 * _HANDOVER_MS
        for change in ((hold.start + _HANDOVER_MS, 1), (hold.end - _HANDOVER_MS, -1))
    )
    lasted: defaultdict[int, float] = defaultdict(float)
    levels = accumulate(change for _, change in changes)
    for level, (start, _), (end, _) in zip(levels, changes, changes[1:], strict=False):
        lasted[level] += end - start
    least = _PEAK_SHARE * sum(ms for level, ms in lasted.items() if level)
    peak, at_least_peak = max(lasted, default=0), 0.0
    while peak and (at_least_peak := at_least_peak + lasted[peak]) <= least:
        peak -= 1
    return peak
