"""OTLP encoding of log records.

OpenTelemetry has public encoders for spans and metrics, but only a private one for log records.
This one creates the same messages. Unlike the private one, it keeps a batch with a record that has
no trace flags, and does not log the value of an attribute that cannot be encoded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    InstrumentationScope,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord

_logger = logging.getLogger(__name__)

# `bool` comes first, because its values are integers, too.
_FIELDS: tuple[tuple[type, str], ...] = (
    (bool, "bool_value"),
    (str, "string_value"),
    (int, "int_value"),
    (float, "double_value"),
    (bytes, "bytes_value"),
)


def encode_logs(batch: Sequence[ReadableLogRecord]) -> ExportLogsServiceRequest:
    """Return the export request for log records, grouped by resource and scope."""
    by_resource: dict[Any, dict[Any, list[LogRecord]]] = {}
    for each in batch:
        by_scope = by_resource.setdefault(each.resource, {})
        by_scope.setdefault(each.instrumentation_scope, []).append(_record(each))
    return ExportLogsServiceRequest(
        resource_logs=[
            ResourceLogs(
                resource=Resource(attributes=_attributes(resource.attributes)),
                scope_logs=[
                    ScopeLogs(
                        scope=_scope(scope),
                        log_records=records,
                        schema_url=getattr(scope, "schema_url", ""),
                    )
                    for scope, records in by_scope.items()
                ],
                schema_url=resource.schema_url,
            )
            for resource, by_scope in by_resource.items()
        ]
    )


def _scope(scope: Any) -> InstrumentationScope:
    if scope is None:
        return InstrumentationScope()
    attributes = _attributes(scope.attributes)
    return InstrumentationScope(name=scope.name, version=scope.version, attributes=attributes)


def _record(readable: ReadableLogRecord) -> LogRecord:
    record: Any = readable.log_record
    return LogRecord(
        time_unix_nano=record.timestamp,
        observed_time_unix_nano=record.observed_timestamp,
        trace_id=record.trace_id.to_bytes(16, "big") if record.trace_id else b"",
        span_id=record.span_id.to_bytes(8, "big") if record.span_id else b"",
        flags=int(record.trace_flags or 0),
        body=_value(record.body),
        severity_text=record.severity_text,
        severity_number=cast("Any", getattr(record.severity_number, "value", 0)),
        attributes=_attributes(record.attributes),
        dropped_attributes_count=readable.dropped_attributes,
        event_name=record.event_name,
    )


def _attributes(attributes: Mapping[str, Any] | None) -> list[KeyValue]:
    encoded: list[KeyValue] = []
    for key, value in (attributes or {}).items():
        try:
            encoded.append(KeyValue(key=str(key), value=_value(value)))
        except (TypeError, ValueError):
            # Such as an integer of more than 64 bits. The other attributes are kept.
            _logger.warning("Cannot encode log attribute %s of %s; lost", key, type(value).__name__)
    return encoded


def _value(value: Any) -> AnyValue:
    if value is None:
        return AnyValue()
    for kind, name in _FIELDS:
        if isinstance(value, kind):
            return AnyValue(**{name: value})
    if isinstance(value, Mapping):
        entries = _attributes(cast("Mapping[str, Any]", value))
        return AnyValue(kvlist_value=KeyValueList(values=entries))
    if isinstance(value, Sequence):
        items = cast("Sequence[Any]", value)
        return AnyValue(array_value=ArrayValue(values=[_value(each) for each in items]))
    raise TypeError(f"value must be an OTLP value, got {type(value).__name__}")
