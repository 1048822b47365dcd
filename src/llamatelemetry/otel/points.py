"""Recording points of histograms and counters without paying for each what is the same for many.

Most of what ``Histogram.record`` of OpenTelemetry's SDK takes goes into the attributes: they are
copied, looked at one by one, and made into a key, for every gap between two chunks of a stream
anew although all gaps have the same, and for every call although most are like the last. An
`AttributeSet` keeps its key, and all points of a batch are recorded in one go.

What stands in for ``record`` is its own three steps, none of them public, with nothing left out:
the same points come of it, exemplars included. So it is used only with the versions of the SDK
that it has been compared with. With others, and with other makers' instruments, ``record`` is.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from math import inf
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, get_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import Counter, Histogram
    from opentelemetry.trace import SpanContext
    from opentelemetry.util.types import AttributeValue

    Point = tuple[Counter | Histogram, float, "AttributeSet"]
    _MakeKey = Callable[[Mapping[str, AttributeValue]], object]

COMPARED: Final = "1.45."
"""What versions of the SDK begin with whose ``record`` is known. A test does the comparing."""

_PLAIN: Final = frozenset({str, int, float, bool})
_KEPT_AT_MOST: Final = 64


class AttributeSet(dict[str, "AttributeValue"]):
    """Attributes of many points. It must not change: exemplars and `record_points` rely on it."""

    __slots__ = ("_key", "_more")

    def __init__(self, attributes: Mapping[str, AttributeValue]) -> None:
        super().__init__(attributes)
        self._key: object = None
        self._more: dict[tuple[str, str], AttributeSet] = {}

    def plus(self, name: str, value: str) -> AttributeSet:
        """Give the set with one more attribute, of which there are few different values."""
        more = self._more.get((name, value))
        if more is None:
            more = AttributeSet({**self, name: value})
            if len(self._more) < _KEPT_AT_MOST:
                self._more[name, value] = more
        return more

    def key(self, make_key: _MakeKey) -> object:
        """Give what the SDK tells sets apart by; ``None`` when it has to look at the values."""
        if self._key is None and _PLAIN.issuperset(map(type, self.values())):
            self._key = make_key(self)
        return self._key


def attribute_set(attributes: Mapping[str, AttributeValue]) -> AttributeSet:
    """Give attributes as a set that is kept, or as they are if they are one."""
    return attributes if type(attributes) is AttributeSet else AttributeSet(attributes)


def record_points(
    histogram: Histogram,
    values: Sequence[float],
    attributes: Mapping[str, AttributeValue],
    context: Context | None = None,
) -> None:
    """Do what ``histogram.record`` does, for each of the values.

    Args:
        histogram: any.
        values: of the points; finite, and not negative: others are passed over.
        attributes: of all of them; best an `AttributeSet`, if they will come again.
        context: holds the span that exemplars lead to; the current one when ``None``.
    """
    moment = Moment(context or get_current())
    record_moments(histogram, attribute_set(attributes), values, [moment] * len(values))


def record_each(points: Iterable[Point], context: Context | None = None) -> None:
    """Do what ``record`` and ``add`` do, for points of several instruments at one moment."""
    moments = [Moment(context or get_current())]
    for instrument, value, attributes in points:
        record_moments(instrument, attributes, [value], moments)


def record_moments(
    instrument: Counter | Histogram,
    attributes: AttributeSet,
    values: Sequence[float],
    moments: Sequence[Moment],
) -> None:
    """Do what ``record`` and ``add`` do, for values of several moments with the same attributes.

    Args:
        instrument: any.
        attributes: of all points.
        values: of the points, oldest first.
        moments: of each value; one is looked at only where it matters.
    """
    write = _write_of(instrument)
    # Behind an instrument that delegates is one that does not.
    sdks: Any = getattr(write, "__self__", None)
    make_key = _make_key_of(sdks.__class__)
    key = None if make_key is None else attributes.key(make_key)
    if key is None:
        for value, moment in zip(values, moments, strict=True):
            write(value, attributes, moment.context)
    elif values and sdks._is_enabled():
        if not (min(values) >= 0 and sum(values) < inf):
            kept = [place for place, value in enumerate(values) if 0 <= value < inf]
            values, moments = [values[at] for at in kept], [moments[at] for at in kept]
        if values:
            _Batch(sdks, attributes, values, moments).aggregate(key)


def sdks_histogram(histogram: Histogram) -> Any | None:
    """Give the histogram of the SDK behind one, if what is recorded with it may be recorded later.

    ``None`` where that might be noticed: of other makers' instruments, and where a filter of the
    application's own wants to see the context of each point.
    """
    sdks: Any = getattr(histogram.record, "__self__", None)
    if _make_key_of(sdks.__class__) is None:
        return None
    exemplar_filter = sdks._measurement_consumer._sdk_config.exemplar_filter
    return sdks if _decides_by_context(exemplar_filter.__class__) else None


def _write_of(instrument: Any) -> Callable[[float, Mapping[str, AttributeValue], Context], None]:
    return getattr(instrument, "record", None) or instrument.add


@lru_cache(maxsize=16)
def _make_key_of(kind: Any) -> _MakeKey | None:
    """What instruments of an SDK whose ``record`` is known tell attributes apart by; else ``None``."""
    if not kind.__module__.startswith("opentelemetry.sdk."):
        return None

    from opentelemetry.sdk.metrics._internal import _view_instrument_match, instrument
    from opentelemetry.sdk.version import __version__

    internal: Any = instrument
    kinds = (internal._Histogram, internal._Counter)
    if kind not in kinds or not __version__.startswith(COMPARED):
        return None
    internal = _view_instrument_match
    return internal._hash_attributes


class Moment:
    """When and in what context points are recorded.

    Args:
        context: as ``record`` is given it; or else
        span: all that is in it.
        now_ns: on the wall clock; now when ``None``.
    """

    __slots__ = ("_context", "_filter", "_is_exemplar", "_span", "now_ns")

    def __init__(
        self,
        context: Context | None = None,
        *,
        span: SpanContext | None = None,
        now_ns: int | None = None,
    ) -> None:
        self._context = context
        self._span = span
        self.now_ns = now_ns or time_ns()
        self._filter: object = None  # one that answers alike for all points, and its answer
        self._is_exemplar = False

    @property
    def context(self) -> Context:
        """The context, made when it is first asked for."""
        if self._context is None:
            self._context = Context()
            if self._span is not None and self._span.is_valid:
                span = trace.NonRecordingSpan(self._span)
                self._context = trace.set_span_in_context(span, self._context)
        return self._context

    def is_exemplar(self, exemplar_filter: Any, value: float, attributes: AttributeSet) -> bool:
        """Ask a filter about a point; one of the SDK's only once."""
        if exemplar_filter is not self._filter:
            self._is_exemplar = exemplar_filter.should_sample(
                value, self.now_ns, attributes, self.context
            )
            by_context = _decides_by_context(exemplar_filter.__class__)
            self._filter = exemplar_filter if by_context else None
        return self._is_exemplar


class _Point:
    """What the SDK's ``Measurement`` is, of attributes that need no looking at."""

    __slots__ = ("attributes", "context", "instrument", "time_unix_nano", "value")

    def __init__(self, batch: _Batch, place: int) -> None:
        moment = batch.moments[place]
        self.value = batch.values[place]
        self.time_unix_nano = moment.now_ns
        self.instrument = batch.instrument
        self.attributes = batch.attributes
        self.context = moment.context


class _Batch:
    """Values of an instrument of the SDK's with the same attributes, oldest first."""

    def __init__(
        self,
        instrument: Any,
        attributes: AttributeSet,
        values: Sequence[float],
        moments: Sequence[Moment],
    ) -> None:
        self.instrument = instrument
        self.attributes = attributes
        self.values = values
        self.moments = moments
        self._filter: Any = instrument._measurement_consumer._sdk_config.exemplar_filter

    def aggregate(self, key: object) -> None:
        """Do what comes of ``record`` in the end."""
        for storage in self.instrument._measurement_consumer._reader_storages.values():
            for match in storage._get_or_init_view_instrument_match(self.instrument):
                if match._view._attribute_keys is not None:  # it makes another set of this one
                    self._consume(match.consume_measurement)
                    continue
                # Collecting deltas throws the aggregations away: none may be added to then.
                with match._lock:
                    aggregation = match._attributes_aggregation.get(key)
                    if aggregation is None:
                        attributes = dict(self.attributes)
                        aggregation = match._get_or_create_aggregation(key, attributes)
                    if len(self.values) == 1 or type(aggregation) is not _known().histogram:
                        self._consume(aggregation.aggregate)
                    else:
                        self._add_all(aggregation)

    def _is_exemplar(self, place: int) -> bool:
        moment = self.moments[place]
        return moment.is_exemplar(self._filter, self.values[place], self.attributes)

    def _consume(self, consume: Callable[[_Point, bool], None]) -> None:
        for place in range(len(self.values)):
            consume(_Point(self, place), self._is_exemplar(place))

    def _add_all(self, aggregation: Any) -> None:
        values = self.values
        last: dict[int, int] = {}  # the place of the last value of each bucket
        with aggregation._lock:
            if aggregation._value is None:
                aggregation._value = aggregation._get_empty_bucket_counts()
            counts, boundaries = aggregation._value, aggregation._boundaries
            total = aggregation._sum
            for place, value in enumerate(values):
                total += value
                bucket = bisect_left(boundaries, value)
                counts[bucket] += 1
                last[bucket] = place
            aggregation._sum = total
            if aggregation._record_min_max:
                aggregation._min = min(aggregation._min, *values)
                aggregation._max = max(aggregation._max, *values)
        for place in self._exemplars(aggregation, last):
            aggregation._sample_exemplar(_Point(self, place), True)

    def _exemplars(self, aggregation: Any, last: Mapping[int, int]) -> Iterable[int]:
        """Give the places of the values that the SDK would keep in the end."""
        places = range(len(self.values))
        is_last_kept = type(aggregation._reservoir) is _known().last_of_bucket
        if not (is_last_kept and _decides_by_context(self._filter.__class__)):
            return [place for place in places if self._is_exemplar(place)]
        if all(map(self._is_exemplar, last.values())):
            return last.values()
        found: dict[int, int] = {}
        for place in reversed(places):
            bucket = bisect_left(aggregation._boundaries, self.values[place])
            if bucket not in found and self._is_exemplar(place):
                found[bucket] = place
        return found.values()


@lru_cache(maxsize=16)
def _decides_by_context(kind: Any) -> bool:
    """Whether an exemplar filter is one of the SDK's: by the span, always, or never."""
    return kind.__module__.startswith("opentelemetry.sdk.")


class _KnownAggregation(NamedTuple):
    histogram: type[Any]
    last_of_bucket: type[Any]


@lru_cache(maxsize=1)
def _known() -> _KnownAggregation:
    from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir
    from opentelemetry.sdk.metrics._internal import aggregation

    internal: Any = aggregation
    return _KnownAggregation(
        internal._ExplicitBucketHistogramAggregation, AlignedHistogramBucketExemplarReservoir
    )
