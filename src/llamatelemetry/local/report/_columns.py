"""Records as columns: what the page reads, and what a live page gets more of.

A page must open with 100,000 spans. So each text and each value is there once and everything
else is numbers that refer to it; a page's columns are compressed on top.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.calls import call_of
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamatelemetry.local.records import LogRecord, MetricPoint, SpanRecord

# Beyond this many characters of long texts a page keeps only their beginnings.
MAX_LONG_CHARS: Final = 24_000_000
_LONG: Final = 400
_ROLES: Final = {"queue": 2, "prefill": 3, "decode": 4}
_GPU_METRICS: Final = {
    "hw.gpu.utilization": "load",
    "hw.gpu.memory.usage": "memory",
    "hw.power": "power",
    "hw.temperature": "temperature",
}
_CONTENT_EVENT: Final = "gen_ai.client.inference.operation.details"


class _Table:
    """Values, each once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._long_chars = 0

    def number(self, value: Any) -> int:
        if isinstance(value, str) and len(value) > _LONG:
            value = self._within_bounds(value)
        # A number and a text that look alike, and True and 1, are different values.
        key = json.dumps(value, sort_keys=True) if not isinstance(value, str) else f"s{value}"
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = len(self.values)
            self.values.append(value)
        return known

    def _within_bounds(self, text: str) -> str:
        self._long_chars += len(text)
        return text if self._long_chars <= MAX_LONG_CHARS else f"{text[:_LONG]}…"


def columns(
    spans: Iterable[SpanRecord],
    points: Iterable[MetricPoint] = (),
    logs: Iterable[LogRecord] = (),
) -> dict[str, Any]:
    """Give records as columns, times in microseconds since the epoch.

    ``spans`` has one list per column: ``trace``, ``name``, ``service`` and the keys and values in
    ``attributes`` are places in ``values``; ``role`` is 1 for a call, 2 to 4 for queue, prefill
    and decode, 0 for anything else. ``events`` holds, by row, what happened in a span. ``gpu``
    has one series per metric and device.
    """
    table = _Table()
    content = _content_by_span(logs)
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    events: dict[int, list[Any]] = {}
    for row, span in enumerate(spans):
        _add(rows, span, table, content.get((span.trace_id, span.span_id), {}))
        if span.events:
            events[row] = [
                [table.number(event.name), _us(event.time_ns), _pairs(event.attributes, table)]
                for event in span.events
            ]
    return {"spans": rows, "events": events, "gpu": _series(points), "values": table.values}


_COLUMNS: Final = (
    *("trace", "id", "parent", "name", "service", "process", "start", "duration"),
    *("failed", "message", "role", "call", "attributes"),
)


def _add(
    rows: Mapping[str, list[Any]], span: SpanRecord, table: _Table, content: Mapping[str, Any]
) -> None:
    call = call_of(span)
    resource = span.resource
    values: dict[str, Any] = {
        "trace": table.number(span.trace_id),
        "id": span.span_id,
        "parent": span.parent_span_id or "",
        "name": table.number(span.name),
        "service": table.number(str(resource.get("service.name", ""))),
        "process": table.number(resource.get("process.pid", resource.get("service.instance.id"))),
        "start": _us(span.start_ns),
        "duration": _us(span.end_ns - span.start_ns),
        "failed": int(span.failed),
        "message": table.number(span.status_message),
        "role": 1 if call else _ROLES.get(str(span.attributes.get(names.PHASE)), 0),
        "call": None
        if call is None
        else [
            table.number(call.operation),
            table.number(call.model),
            call.input_tokens,
            call.output_tokens,
            call.ttft_ms,
            call.tpot_ms,
            table.number(call.error),
        ],
        "attributes": _pairs({**span.attributes, **content}, table),
    }
    for name, column in rows.items():
        column.append(values[name])


def _pairs(attributes: Mapping[str, Any], table: _Table) -> list[int]:
    return [table.number(each) for pair in attributes.items() for each in pair]


def _us(nanoseconds: int) -> int:
    return nanoseconds // 1000


def _content_by_span(logs: Iterable[LogRecord]) -> dict[tuple[str, str], dict[str, Any]]:
    """Messages that were recorded as events and not on the span."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for log in logs:
        if log.event_name == _CONTENT_EVENT and log.trace_id and log.span_id:
            found[log.trace_id, log.span_id] = {
                name: log.attributes[name]
                for name in (
                    names.GEN_AI_SYSTEM_INSTRUCTIONS,
                    names.GEN_AI_INPUT_MESSAGES,
                    names.GEN_AI_OUTPUT_MESSAGES,
                    names.GEN_AI_TOOL_DEFINITIONS,
                )
                if name in log.attributes
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
    """JSON without blanks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def rows_of(found: Mapping[str, Sequence[Any]]) -> int:
    """How many rows columns have."""
    return len(found["id"])
