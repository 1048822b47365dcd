"""What happened to servers and GPUs beside the calls: loading of models, and lowered clocks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from llamatelemetry.local.why.reading import server_of
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.gpu import THROTTLE_REASON, THROTTLED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamatelemetry.local.recording import Recording
    from llamatelemetry.local.records import MetricPoint, SpanRecord

_MAX_INTERVAL_NS: Final = 60_000_000_000

Interval = tuple[int, int]
"""Start and end in nanoseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Events:
    """Intervals of loading models, by server, and of lowered GPU clocks.

    Attributes:
        loads: Starts of servers, by host and port.
        throttled: Intervals by the reason of the driver.
    """

    loads: Mapping[str, Sequence[Interval]] = field(default_factory=dict[str, "list[Interval]"])
    throttled: Mapping[str, Sequence[Interval]] = field(default_factory=dict[str, "list[Interval]"])


def read_events(recording: Recording) -> Events:
    """Return the events of a recording."""
    return Events(_loads(recording.spans), _throttled(recording.points))


def overlap_ms(intervals: Iterable[Interval], start_ns: float, end_ns: float) -> float:
    """Return the overlap of a period with intervals that do not overlap each other."""
    return (
        sum(max(0.0, min(end_ns, last) - max(start_ns, first)) for first, last in intervals) / 1e6
    )


def _loads(spans: Iterable[SpanRecord]) -> dict[str, list[Interval]]:
    found: defaultdict[str, list[Interval]] = defaultdict(list)
    for span in spans:
        # Only the span of a server's start has this attribute.
        if names.SERVER_LOAD_DURATION in span.attributes:
            found[server_of(span.attributes)].append((span.start_ns, span.end_ns))
    return dict(found)


def _throttled(points: Iterable[MetricPoint]) -> dict[str, list[Interval]]:
    """Return the periods between two readings that both found a GPU throttled for a reason."""
    readings: defaultdict[tuple[str, str], list[tuple[int, bool]]] = defaultdict(list)
    for point in points:
        if point.name == THROTTLED.name and point.value is not None:
            reason = str(point.attributes.get(THROTTLE_REASON, "unknown reason"))
            gpu = str(point.attributes.get("hw.id") or point.attributes.get("hw.name"))
            readings[gpu, reason].append((point.time_ns, point.value > 0))
    found: defaultdict[str, list[Interval]] = defaultdict(list)
    for (_, reason), values in readings.items():
        values.sort()
        for (before_ns, was), (after_ns, is_now) in pairwise(values):
            if was and is_now and after_ns - before_ns <= _MAX_INTERVAL_NS:
                found[reason].append((before_ns, after_ns))
    return dict(found)
