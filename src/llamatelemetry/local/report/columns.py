"""Records in columnar form, the data of the page and of its live updates.

A page must open with 100,000 spans and 200,000 more calls. Each distinct value is therefore stored
once, and the columns refer to it by index. The page compresses the columns as well.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.calls import recorded_call
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.records import KIND_CLIENT, KIND_SERVER
from llamatelemetry.local.report.parts import MEASURED, CallTimes, measured_parts
from llamatelemetry.local.report.series import series
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from llamatelemetry.local.calls import RecordedCall
    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.records import LogRecord, MetricPoint, SpanRecord

# After this many characters of long texts in total, further long texts are truncated.
MAX_LONG_CHARS: Final = 24_000_000
_LONG: Final = 400
_CALL: Final = 1
_PHASES: Final = {"queue": 2, "prefill": 3, "decode": 4}
_STEP: Final = 5
_TOOL: Final = 6
_HTTP: Final = 7
_SERVER: Final = 8
_CONTENT: Final = (
    *(names.GEN_AI_SYSTEM_INSTRUCTIONS, names.GEN_AI_INPUT_MESSAGES),
    *(names.GEN_AI_OUTPUT_MESSAGES, names.GEN_AI_TOOL_DEFINITIONS),
)
CONTENT_EVENT: Final = "gen_ai.client.inference.operation.details"
"""Event with the prompt and the completion of a call."""


class _DistinctValues:
    """A list of distinct values, and the index of each."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._indexes: dict[Hashable, int] = {}
        self._long_chars = 0

    def index_of(self, value: Any) -> int:
        key: Hashable
        if isinstance(value, str):
            key = value = self._truncated(value) if len(value) > _LONG else value
        elif isinstance(value, (list, tuple, dict)):
            try:
                key = ("json", json.dumps(value, sort_keys=True, allow_nan=False))
            except ValueError:  # JavaScript cannot read NaN and infinity.
                key = value = json.dumps(value, sort_keys=True)
        elif isinstance(value, float) and not math.isfinite(value):
            key = value = str(value)
        else:
            # As dict keys, 1 and True would be equal.
            number: Hashable = value
            key = (type(number), number)
        known = self._indexes.get(key)
        if known is None:
            known = self._indexes[key] = len(self.values)
            self.values.append(value)
        return known

    def pairs(self, attributes: Mapping[str, Any]) -> list[int]:
        return [self.index_of(each) for pair in attributes.items() for each in pair]

    def _truncated(self, text: str) -> str:
        self._long_chars += len(text)
        return text if self._long_chars <= MAX_LONG_CHARS else f"{text[:_LONG]}…"


class _DistinctResources:
    """Each resource once, as indexes of its keys and values."""

    def __init__(self, values: _DistinctValues) -> None:
        self.pairs: list[list[int]] = []
        self._values = values
        self._indexes: dict[str, int] = {}
        # Most spans share the same object.
        self._index_of_object: dict[int, int] = {}

    def index_of(self, resource: Mapping[str, Any]) -> int:
        """Return the index of a resource. The caller keeps the object, so that its id stays its own."""
        found = self._index_of_object.get(id(resource))
        if found is None:
            key = json.dumps(dict(resource), sort_keys=True)
            if key not in self._indexes:
                self._indexes[key] = len(self.pairs)
                self.pairs.append(self._values.pairs(resource))
            found = self._index_of_object[id(resource)] = self._indexes[key]
        return found


def columns(
    spans: Sequence[SpanRecord],
    points: Iterable[MetricPoint] = (),
    logs: Iterable[LogRecord] = (),
    *,
    calls: Sequence[JoinedCall] | None = None,
    times: CallTimes = MEASURED,
    brief: Sequence[SpanRecord] = (),
) -> dict[str, Any]:
    """Return records in columnar form, with times in microseconds.

    - `spans` has one list per column. `trace`, `name`, `scope` and the keys and values in
      `attributes` are indexes into `values`. `resource` is an index into `resources`, `start` is
      the time since `base`. `role` is 1 for a call, 2 to 4 for queue, prefill and decode, 5 for a
      workflow or agent, 6 for a tool, 7 for an HTTP request, 8 for a server's span, else 0. Of
      several spans of one call, one has the role and the figures of the call.
    - `call` has the figures of a call; `parts` the parts of its time: name, duration and evidence
      in turn; `why` the sentence about it.
    - `events` and `links` have those of a span by its row.
    - `series` has one time series per metric and device.

    Args:
        spans: The spans.
        points: Metric data points.
        logs: Log records.
        calls: The calls, if `spans` has only some of their spans.
        times: Where the time of the calls went.
        brief: Further spans of calls. Their `attributes` are `null`.
    """
    joined = join_calls(spans) if calls is None else calls
    by_span = {(call.span.trace_id, call.span.span_id): call for call in joined}
    values = _DistinctValues()
    content = _content_by_span(logs)
    every = [*spans, *brief]
    base = min((span.start_ns for span in every), default=0) // 1000
    rows: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    resources = _DistinctResources(values)
    for row, span in enumerate(every):
        span_id = (span.trace_id, span.span_id)
        # `None` for a brief span.
        found = content.get(span_id, {}) if row < len(spans) else None
        cells = _cells(span, by_span.get(span_id), values, found, times)
        cells["start"] = _us(span.start_ns) - base
        cells["resource"] = resources.index_of(span.resource)
        for name, column in rows.items():
            column.append(cells[name])
    return {
        "base": base,
        "spans": rows,
        "resources": resources.pairs,
        "events": {row: _events(span, values) for row, span in enumerate(spans) if span.events},
        "links": {row: _links(span, values) for row, span in enumerate(spans) if span.links},
        "series": series(points),
        "values": values.values,
    }


def _events(span: SpanRecord, values: _DistinctValues) -> list[list[Any]]:
    return [
        [values.index_of(event.name), _us(event.time_ns), values.pairs(event.attributes)]
        for event in span.events
    ]


def _links(span: SpanRecord, values: _DistinctValues) -> list[list[Any]]:
    return [[link.trace_id, link.span_id, values.pairs(link.attributes)] for link in span.links]


_COLUMNS: Final = (
    *("trace", "id", "parent", "name", "scope", "resource", "start", "duration"),
    *("failed", "message", "role", "call", "parts", "why", "attributes"),
)


def _cells(
    span: SpanRecord,
    joined: JoinedCall | None,
    values: _DistinctValues,
    content: Mapping[str, Any] | None,
    times: CallTimes,
) -> dict[str, Any]:
    call = joined and recorded_call(joined)
    time = joined and (times.calls.get(span.span_id) or measured_parts(joined))
    return {
        "trace": values.index_of(span.trace_id),
        "id": span.span_id,
        "parent": span.parent_span_id or "",
        "name": values.index_of(span.name),
        "scope": values.index_of(span.scope),
        "duration": _us(span.end_ns - span.start_ns),
        "failed": int(span.failed),
        "message": values.index_of(span.status_message),
        "role": _role(span, call),
        "call": call and _figures(call, values),
        "parts": time and _parts(time.parts, values),
        "why": values.index_of(time.sentence if time else ""),
        "attributes": None if content is None else values.pairs({**span.attributes, **content}),
    }


def _figures(call: RecordedCall, values: _DistinctValues) -> list[Any]:
    return [
        *(values.index_of(call.operation), values.index_of(call.model)),
        *(call.input_tokens, call.cached_tokens, call.output_tokens),
        *(_rounded(call.ttft_ms), _rounded(call.tpot_ms)),
        values.index_of(call.error),
    ]


def _parts(parts: Sequence[tuple[str, float, str]], values: _DistinctValues) -> list[int]:
    return [
        each
        for name, ms, evidence in parts
        for each in (values.index_of(name), round(ms * 1000), values.index_of(evidence))
    ]


def _role(span: SpanRecord, call: RecordedCall | None) -> int:
    found = span.attributes
    if call is not None:
        return _CALL
    if names.PHASE in found:
        return _PHASES.get(str(found[names.PHASE]), 0)
    operation = found.get(names.GEN_AI_OPERATION_NAME)
    if operation is not None:
        return _TOOL if operation == "execute_tool" else _STEP
    if span.kind == KIND_SERVER:
        return _SERVER
    return _HTTP if span.kind == KIND_CLIENT else 0


def _us(nanoseconds: int) -> int:
    return nanoseconds // 1000


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)


def _content_by_span(logs: Iterable[LogRecord]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return prompts and completions that were recorded as events instead of on the span."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for log in logs:
        if log.event_name == CONTENT_EVENT and log.trace_id and log.span_id:
            found[log.trace_id, log.span_id] = {
                name: log.attributes[name] for name in _CONTENT if name in log.attributes
            }
    return found


def compact(value: Any) -> str:
    """Return JSON without whitespace."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
