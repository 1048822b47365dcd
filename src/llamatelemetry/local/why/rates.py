"""Rates of a server, measured from its undisturbed calls.

Prefill time is linear in the number of processed prompt tokens. The line is a Theil-Sen estimate:
the median of the slopes between pairs of calls, which a few slow calls do not move (P. K. Sen,
Journal of the American Statistical Association 63, 1968).
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry.local.why.explanation import ServerRates
from llamatelemetry.local.why.phases import sent_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llamatelemetry.local.why.calls import Call
    from llamatelemetry.local.why.occupancy import Occupancy

MIN_UNDISTURBED: Final = 6
_QUIET_SHARE: Final = 0.12
_HANDOVER_MS: Final = 5.0
_WORK: Final = ("prefill", "decode")
_MAX_POINTS: Final = 200
"""Points of a line. Their pairs, about 20,000, bound the cost."""
_MIN_TOKEN_SPREAD: Final = 16


def measure_rates(
    calls: Sequence[Call], occupancy: Occupancy | None
) -> Mapping[str | None, ServerRates]:
    """Return the rates of each model among the calls to one server in one run.

    Args:
        calls: Calls that `place()` has placed.
        occupancy: Requests in processing on the server; `None` for an engine in the process.
    """
    by_model: defaultdict[str | None, list[Call]] = defaultdict(list)
    for call in calls:
        by_model[call.recorded.model].append(call)
    slots = max((call.slots for call in calls if call.slots), default=None)
    return {model: _measured(group, occupancy, slots) for model, group in by_model.items()}


def _measured(calls: Sequence[Call], occupancy: Occupancy | None, slots: int | None) -> ServerRates:
    alone = [call for call in calls if _is_undisturbed(call, occupancy)]
    quiet = [call for call in alone if _cpu_wait_share(call) < _QUIET_SHARE]
    chosen = quiet if len(quiet) >= MIN_UNDISTURBED else alone
    prefill = decode = None
    if len(chosen) >= MIN_UNDISTURBED:
        prefill = fit_line([(call.processed or 0, _undelayed(call, "prefill")) for call in chosen])
        decode = fit_ratio(
            [
                ((call.recorded.output_tokens or 0) - 1, _undelayed(call, "decode"))
                for call in chosen
            ]
        )
    first = calls[0]
    return ServerRates(
        server=first.server,
        model=first.recorded.model,
        run=first.run,
        calls=len(calls),
        undisturbed=len(chosen),
        prefill_ms_per_token=prefill.slope if prefill else None,
        prefill_base_ms=prefill.base if prefill else 0.0,
        prefill_spread_ms=prefill.spread if prefill else 0.0,
        decode_ms_per_token=decode.slope if decode else None,
        decode_spread=decode.spread if decode else 0.0,
        wait_ms=_usual(_waits(chosen, occupancy)),
        stream_ms=_usual(call.arrived - call.decoded for call in chosen),
        prepare_ms=_usual(_prepare_ms(call) for call in calls if call.sent is not None),
        connect_ms=_usual(call.connect[1] - call.connect[0] for call in calls if call.connect),
        slots=slots or (occupancy.peak if occupancy else None) or None,
        is_slots_seen=slots is None,
    )


def _is_undisturbed(call: Call, occupancy: Occupancy | None) -> bool:
    """Return whether the server ran, and processed nothing else during the call's phases."""
    if not call.has_phases or call.recorded.error is not None:
        return False
    if any(times.stopped for times in call.process.values()):
        return False
    start, end = call.at + call.go, call.at + call.decoded
    return occupancy is None or occupancy.held_ms(start, end, least=2) <= _HANDOVER_MS


def _cpu_wait_share(call: Call) -> float:
    waited = sum(call.process[phase].run_delay for phase in _WORK if phase in call.process)
    return waited / max(call.decoded - call.go, 1.0)


def _undelayed(call: Call, phase: str) -> float:
    """Return the duration of a phase without the wait of the server process for a CPU."""
    measured = (call.prefill if phase == "prefill" else call.decode) or 0.0
    times = call.process.get(phase)
    return measured if times is None else max(measured - times.run_delay, 0.0)


def _waits(calls: Iterable[Call], occupancy: Occupancy | None) -> Iterator[float]:
    """Yield the waits before processing, without the server's queue and its wait for a CPU."""
    for call in calls:
        sent = sent_at(call)
        start, end = call.at + sent, call.at + call.go
        if occupancy is None or occupancy.held_ms(start, end, least=1) <= _HANDOVER_MS:
            delay = call.process["queue"].run_delay if "queue" in call.process else 0.0
            queue = (call.queue or 0.0) if call.queue_source == "engine" else 0.0
            yield max(call.go - sent - delay - queue, 0.0)


def _prepare_ms(call: Call) -> float:
    starts = [call.sent or 0.0]
    starts += [attempt.at for attempt in call.attempts[:1]]
    starts += [call.connect[0]] if call.connect else []
    return min(starts)


def _usual(values: Iterable[float]) -> float | None:
    """Return the median of enough values to call it usual."""
    found = list(values)
    return median(found) if len(found) >= MIN_UNDISTURBED else None


class Line(NamedTuple):
    """`base + slope * x`, and twice the median of the absolute deviations from it."""

    base: float
    slope: float
    spread: float

    def at(self, x: float) -> float:
        """Return the value at `x`."""
        return self.base + self.slope * x


def fit_line(points: Sequence[tuple[float, float]]) -> Line | None:
    """Return the Theil-Sen line through points, or `None` without a positive slope.

    Without a spread of the x values, the line goes through the origin.
    """
    chosen = _thinned(sorted(points))
    chosen = [point for point in chosen if point[0] > 0]
    if not chosen:
        return None
    slopes: list[float] = []
    if chosen[-1][0] - chosen[0][0] >= _MIN_TOKEN_SPREAD:
        slopes = [
            (y2 - y1) / (x2 - x1)
            for number, (x1, y1) in enumerate(chosen)
            for x2, y2 in chosen[number + 1 :]
            if x2 - x1 >= 1
        ]
    slope = median(slopes) if slopes else 0.0
    base = median(y - slope * x for x, y in chosen)
    if slope <= 0 or base < 0:
        # Too few different lengths, or curved: the mean rate of each call is the better estimate.
        base, slope = 0.0, median(y / x for x, y in chosen)
    if slope <= 0:
        return None
    return Line(base, slope, 2 * median(abs(y - base - slope * x) for x, y in chosen))


def fit_ratio(points: Sequence[tuple[float, float]]) -> Line | None:
    """Return the line through the origin with the median ratio; its spread is relative."""
    ratios = [y / x for x, y in points if x > 0]
    if not ratios or (slope := median(ratios)) <= 0:
        return None
    return Line(0.0, slope, 2 * median(abs(ratio / slope - 1) for ratio in ratios))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _MAX_POINTS:
        return list(points)
    step = len(points) / _MAX_POINTS
    return [points[int(number * step)] for number in range(_MAX_POINTS)]
