"""Export of a batch in spite of single values that OTLP cannot represent.

The OTLP exporters encode a batch as a whole. One integer beyond 64 bits, half of a surrogate pair in
a name, or a start time in fractions of a nanosecond makes them drop all of its items, and, for an
observed metric, those of every later collection.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from llamatelemetry._limits import Limit

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.metrics.export import (
        Metric,
        MetricsData,
        ResourceMetrics,
        ScopeMetrics,
    )
    from opentelemetry.sdk.trace import ReadableSpan

_logger = logging.getLogger(__name__)
_LARGEST_TIME: Final = 2**64 - 1
_LIMIT: Final = Limit("unencodable_values", 256, "Warnings about values that OTLP cannot represent")

T = TypeVar("T")


def with_repair(export: Callable[..., Any]) -> Callable[..., Any]:
    """Return an `export` method that repeats a failed export without values OTLP cannot represent.

    Nothing is repeated if all of the batch can be encoded, for example after a network failure.
    """
    # An observed metric has the bad value at each collection. The exporter would log each of them.
    repairs_first = False

    @functools.wraps(export)
    def export_repaired(batch: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal repairs_first
        if repairs_first and not isinstance(batch, Sequence):
            batch = _repaired(batch)
        try:
            result = export(batch, *args, **kwargs)
            if getattr(result, "name", "SUCCESS") == "SUCCESS":
                return result
        except Exception:
            repaired = _repaired(batch)
            if repaired is batch:
                raise
        else:
            repaired = _repaired(batch)
            if repaired is batch:
                return result
        repairs_first = True
        return export(repaired, *args, **kwargs)

    return export_repaired


def _repaired(batch: Any) -> Any:
    """Return the batch with repaired items, or the same object if there is nothing to repair."""
    try:
        return _repair(batch)
    except ImportError:  # exporters of another protocol do not need the encoders of OTLP
        return batch


def _repair(batch: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan

    if not isinstance(batch, Sequence):
        return _repair_metrics(batch)
    items = cast("Sequence[Any]", batch)
    repaired = [
        _repair_span(item) if isinstance(item, ReadableSpan) else _repair_log_record(item)
        for item in items
    ]
    kept = [item for item in repaired if item is not None]
    return cast("Any", items) if _same(items, kept) else kept


def _same(items: Sequence[Any], repaired: Sequence[Any]) -> bool:
    return len(items) == len(repaired) and all(a is b for a, b in zip(items, repaired, strict=True))


def _is_encodable(encode: Callable[[T], object], item: T) -> bool:
    try:
        encode(item)
    except Exception:  # the encoders raise a bare `Exception`, too
        return False
    return True


def _repair_span(span: ReadableSpan) -> ReadableSpan | None:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import Event

    if _is_encodable(encode_spans, [span]):
        return span
    from opentelemetry.trace import Status

    events = [
        Event(_text(each.name), each.attributes, _time(each.timestamp)) for each in span.events
    ]
    repaired = _SpanView(
        span,
        name=_text(span.name),
        status=Status(span.status.status_code, _text(span.status.description)),
        events=events,
        start_time=_time(span.start_time),
        end_time=_time(span.end_time),
    )
    if _is_encodable(encode_spans, [cast("ReadableSpan", repaired)]):
        return cast("ReadableSpan", repaired)
    _warn("a span of the scope", getattr(span.instrumentation_scope, "name", None))
    return None


class _SpanView:
    """A span with other values of some properties."""

    def __init__(self, span: ReadableSpan, **values: Any) -> None:
        self._span = span
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._span, name)


def _repair_log_record(readable: ReadableLogRecord) -> ReadableLogRecord | None:
    from llamatelemetry.otel.export.log_encoder import encode_logs

    given: Any = readable.log_record
    repaired: dict[str, Any] = {
        # The encoder of the OTLP exporters needs trace flags.
        "trace_flags": 0 if given.trace_flags is None else given.trace_flags,
        "body": _body(given.body),
        "event_name": _text(given.event_name),
        "severity_text": _text(given.severity_text),
        "timestamp": _time(given.timestamp),
        "observed_timestamp": _time(given.observed_timestamp),
    }
    record: Any = copy.copy(given)
    for name, value in repaired.items():
        setattr(record, name, value)
    if all(getattr(given, name) == value for name, value in repaired.items()):
        kept = readable
    else:
        kept = replace(readable, log_record=record)
    if _is_encodable(encode_logs, [kept]):
        return kept
    _warn("a log record of the scope", getattr(readable.instrumentation_scope, "name", None))
    return None


def _repair_metrics(data: MetricsData) -> MetricsData:
    resources = [_repair_resource(each) for each in data.resource_metrics]
    if _same(data.resource_metrics, resources):
        return data
    return replace(data, resource_metrics=resources)


def _repair_resource(group: ResourceMetrics) -> ResourceMetrics:
    scopes = [_repair_scope(group, each) for each in group.scope_metrics]
    return group if _same(group.scope_metrics, scopes) else replace(group, scope_metrics=scopes)


def _repair_scope(group: ResourceMetrics, scope: ScopeMetrics) -> ScopeMetrics:
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
    from opentelemetry.sdk.metrics.export import MetricsData

    def encode(metrics: Sequence[Metric]) -> object:
        part = replace(scope, metrics=metrics)
        return encode_metrics(MetricsData([replace(group, scope_metrics=[part])]))

    if _is_encodable(encode, scope.metrics):
        return scope
    metrics = [
        metric if _is_encodable(encode, [metric]) else _repair_metric(encode, metric)
        for metric in scope.metrics
    ]
    return replace(scope, metrics=[each for each in metrics if each.data.data_points])


def _repair_metric(encode: Callable[[Sequence[Metric]], object], metric: Metric) -> Metric:
    described: Metric = replace(metric, description=_text(metric.description))
    points: list[Any] = []
    given = cast("Iterable[Any]", metric.data.data_points)
    for point in given:
        for candidate in (point, _repair_point(point)):
            data: Any = replace(cast("Any", metric.data), data_points=[candidate])
            if _is_encodable(encode, [replace(described, data=data)]):
                points.append(candidate)
                break
        else:
            _warn("a data point of the metric", metric.name)
    return replace(described, data=replace(cast("Any", metric.data), data_points=points))


def _repair_point(point: Any) -> Any:
    changes: dict[str, Any] = {"exemplars": ()}
    if isinstance(getattr(point, "value", None), int):
        try:
            changes["value"] = float(point.value)
        except OverflowError:
            return point
    return replace(point, **changes)


def _text(value: str | None) -> Any:
    """Return a text with a question mark for each half of a surrogate pair."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _body(value: Any) -> Any:
    """Return the body of a log record, with texts for integers of more than 64 bits."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        return {_text(str(key)): _body(each) for key, each in fields.items()}
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        return [_body(each) for each in items] if isinstance(value, list) else (*map(_body, items),)
    return value


def _time(value: Any) -> int | None:
    """Return a time in whole nanoseconds, or `None` if it cannot be one."""
    try:
        time_ns = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return time_ns if 0 <= time_ns <= _LARGEST_TIME else None


def _warn(item: str, name: object) -> None:
    if (item, name) not in _warned:
        _warned[item, name] = None
        _LIMIT.trim(_warned)
        text = "Cannot export %s %r, because OTLP cannot represent it. Logged once"
        _logger.warning(text, item, name)


_warned: Final[dict[tuple[str, object], None]] = {}
