"""Compare emitted telemetry with the reference: `src/llamatelemetry/semconv/telemetry.toml`.

Only the scopes of llamatelemetry and its plugins are checked. A span may have attributes of the
application, if their names are outside the namespaces that llamatelemetry uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind

from llamatelemetry.local.records import LogRecord, MetricPoint, Record, SpanRecord
from llamatelemetry.semconv import attributes as names
from scripts._telemetry_table import Attribute, read_table

NAMESPACES = tuple(
    f"{each}."
    for each in (
        "gen_ai",
        "llamatelemetry",
        "openai",
        "hw",
        "gpu",
        "server",
        "error",
        "http",
        "url",
    )
)
HEADER, HEADER_ROW = "http.response.header.", "http.response.header.<name>"
DETAILS_EVENT = "gen_ai.client.inference.operation.details"
# Content is structured on events, and JSON text on spans.
STRUCTURED = frozenset(
    {
        names.GEN_AI_INPUT_MESSAGES,
        names.GEN_AI_OUTPUT_MESSAGES,
        names.GEN_AI_SYSTEM_INSTRUCTIONS,
        names.GEN_AI_TOOL_DEFINITIONS,
    }
)
# Set by the upload hook of opentelemetry-util-genai.
OF_HOOKS = frozenset(
    {
        *("gen_ai.input.messages_ref", "gen_ai.output.messages_ref"),
        *("gen_ai.system_instructions_ref", "gen_ai.tool.definitions_ref"),
    }
)
_OPERATIONS = {"invoke_workflow": "workflow", "invoke_agent": "agent", "execute_tool": "tool"}
_TYPES = {"string": str, "int": int, "double": float, "boolean": bool}


def is_own(scope: str) -> bool:
    """Return whether a scope is one of llamatelemetry."""
    first = scope.partition(".")[0]
    return first == "llamatelemetry" or first.startswith("llamatelemetry_instrumentation_")


def span_key(scope: str, name: str, attributes: Mapping[str, Any]) -> str:
    """Return the key of the row of a span."""
    if scope == "llamatelemetry.pipeline":
        return _OPERATIONS.get(attributes.get(names.GEN_AI_OPERATION_NAME, ""), "task")
    if name == "llama_server start":
        return "server-start"
    if names.PHASE in attributes:
        return "phase"
    return "benchmark" if "llamatelemetry.bench.load" in attributes else "call"


def span_problems(
    scope: str, name: str, kind: str, attributes: Mapping[str, Any], events: Iterable[str] = ()
) -> Iterator[str]:
    """Yield differences between a span and its row. `kind` is in upper case."""
    table = read_table()
    key = span_key(scope, name, attributes)
    row = next(each for each in table.spans if each.key == key)
    if kind not in row.kinds or scope not in row.scopes:
        yield f"span {name!r} ({key}) of kind {kind} and scope {scope}"
    yield from _attribute_problems(attributes, {key, "any"}, f"span {name!r} ({key})")
    for event in set(events) - {each.name for each in table.events}:
        yield f"event {event!r} on span {name!r}"


def resource_problems(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield attributes of a resource that the reference lacks, in llamatelemetry's namespaces."""
    yield from _attribute_problems(attributes, {"resource"}, "the resource")


def log_problems(name: str, attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield differences between an event and its row."""
    if name != DETAILS_EVENT:
        yield f"event {name!r}"
    yield from _attribute_problems(
        {key: value for key, value in attributes.items() if key not in STRUCTURED},
        {"details", "any"},
        f"event {name!r}",
    )


def metric_problems(
    name: str, unit: str, instrument: str, points: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield differences between a metric and its row. `points` are attributes of data points."""
    row = read_table().metrics.get(name)
    if row is None:
        yield f"metric {name!r}"
        return
    if (row.unit, row.instrument) != (unit, instrument):
        yield f"metric {name!r}: {instrument} in {unit}, not {row.instrument} in {row.unit}"
    for attributes in points:
        for unknown in attributes.keys() - set(row.attributes):
            yield f"attribute {unknown!r} of metric {name!r}"


def _attribute_problems(
    attributes: Mapping[str, Any], allowed: set[str], where: str
) -> Iterator[str]:
    known = read_table().attributes
    for name, value in attributes.items():
        row = known.get(HEADER_ROW if name.startswith(HEADER) else name)
        if row is None:
            if name.startswith(NAMESPACES) and name not in OF_HOOKS:
                yield f"attribute {name!r} of {where}"
        elif not allowed.intersection(row.on):
            yield f"attribute {name!r} of {where}, where the reference does not have it"
        elif not _has_type(value, row):
            yield f"attribute {name!r} of {where} is {value!r}, not {row.type}"


def _has_type(value: Any, row: Attribute) -> bool:
    kind = _TYPES[row.type.removesuffix("[]")]
    # Not `isinstance`: OTLP and backends distinguish 1 from 1.0 and from `True`.
    if not row.type.endswith("[]"):
        return type(value) is kind
    return isinstance(value, Sequence) and all(type(each) is kind for each in value)


def record_problems(records: Iterable[Record]) -> Iterator[str]:
    """Yield differences between records that were received over OTLP and their rows."""
    for each in records:
        if any(key.startswith("telemetry.distro.") for key in each.resource):
            yield from resource_problems(each.resource)
        if not is_own(each.scope):
            continue
        if isinstance(each, SpanRecord):
            kind = SpanKind(each.kind - 1).name
            yield from span_problems(
                each.scope, each.name, kind, each.attributes, [event.name for event in each.events]
            )
        elif isinstance(each, MetricPoint):
            instrument = _instrument(each.kind, each.is_monotonic)
            yield from metric_problems(each.name, each.unit, instrument, [each.attributes])
        elif isinstance(each, LogRecord) and each.event_name:
            yield from log_problems(each.event_name, each.attributes)


def _instrument(kind: str, is_monotonic: bool) -> str:
    if kind == "sum":
        return "counter" if is_monotonic else "up-down counter"
    return "histogram" if "histogram" in kind else kind


class ReferenceProcessor(SpanProcessor):
    """Span processor that collects the differences of all ended spans."""

    def __init__(self) -> None:
        self.problems: set[str] = set()

    def on_end(self, span: ReadableSpan) -> None:
        scope = span.instrumentation_scope
        if scope is not None and is_own(scope.name):
            events = [event.name for event in span.events]
            self.problems.update(
                span_problems(scope.name, span.name, span.kind.name, span.attributes or {}, events)
            )


def metrics_problems(data: MetricsData | None) -> Iterator[str]:
    """Yield differences between the metrics of a reader and their rows."""
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics if is_own(scope.scope.name) else ():
                kind = type(metric.data).__name__.lower()
                instrument = _instrument(kind, getattr(metric.data, "is_monotonic", False))
                points = [point.attributes or {} for point in metric.data.data_points]
                yield from metric_problems(metric.name, metric.unit, instrument, points)


def logs_problems(logs: Iterable[ReadableLogRecord]) -> Iterator[str]:
    """Yield differences between the events of a logger provider and their rows."""
    for each in logs:
        scope = each.instrumentation_scope
        if scope is not None and is_own(scope.name) and each.log_record.event_name:
            yield from log_problems(
                each.log_record.event_name, dict(each.log_record.attributes or {})
            )
