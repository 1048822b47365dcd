"""Spans, metric data points and log records as plain values, as stored in the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# OTLP's numbers.
STATUS_ERROR: Final = 2
KIND_SERVER: Final = 2
KIND_CLIENT: Final = 3


class Event(NamedTuple):
    """A span event. A tuple, because JSON then represents it as an array."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


class Link(NamedTuple):
    """A span link. Ids are lowercase hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A finished span. Ids are lowercase hex; `kind` and `status` are OTLP's numbers."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    status: int = 0
    status_message: str = ""
    events: Sequence[Event] = ()
    links: Sequence[Link] = ()
    scope: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def duration_ms(self) -> float:
        """Duration in milliseconds."""
        return (self.end_ns - self.start_ns) / 1e6

    @property
    def failed(self) -> bool:
        """Whether the status is an error."""
        return self.status == STATUS_ERROR


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """A metric data point.

    `kind` is `sum`, `gauge`, `histogram`, `exponential_histogram` or `summary`. Sums and gauges
    have a `value`, the others `count` and `sum`. A `histogram` may have `buckets`, the counts per
    bucket, with their upper `bounds`.
    """

    name: str
    unit: str
    kind: str
    is_monotonic: bool
    is_delta: bool
    attributes: Mapping[str, Any]
    start_ns: int
    time_ns: int
    value: float | None = None
    count: int | None = None
    sum: float | None = None
    bounds: Sequence[float] = ()
    buckets: Sequence[int] = ()
    scope: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A log record or event. `trace_id` and `span_id` are hex, or `None` outside a span."""

    time_ns: int
    severity: int
    event_name: str
    body: Any
    attributes: Mapping[str, Any]
    trace_id: str | None = None
    span_id: str | None = None
    scope: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Run:
    """A command whose telemetry was recorded.

    `after` has the numbers of the last rows before the run, by table. `ended_ns` and `exit_status`
    are `None` if the recording was killed.
    """

    command: Sequence[str]
    started_ns: int
    ended_ns: int | None
    exit_status: int | None
    after: Mapping[str, int]


Record = SpanRecord | MetricPoint | LogRecord
