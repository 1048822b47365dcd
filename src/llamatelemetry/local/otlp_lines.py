"""Reads the OTLP JSON lines that ``LLAMATELEMETRY_EXPORTER=file`` writes.

Each line is one export request. The OpenTelemetry Collector's file exporter writes the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.local._protobuf import decode, records_of
from llamatelemetry.local.records import Event, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from llamatelemetry.local.records import Record


@dataclass(frozen=True, slots=True)
class MetricTotal:
    """One histogram or counter for one set of attributes; a counter has no ``count``."""

    name: str
    unit: str
    attributes: Mapping[str, object]
    count: int | None
    total: float

    @property
    def mean(self) -> float | None:
        """The mean of a histogram, None where nothing was recorded."""
        return self.total / self.count if self.count else None


def read_spans(paths: Iterable[Path]) -> list[SpanRecord]:
    """Every span in the files, in the order of their start."""
    spans = [span for request in _requests(paths) for span in _spans(request)]
    return sorted(spans, key=lambda span: span.start_ns)


def read_lines(paths: Iterable[Path]) -> Iterator[Record]:
    """Everything in the files: spans, points of metrics, log records.

    Raises:
        ValueError: a file is not made of OTLP JSON lines; the message names it.
    """
    for request in _requests(paths):
        path = request.pop("path")
        try:
            if "resourceSpans" in request:
                yield from _spans(request)
                continue
            signal = "metrics" if "resourceMetrics" in request else "logs"
            yield from records_of(
                signal, decode(signal, json.dumps(request).encode(), is_json=True)
            )
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not made of OTLP JSON lines: {error}") from error


def _spans(request: Mapping[str, Any]) -> Iterator[SpanRecord]:
    # By hand, and not by way of protobuf as the rest: there may be very many.
    for resource in request.get("resourceSpans", ()):
        attributes = _attributes(resource.get("resource", {}))
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                yield _span(span, scope.get("scope", {}).get("name", ""), attributes)


def read_metric_totals(paths: Iterable[Path]) -> list[MetricTotal]:
    """The histograms and counters in the files, each with its total over the whole time.

    A cumulative point repeats its start time and replaces the one before; a delta point has a
    start of its own and adds up, as does a cumulative one after a restart.
    """
    latest: dict[tuple[str, str, str, str], tuple[Any, Any]] = {}
    for request in _requests(paths):
        for metric in _metrics(request):
            data: Any = metric.get("histogram") or metric.get("sum") or {}
            for point in data.get("dataPoints", ()):
                attributes = json.dumps(_attributes(point), sort_keys=True)
                start = str(point.get("startTimeUnixNano", ""))
                key = (str(request["path"]), str(metric["name"]), attributes, start)
                latest[key] = (metric, point)
    return _added_up(_total(metric, point) for metric, point in latest.values())


def _requests(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                # A process that is killed may leave its last line unfinished.
                if line.endswith("\n") and line.strip():
                    yield {**_object(line, path), "path": path}


def _object(line: str, path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path} is not made of OTLP JSON lines: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not made of OTLP JSON lines: a line is no object")
    return cast("dict[str, Any]", found)


def _metrics(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in request.get("resourceMetrics", ()):
        for scope in resource.get("scopeMetrics", ()):
            yield from scope.get("metrics", ())


def _span(span: Mapping[str, Any], scope: str, resource: Mapping[str, object]) -> SpanRecord:
    status = span.get("status", {})
    return SpanRecord(
        trace_id=str(span.get("traceId", "")),
        span_id=str(span.get("spanId", "")),
        parent_span_id=span.get("parentSpanId") or None,
        name=str(span.get("name", "")),
        kind=int(span.get("kind", 0)),
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        attributes=_attributes(span),
        status=int(status.get("code", 0)),
        status_message=str(status.get("message", "")),
        events=[
            Event(str(event.get("name", "")), int(event.get("timeUnixNano", 0)), _attributes(event))
            for event in span.get("events", ())
        ],
        scope=scope,
        resource=resource,
    )


def _total(metric: Mapping[str, Any], point: Mapping[str, Any]) -> MetricTotal:
    is_histogram = "histogram" in metric
    value = point.get("sum", 0) if is_histogram else point.get("asInt", point.get("asDouble", 0))
    return MetricTotal(
        name=str(metric["name"]),
        unit=str(metric.get("unit", "")),
        attributes=_attributes(point),
        count=int(point.get("count", 0)) if is_histogram else None,
        total=float(value),
    )


def _added_up(totals: Iterable[MetricTotal]) -> list[MetricTotal]:
    """One total for each name and attributes."""
    added: dict[tuple[str, str], MetricTotal] = {}
    for total in totals:
        key = (total.name, json.dumps(dict(total.attributes), sort_keys=True))
        before = added.get(key)
        added[key] = total if before is None else merged(before, total)
    return list(added.values())


def merged(first: MetricTotal, second: MetricTotal) -> MetricTotal:
    """Two totals of one metric as one, under the attributes of the first."""
    counts = [total.count for total in (first, second) if total.count is not None]
    return MetricTotal(
        name=first.name,
        unit=first.unit,
        attributes=first.attributes,
        count=sum(counts) if counts else None,
        total=first.total + second.total,
    )


def _attributes(holder: Mapping[str, Any]) -> dict[str, object]:
    return {item["key"]: _value(item["value"]) for item in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> object:
    """A plain value from OTLP's ``{"<type>Value": ...}``; 64-bit integers come as strings."""
    match value:
        case {"intValue": number}:
            return int(number)
        case {"doubleValue": number}:
            return float(number)
        case {"arrayValue": array}:
            return [_value(item) for item in array.get("values", ())]
        case {"kvlistValue": mapping}:
            return {item["key"]: _value(item["value"]) for item in mapping.get("values", ())}
        case _:
            return next(iter(value.values()), None)
