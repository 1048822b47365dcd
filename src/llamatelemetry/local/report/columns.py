"""Records in columnar form, the data of the page and of its live updates.

A page must open with 100,000 spans. Each distinct value is therefore stored once, and the columns
refer to it by index. The page compresses the columns as well.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.calls import recorded_call
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamatelemetry.local.calls import RecordedCall
    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.records import LogRecord, MetricPoint, SpanRecord

# After this many characters of long texts in total, further long texts are truncated.
MAX_LONG_CHARS: Final = 24_000_000
_LONG: Final = 400
_ROLES: Final = {"queue": 2, "prefill": 3, "decode": 4}
_GPU_METRICS: Final = {
    "hw.gpu.utilization": "load",
    "hw.gpu.memory.usage": "memory",
    "hw.power": "power",
    "hw.temperature": "temperature",
}
_CONTENT: Final = (
    *(names.GEN_AI_SYSTEM_INSTRUCTIONS, names.GEN_AI_INPUT_MESSAGES),
    *(names.GEN_AI_OUTPUT_MESSAGES, names.GEN_AI_TOOL_DEFINITIONS),
)
_CONTENT_EVENT: Final = "gen_ai.client.inference.operation.details"


class _DistinctValues:
    """A list of distinct values, and the index of each."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._indexes: dict[str, int] = {}
        self._long_chars = 0

    def index_of(self, value: Any) -> int:
        if isinstance(value, str) and len(value) > _LONG:
            value = self._truncated(value)
        # As dict keys, 1 and True would be equal. The prefix separates "1" from 1.
        key = json.dumps(value, sort_keys=True) if not isinstance(value, str) else f"s{value}"
        known = self._indexes.get(key)
        if known is None:
            known = self._indexes[key] = len(self.values)
            self.values.append(value)
        return known

    def _truncated(self, text: str) -> str:
        self._long_chars += len(text)
        return text if self._long_chars <= MAX_LONG_CHARS else f"{text[:_LONG]}…"


def columns(
    spans: Sequence[SpanRecord],
    points: Iterable[MetricPoint] = (),
    logs: Iterable[LogRecord] = (),
    *,
    calls: Sequence[JoinedCall] | None = None,
) -> dict[str, Any]:
    """Return records in columnar form, with times in microseconds since the epoch.

    - `spans` has one list per column. `trace`, `name`, `service` and the keys and values in
      `attributes` are indexes into `values`. `role` is 1 for a call, 2 to 4 for queue, prefill
      and decode, 0 for any other span. Of several spans of one call, one has the role and the
      figures of the call.
    - `events` has the span events by row of the span.
    - `gpu` has one time series per metric and device.

    Args:
        spans: The spans.
        points: Metric data points.
        logs: Log records.
        calls: The calls, if `spans` has only some of their spans.
    """
    found = join_calls(spans) if calls is None else calls
    recorded = {(call.span.trace_id, call.span.span_id): recorded_call(call) for call in found}
    values = _DistinctValues()
    content = _content_by_span(logs)
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    events: dict[int, list[Any]] = {}
    for row, span in enumerate(spans):
        span_id = (span.trace_id, span.span_id)
        _add(rows, span, recorded.get(span_id), values, content.get(span_id, {}))
        if span.events:
            events[row] = [
                [values.index_of(event.name), _us(event.time_ns), _pairs(event.attributes, values)]
                for event in span.events
            ]
    return {"spans": rows, "events": events, "gpu": _series(points), "values": values.values}


_COLUMNS: Final = (
    *("trace", "id", "parent", "name", "service", "process", "start", "duration"),
    *("failed", "message", "role", "call", "attributes"),
)


def _add(
    rows: Mapping[str, list[Any]],
    span: SpanRecord,
    call: RecordedCall | None,
    values: _DistinctValues,
    content: Mapping[str, Any],
) -> None:
    resource = span.resource
    cells: dict[str, Any] = {
        "trace": values.index_of(span.trace_id),
        "id": span.span_id,
        "parent": span.parent_span_id or "",
        "name": values.index_of(span.name),
        "service": values.index_of(str(resource.get("service.name", ""))),
        "process": values.index_of(
            resource.get("process.pid", resource.get("service.instance.id"))
        ),
        "start": _us(span.start_ns),
        "duration": _us(span.end_ns - span.start_ns),
        "failed": int(span.failed),
        "message": values.index_of(span.status_message),
        "role": 1 if call else _ROLES.get(str(span.attributes.get(names.PHASE)), 0),
        "call": call
        and [
            *(values.index_of(call.operation), values.index_of(call.model)),
            *(call.input_tokens, call.output_tokens, call.ttft_ms, call.tpot_ms),
            values.index_of(call.error),
        ],
        "attributes": _pairs({**span.attributes, **content}, values),
    }
    for name, column in rows.items():
        column.append(cells[name])


def _pairs(attributes: Mapping[str, Any], values: _DistinctValues) -> list[int]:
    return [values.index_of(each) for pair in attributes.items() for each in pair]


def _us(nanoseconds: int) -> int:
    return nanoseconds // 1000


def _content_by_span(logs: Iterable[LogRecord]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return prompts and completions that were recorded as events instead of on the span."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for log in logs:
        if log.event_name == _CONTENT_EVENT and log.trace_id and log.span_id:
            found[log.trace_id, log.span_id] = {
                name: log.attributes[name] for name in _CONTENT if name in log.attributes
            }
    return found


def _series(points: Iterable[MetricPoint]) -> list[dict[str, Any]]:
    series: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for point in points:
        if point.name in _GPU_METRICS and point.value is not None:
            device = str(point.attributes.get("hw.name", point.attributes.get("hw.id", "GPU")))
            series[point.name, device].append((_us(point.time_ns), float(point.value)))
    return [
        {
            "metric": metric,
            "label": _GPU_METRICS[metric],
            "device": device,
            "times": [time for time, _ in sorted(found)],
            "values": [value for _, value in sorted(found)],
        }
        for (metric, device), found in sorted(series.items())
    ]


def compact(value: Any) -> str:
    """Return JSON without whitespace."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
