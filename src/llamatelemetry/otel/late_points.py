"""Points of calls, made and recorded when they are asked for or have become some dozens.

A call of a model makes a handful of points. Made and recorded one call at a time they cost a
third of all that we add to it, most of it in fetching code and data into the processor's cache
that the call has no other use for. Together, those of some dozens of calls take a fraction.

Nobody can see the difference: whoever collects from a meter runs the callbacks of its observable
instruments first, and one of them, which observes nothing, brings what is waiting. A series
begins with its first point, so what may begin one does not wait. Exemplars have the times and
the spans of their calls.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakSet

from opentelemetry import trace

from llamatelemetry.otel.points import Moment, record_each, record_moments, sdks_histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
    from opentelemetry.trace import SpanContext

    from llamatelemetry.otel.points import AttributeSet, Point

    _Call = tuple[Callable[[Any], Iterable[Point]], Any, int, SpanContext]
    _Group = tuple[Counter | Histogram, AttributeSet, list[tuple[float, Moment]]]

COLLECTED: Final = "llamatelemetry.collected"
"""Name of the instrument that is told of each collection. It has no points."""

_AT_MOST: Final = 32  # calls; the last of them takes some 0.3 ms longer
_SERIES_AT_MOST: Final = 2048

Measured = TypeVar("Measured")


class LatePoints(Generic[Measured]):
    """Where what was measured of calls is recorded.

    Args:
        meter: of all instruments that have points of it.
        histogram: one of them.
        points_of: gives the points of one call, and raises nothing. The call is kept until then:
            it must not change.
    """

    def __init__(
        self,
        meter: Meter,
        histogram: Histogram,
        points_of: Callable[[Measured], Iterable[Point]],
    ) -> None:
        meter.create_observable_gauge(COLLECTED, [_at_collection])
        self._histogram = histogram
        self._points_of = points_of
        self._sdks: object = None
        self._begun: set[Hashable] = set()
        _waiting.of.add(self)

    def forget_series(self) -> None:
        """Let no series have begun."""
        self._sdks, self._begun = None, set()

    def record(self, call: Measured, series: Hashable, context: Context) -> None:
        """Record the points of a call, at the latest when they are collected.

        Args:
            call: what was measured of it.
            series: what tells apart the series that it has points in.
            context: holds the span that exemplars lead to.
        """
        sdks = sdks_histogram(self._histogram)
        if sdks is None:
            record_each(self._points_of(call), context)
            return
        if sdks is not self._sdks:  # a new SDK, where no series has begun
            self._sdks, self._begun = sdks, set()
        span = trace.get_current_span(context).get_span_context()
        _waiting.calls.append((self._points_of, call, time_ns(), span))
        begins = series not in self._begun
        if begins and len(self._begun) < _SERIES_AT_MOST:
            self._begun.add(series)
        if begins or len(_waiting.calls) >= _AT_MOST:
            _record_waiting(_waiting.lock.acquire(blocking=False))


class _Waiting:
    """The calls of all meters: a collection of one brings those of the others too."""

    def __init__(self) -> None:
        self.calls: deque[_Call] = deque()
        self.of: WeakSet[LatePoints[Any]] = WeakSet()
        # A signal handler that flushes may come in the middle of recording them.
        self.lock = threading.RLock()

    def forget(self) -> None:
        """In a forked child: they are the parent's, and so is who may have had the lock.

        Its metrics may start anew: what has begun in the parent begins once more.
        """
        self.calls.clear()
        self.lock = threading.RLock()
        for points in self.of:
            points.forget_series()


_waiting: Final = _Waiting()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.forget)


def _at_collection(_: CallbackOptions) -> Sequence[Observation]:
    _record_waiting(_waiting.lock.acquire())
    return ()


def _record_waiting(is_locked: bool) -> None:
    if not is_locked:  # whoever has the lock is recording them
        return
    try:
        groups: dict[tuple[int, int], _Group] = {}
        while _waiting.calls:
            points_of, call, now_ns, span = _waiting.calls.popleft()
            moment = Moment(span=span, now_ns=now_ns)
            for instrument, value, attributes in points_of(call):
                key = (id(instrument), id(attributes))
                if key not in groups:  # where they are held: nothing else gets their ids
                    groups[key] = (instrument, attributes, [])
                groups[key][2].append((value, moment))
        for instrument, attributes, values in groups.values():
            record_moments(instrument, values, attributes)
    finally:
        _waiting.lock.release()
