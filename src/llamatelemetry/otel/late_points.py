"""Points of calls, made and recorded when they are asked for or have become some dozens.

A call of a model makes a handful of points. Made and recorded one call at a time they cost a
third of all that we add to it, most of it in fetching code and data into the processor's cache
that the call has no other use for. Together, those of some dozens of calls take a fraction.

Calls of one series have points in the same places, and only their values differ: of such a call
the values alone are kept.

Nobody can see the difference: whoever collects from a meter runs the callbacks of its observable
instruments first, and one of them, which observes nothing, brings what is waiting. A series
begins with its first point, so what may begin one does not wait. Exemplars have the times and
the spans of their calls.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, overload
from weakref import WeakSet

from llamatelemetry.otel.points import Moment, record_each, record_moments, sdks_histogram

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
    from opentelemetry.trace import SpanContext

    from llamatelemetry.otel.points import AttributeSet, Point

    Place = tuple[Counter | Histogram, AttributeSet]
    # The values of a call of a known layout; or a call, and what gives its points.
    _Call = tuple["Layout | Callable[[Any], Iterable[Point]]", Any, int, SpanContext]

COLLECTED: Final = "llamatelemetry.collected"
"""Name of the instrument that is told of each collection. It has no points."""

_AT_MOST: Final = 32  # calls; the last of them takes some 0.3 ms longer
_SERIES_AT_MOST: Final = 2048

Measured = TypeVar("Measured")


class Layout(NamedTuple):
    """The points that every call of a series has.

    Attributes:
        places: the instrument and the attributes of each.
        read: reads the values of a call, one for each place.
    """

    places: tuple[Place, ...]
    read: Callable[[Any], Sequence[float]]


_UNKNOWN: Final = Layout((), list)


class LatePoints(Generic[Measured]):
    """Where what was measured of calls is recorded.

    Args:
        meter: of all instruments that have points of it.
        histogram: one of them.
        points_of: gives the points of one call, and raises nothing. The call is kept until then:
            it must not change.
        layout_of: gives the layout of a call's series; ``None`` where it has none.
    """

    def __init__(
        self,
        meter: Meter,
        histogram: Histogram,
        points_of: Callable[[Measured], Iterable[Point]],
        layout_of: Callable[[Measured], Layout | None] = lambda _: None,
    ) -> None:
        meter.create_observable_gauge(COLLECTED, [_at_collection])
        self._histogram = histogram
        self._points_of = points_of
        self._layout_of = layout_of
        self._sdks: object = None
        self._begun: dict[Hashable, Layout | None] = {}
        _waiting.of.add(self)

    def forget_series(self) -> None:
        """Let no series have begun."""
        self._sdks, self._begun = None, {}

    def record(self, call: Measured, series: Hashable, span: SpanContext, context: Context) -> None:
        """Record the points of a call, at the latest when they are collected.

        Args:
            call: what was measured of it.
            series: what tells apart the series that it has points in, and so its layout.
            span: that exemplars lead to.
            context: with that span in it.
        """
        sdks = sdks_histogram(self._histogram)
        if sdks is None:
            record_each(self._points_of(call), context)
            return
        if sdks is not self._sdks:  # a new SDK, where no series has begun
            self._sdks, self._begun = sdks, {}
        layout = self._begun.get(series, _UNKNOWN)
        begins = layout is _UNKNOWN
        if begins:
            layout = None
            if len(self._begun) < _SERIES_AT_MOST:
                layout = self._begun[series] = self._layout_of(call)
        if layout is None:
            _waiting.calls.append((self._points_of, call, time_ns(), span))
        else:
            _waiting.calls.append((layout, layout.read(call), time_ns(), span))
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
        times: list[tuple[int, SpanContext]] = []
        rows: dict[int, _Rows] = {}
        columns: dict[tuple[int, int], _Column] = {}
        while _waiting.calls:
            source, call, now_ns, span = _waiting.calls.popleft()
            if isinstance(source, Layout):
                of_layout = rows.get(id(source))
                if of_layout is None:  # where it is held: nothing else gets its id
                    of_layout = rows[id(source)] = _Rows(source, [], [])
                of_layout.values.append(call)
                of_layout.calls.append(len(times))
            else:
                for instrument, value, attributes in source(call):
                    _column(columns, instrument, attributes).add([value], [len(times)])
            times.append((now_ns, span))
        for layout, values, calls in rows.values():
            for place, of_place in zip(layout.places, zip(*values, strict=True), strict=True):
                _column(columns, *place).add(of_place, calls)
        made: dict[int, Moment] = {}
        for column in columns.values():
            column.record(times, made)
    finally:
        _waiting.lock.release()


class _Rows(NamedTuple):
    """The calls of a layout."""

    layout: Layout
    values: list[Sequence[float]]
    calls: list[int]
    """Their numbers, oldest first."""


class _Column:
    """Values of an instrument with the same attributes."""

    __slots__ = ("_attributes", "_calls", "_instrument", "_is_in_order", "_values")

    def __init__(self, instrument: Counter | Histogram, attributes: AttributeSet) -> None:
        self._instrument = instrument
        self._attributes = attributes
        self._values: list[float] = []
        self._calls: list[int] = []
        self._is_in_order = True

    def add(self, values: Sequence[float], calls: Sequence[int]) -> None:
        """Take in values, and the numbers of the calls that they are of, oldest first."""
        self._is_in_order &= not self._calls or self._calls[-1] <= calls[0]
        self._values += values
        self._calls += calls

    def record(self, times: Sequence[tuple[int, SpanContext]], made: dict[int, Moment]) -> None:
        """Record them; ``made`` keeps the moments of calls for other columns."""
        values, calls = self._values, self._calls
        if not self._is_in_order:
            order = sorted(range(len(calls)), key=calls.__getitem__)
            values, calls = [values[at] for at in order], [calls[at] for at in order]
        moments = _Moments(times, made, calls)
        record_moments(self._instrument, self._attributes, values, moments)


def _column(
    columns: dict[tuple[int, int], _Column],
    instrument: Counter | Histogram,
    attributes: AttributeSet,
) -> _Column:
    key = (id(instrument), id(attributes))
    found = columns.get(key)
    if found is None:  # where both are held
        found = columns[key] = _Column(instrument, attributes)
    return found


class _Moments(Sequence["Moment"]):
    """The moments of some calls. Few are looked at, and these are made once for all columns."""

    def __init__(
        self, times: Sequence[tuple[int, SpanContext]], made: dict[int, Moment], calls: list[int]
    ) -> None:
        self._times = times
        self._made = made
        self._calls = calls

    def __len__(self) -> int:
        return len(self._calls)

    @overload
    def __getitem__(self, place: int) -> Moment: ...
    @overload
    def __getitem__(self, place: slice) -> list[Moment]: ...
    def __getitem__(self, place: int | slice) -> Moment | list[Moment]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        number = self._calls[place]
        if number not in self._made:
            now_ns, span = self._times[number]
            self._made[number] = Moment(span=span, now_ns=now_ns)
        return self._made[number]
