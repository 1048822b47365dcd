"""Tables of the SQLite database, and the conversion between records and rows.

A change of the tables raises `VERSION`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.records import Event, LogRecord, MetricPoint, Record, SpanRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

VERSION: Final = 1
TABLES: Final = ("spans", "points", "logs")
SCHEMA: Final = """
CREATE TABLE resources (
    id INTEGER PRIMARY KEY,
    attributes TEXT NOT NULL UNIQUE
);
CREATE TABLE spans (
    resource_id INTEGER NOT NULL REFERENCES resources(id),
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_span_id TEXT,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    status INTEGER NOT NULL,
    status_message TEXT NOT NULL,
    scope TEXT NOT NULL,
    attributes TEXT NOT NULL,
    events TEXT,
    UNIQUE (trace_id, span_id)
);
CREATE TABLE points (
    resource_id INTEGER NOT NULL REFERENCES resources(id),
    name TEXT NOT NULL,
    unit TEXT NOT NULL,
    kind TEXT NOT NULL,
    is_monotonic INTEGER NOT NULL,
    is_delta INTEGER NOT NULL,
    scope TEXT NOT NULL,
    attributes TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    value REAL,
    count INTEGER,
    sum REAL,
    bounds TEXT NOT NULL,
    buckets TEXT NOT NULL
);
CREATE TABLE logs (
    resource_id INTEGER NOT NULL REFERENCES resources(id),
    time_ns INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    event_name TEXT NOT NULL,
    trace_id TEXT,
    span_id TEXT,
    scope TEXT NOT NULL,
    body TEXT NOT NULL,
    attributes TEXT NOT NULL
);
"""

to_json = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=True)


def _span_row(span: SpanRecord) -> tuple[Any, ...]:
    events: Sequence[tuple[Any, ...]] = [(e.name, e.time_ns, e.attributes) for e in span.events]
    return (
        *(span.trace_id, span.span_id, span.parent_span_id, span.name, span.kind),
        *(span.start_ns, span.end_ns, span.status, span.status_message, span.scope),
        *(to_json(span.attributes), to_json(events) if events else None),
    )


def _point_row(point: MetricPoint) -> tuple[Any, ...]:
    return (
        *(point.name, point.unit, point.kind, point.is_monotonic, point.is_delta, point.scope),
        *(to_json(point.attributes), point.start_ns, point.time_ns, point.value, point.count),
        *(point.sum, to_json(point.bounds), to_json(point.buckets)),
    )


def _log_row(record: LogRecord) -> tuple[Any, ...]:
    return (
        *(record.time_ns, record.severity, record.event_name, record.trace_id, record.span_id),
        *(record.scope, to_json(record.body), to_json(record.attributes)),
    )


ROW_OF: Final[Mapping[type[Record], Any]] = {
    SpanRecord: _span_row,
    MetricPoint: _point_row,
    LogRecord: _log_row,
}
INSERT: Final[Mapping[type[Record], str]] = {
    SpanRecord: f"INSERT OR IGNORE INTO spans VALUES ({', '.join('?' * 13)})",  # noqa: S608
    MetricPoint: f"INSERT INTO points VALUES ({', '.join('?' * 15)})",  # noqa: S608
    LogRecord: f"INSERT INTO logs VALUES ({', '.join('?' * 9)})",  # noqa: S608
}


def span_of(row: sqlite3.Row, resource: Mapping[str, Any]) -> SpanRecord:
    """Return the span of a row."""
    events = json.loads(row["events"]) if row["events"] else ()
    return SpanRecord(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_span_id=row["parent_span_id"],
        name=row["name"],
        kind=row["kind"],
        start_ns=row["start_ns"],
        end_ns=row["end_ns"],
        attributes=json.loads(row["attributes"]),
        status=row["status"],
        status_message=row["status_message"],
        events=[Event(*event) for event in events] if events else (),
        scope=row["scope"],
        resource=resource,
    )


def point_of(row: sqlite3.Row, resource: Mapping[str, Any]) -> MetricPoint:
    """Return the metric data point of a row."""
    return MetricPoint(
        name=row["name"],
        unit=row["unit"],
        kind=row["kind"],
        is_monotonic=bool(row["is_monotonic"]),
        is_delta=bool(row["is_delta"]),
        attributes=json.loads(row["attributes"]),
        start_ns=row["start_ns"],
        time_ns=row["time_ns"],
        value=row["value"],
        count=row["count"],
        sum=row["sum"],
        bounds=json.loads(row["bounds"]),
        buckets=json.loads(row["buckets"]),
        scope=row["scope"],
        resource=resource,
    )


def log_of(row: sqlite3.Row, resource: Mapping[str, Any]) -> LogRecord:
    """Return the log record of a row."""
    return LogRecord(
        time_ns=row["time_ns"],
        severity=row["severity"],
        event_name=row["event_name"],
        body=json.loads(row["body"]),
        attributes=json.loads(row["attributes"]),
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        scope=row["scope"],
        resource=resource,
    )
