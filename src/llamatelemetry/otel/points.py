"""Recording points of a histogram without paying for each what is the same for all.

Most of what ``Histogram.record`` of OpenTelemetry's SDK takes goes into the attributes: they are
copied, looked at one by one, and made into a key, for every gap between two chunks of a stream
anew although all gaps have the same. Here that is done once for a batch.

What stands in for ``record`` is its own three steps, none of them public, with nothing left out:
the same points come of it, exemplars included. So it is used only with the versions of the SDK
that it has been compared with. With others, and with other makers' instruments, ``record`` is.
"""

from __future__ import annotations

from functools import lru_cache
from math import inf
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import get_current

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram
    from opentelemetry.util.types import AttributeValue

    _MakeKey = Callable[[Mapping[str, AttributeValue]], Any]

COMPARED: Final = "1.45."
"""What versions of the SDK begin with whose ``record`` is known. A test does the comparing."""

_PLAIN: Final = frozenset({str, int, float, bool})


def record_points(
    histogram: Histogram,
    values: Sequence[float],
    attributes: Mapping[str, AttributeValue],
    context: Context | None = None,
) -> None:
    """Do what ``histogram.record`` does, for each of the values.

    Args:
        histogram: any.
        values: of the points.
        attributes: of all of them. Exemplars keep it: it must not change afterwards.
        context: holds the span that exemplars lead to; the current one when ``None``.
    """
    # Behind an instrument that delegates is one that does not.
    sdks: Any = getattr(histogram.record, "__self__", None)
    make_key = _make_key_of(type(sdks))
    if not (
        make_key is not None
        and _PLAIN.issuperset(map(type, attributes.values()))
        and all(0 <= value < inf for value in values)
    ):
        for value in values:
            histogram.record(value, attributes, context)
    elif values and sdks._is_enabled():
        _aggregate(sdks, make_key, values, attributes, context or get_current())


@lru_cache(maxsize=16)
def _make_key_of(kind: type[Any]) -> _MakeKey | None:
    """What histograms of an SDK whose ``record`` is known tell attributes apart by; else ``None``."""
    if not kind.__module__.startswith("opentelemetry.sdk."):
        return None

    from opentelemetry.sdk.metrics._internal import _view_instrument_match, instrument
    from opentelemetry.sdk.version import __version__

    is_known = kind is instrument._Histogram and __version__.startswith(COMPARED)
    return _view_instrument_match._hash_attributes if is_known else None


class _Point:
    """What the SDK's ``Measurement`` is, of attributes that need no looking at."""

    __slots__ = ("attributes", "context", "instrument", "time_unix_nano", "value")

    def __init__(
        self,
        value: float,
        time_unix_nano: int,
        instrument: Any,
        context: Context,
        attributes: Mapping[str, AttributeValue],
    ) -> None:
        self.value = value
        self.time_unix_nano = time_unix_nano
        self.instrument = instrument
        self.context = context
        self.attributes = attributes


def _aggregate(
    histogram: Any,
    make_key: _MakeKey,
    values: Iterable[float],
    attributes: Mapping[str, AttributeValue],
    context: Context,
) -> None:
    consumer = histogram._measurement_consumer
    is_exemplar = consumer._sdk_config.exemplar_filter.should_sample
    now_ns = time_ns()
    points = [
        (
            _Point(value, now_ns, histogram, context, attributes),
            is_exemplar(value, now_ns, attributes, context),
        )
        for value in values
    ]
    for storage in consumer._reader_storages.values():
        for match in storage._get_or_init_view_instrument_match(histogram):
            kept = _kept(attributes, match._view._attribute_keys)
            key = make_key(kept)
            # Collecting deltas throws the aggregations away: none may be added to then.
            with match._lock:
                aggregation = match._get_or_create_aggregation(key, kept)
                for point, has_exemplar in points:
                    aggregation.aggregate(point, has_exemplar)


def _kept(
    attributes: Mapping[str, AttributeValue], wanted: Collection[str] | None
) -> dict[str, AttributeValue]:
    if wanted is None:
        return dict(attributes)
    return {name: value for name, value in attributes.items() if name in wanted}
