"""Parse OTLP export requests, in protobuf or JSON, into records.

The message types come from `opentelemetry-proto`. JSON is converted to these messages, so that
there is one reader. In OTLP's JSON, ids are hex; protobuf's own JSON has base64 instead.
"""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from llamatelemetry.local.records import Event, Link, LogRecord, MetricPoint, Record, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_logger = logging.getLogger("llamatelemetry.local")
_REQUESTS: Final[Mapping[str, type[Message]]] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId", "trace_id", "span_id"})
_DELTA: Final = 1
# protobuf raises these for a number beyond the range of a double, and for half of a surrogate pair.
_OTHER_ERRORS: Final = (OverflowError, SystemError)
_KINDS: Final = ("sum", "gauge", "histogram", "exponential_histogram", "summary")


class MalformedError(ValueError):
    """The body is not an export request."""


class RejectedError(Exception):
    """The request is rejected with an HTTP status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def request_type(signal: str) -> type[Message]:
    """Return the message type of a signal's export requests."""
    return _REQUESTS[signal]


def parse_request(signal: str, body: bytes, *, is_json: bool = False) -> Message:
    """Parse the uncompressed body of an export request: protobuf, or JSON.

    Raises:
        MalformedError: The body is not an export request of the signal.
    """
    request = _REQUESTS[signal]()
    try:
        if is_json:
            fields = _parse_json(body)
            if not isinstance(fields, dict):
                raise MalformedError("the body must be a JSON object")
            _convert_ids_to_base64(fields)
            json_format.ParseDict(
                cast("dict[str, Any]", fields), request, ignore_unknown_fields=True
            )
        else:
            request.ParseFromString(body)
    except (DecodeError, json_format.ParseError, RecursionError, *_OTHER_ERRORS) as error:
        raise MalformedError(str(error)) from error
    return request


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:  # Also a number of thousands of digits.
        raise MalformedError(f"the body is not valid JSON: {error}") from error


def _convert_ids_to_base64(value: Any) -> None:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            _convert_ids_to_base64(item)
    elif isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        for key, item in fields.items():
            if key in _IDS and isinstance(item, str):
                try:
                    fields[key] = base64.b64encode(bytes.fromhex(item)).decode()
                except ValueError as error:
                    raise MalformedError(f"{key} {item!r} is not hex") from error
            elif isinstance(item, (dict, list)):
                _convert_ids_to_base64(item)


def records_of(signal: str, request: Any) -> Iterator[Record]:
    """Yield the spans, metric data points or log records of an export request.

    A record with a number that the database cannot store is left out, the others are kept.
    """
    plural, items, read = _READERS[signal]
    for group in getattr(request, f"resource_{plural}"):
        resource = _attributes(group.resource.attributes)
        for scoped in getattr(group, f"scope_{plural}"):
            for item in getattr(scoped, items):
                for record in read(item, scoped.scope.name, resource):
                    if _is_storable(record):
                        yield record
                    else:
                        _logger.warning(
                            "Left out one of the %s: a number in it is out of range", plural
                        )


def _is_storable(record: Record) -> bool:
    # Unsigned in OTLP, signed in SQLite.
    numbers = (getattr(record, name, None) for name in _UNSIGNED)
    return all(number is None or number < 2**63 for number in numbers)


def _read_span(span: Any, scope: str, resource: Mapping[str, Any]) -> Iterator[SpanRecord]:
    yield SpanRecord(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        status=span.status.code,
        status_message=span.status.message,
        events=[
            Event(event.name, event.time_unix_nano, _attributes(event.attributes))
            for event in span.events
        ],
        links=[
            Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
            for link in span.links
        ],
        scope=scope,
        resource=resource,
    )


def _read_metric(metric: Any, scope: str, resource: Mapping[str, Any]) -> Iterator[MetricPoint]:
    kind = metric.WhichOneof("data")
    if kind not in _KINDS:
        return
    data = getattr(metric, kind)
    is_number, is_histogram = kind in {"sum", "gauge"}, kind == "histogram"
    for point in data.data_points:
        which = point.WhichOneof("value") if is_number else None
        yield MetricPoint(
            name=metric.name,
            unit=metric.unit,
            kind=kind,
            is_monotonic=getattr(data, "is_monotonic", kind != "gauge"),
            is_delta=getattr(data, "aggregation_temporality", 0) == _DELTA,
            attributes=_attributes(point.attributes),
            start_ns=point.start_time_unix_nano,
            time_ns=point.time_unix_nano,
            value=None if which is None else getattr(point, which),
            count=None if is_number else point.count,
            sum=None if is_number else point.sum,
            bounds=list(point.explicit_bounds) if is_histogram else (),
            buckets=list(point.bucket_counts) if is_histogram else (),
            scope=scope,
            resource=resource,
        )


def _read_log(record: Any, scope: str, resource: Mapping[str, Any]) -> Iterator[LogRecord]:
    yield LogRecord(
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        severity=record.severity_number,
        event_name=record.event_name,
        body=_value(record.body),
        attributes=_attributes(record.attributes),
        trace_id=record.trace_id.hex() or None,
        span_id=record.span_id.hex() or None,
        scope=scope,
        resource=resource,
    )


_UNSIGNED: Final = ("start_ns", "end_ns", "time_ns", "count")
_Reader = Callable[[Any, str, "Mapping[str, Any]"], Iterator[Record]]
# Names of a signal's lists in `resource_*` and `scope_*`, name of the items, and their reader.
_READERS: Final[Mapping[str, tuple[str, str, _Reader]]] = {
    "traces": ("spans", "spans", _read_span),
    "metrics": ("metrics", "metrics", _read_metric),
    "logs": ("logs", "log_records", _read_log),
}


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    found = getattr(value, which)
    if which == "array_value":
        return [_value(item) for item in found.values]
    if which == "kvlist_value":
        return _attributes(found.values)
    if which == "bytes_value":
        return base64.b64encode(found).decode()
    if which == "double_value" and not math.isfinite(found):
        # JSON has no representation of NaN and infinity.
        return str(found)
    return found
