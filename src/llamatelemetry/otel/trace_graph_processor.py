"""Builds the graphs of what really ran from spans as they start and end, in bounded memory."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import StatusCode

from llamatelemetry.otel.trace_graph import NodeKind, TraceGraph, kept_by
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from llamatelemetry.otel.trace_graph import Node

MAX_TRACES: Final = 256
MAX_OPEN_SPANS: Final = 20_000

_STEPS: Final[Mapping[str, tuple[NodeKind, str]]] = {
    "invoke_workflow": ("pipeline", names.GEN_AI_WORKFLOW_NAME),
    "invoke_agent": ("agent", names.GEN_AI_AGENT_NAME),
    "execute_tool": ("tool", names.GEN_AI_TOOL_NAME),
}
_GPU_IDS: Final = "llamatelemetry.gpu.ids"


class _Step(NamedTuple):
    """A node that is not in any graph yet."""

    kind: NodeKind
    name: str


class _Open(NamedTuple):
    """A span that has not ended: what it is below, and what is below it belongs to."""

    above: _Step
    step: _Step


class TraceGraphProcessor(SpanProcessor):
    """Keeps a graph of each of the last traces, and one of all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[int, int], _Open] = OrderedDict()
        self._graphs: OrderedDict[int, TraceGraph] = OrderedDict()
        self._all = TraceGraph()
        kept_by(self)

    def graph(self, trace_id: int | str | None = None) -> TraceGraph:
        """Give a copy of the graph of a trace, by its id as a number or in hex, or of that of all.

        Raises:
            KeyError: the trace is not among the last ones.
        """
        with self._lock:
            if trace_id is None:
                return copy.deepcopy(self._all)
            number = int(trace_id, 16) if isinstance(trace_id, str) else trace_id
            graph = self._graphs.get(number)
            if graph is not None:
                return copy.deepcopy(graph)
        raise KeyError(
            f"no trace {number:032x} among the last {MAX_TRACES} that this process took part in"
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Remember where the span is."""
        context, parent = span.get_span_context(), span.parent
        with self._lock:
            around = None
            if parent is not None and not parent.is_remote:
                around = self._open.get((parent.trace_id, parent.span_id))
            above = around.step if around is not None else _service(span)
            step = _step_of(span.attributes or {}) or above
            self._open[context.trace_id, context.span_id] = _Open(above, step)
            if len(self._open) > MAX_OPEN_SPANS:  # spans that nobody ends
                self._open.popitem(last=False)

    def on_end(self, span: ReadableSpan) -> None:
        """Count what the span was."""
        context = span.get_span_context()
        if context is None:
            return
        with self._lock:
            known = self._open.pop((context.trace_id, context.span_id), None)
            if known is None:
                return
            for graph in (self._all, self._graph_of(context.trace_id)):
                if known.step is not known.above:
                    _add_step(graph, known, span)
                elif _is_call(span.attributes or {}):
                    _add_call(graph, known.above, span)

    def _graph_of(self, trace_id: int) -> TraceGraph:
        graph = self._graphs.get(trace_id)
        if graph is None:
            graph = self._graphs[trace_id] = TraceGraph()
            if len(self._graphs) > MAX_TRACES:
                self._graphs.popitem(last=False)
        return graph


def _service(span: ReadableSpan) -> _Step:
    name = (span.attributes or {}).get("service.name")
    return _Step("service", str(name or span.resource.attributes.get("service.name", "unknown")))


def _step_of(attributes: Mapping[str, Any]) -> _Step | None:
    operation = attributes.get(names.GEN_AI_OPERATION_NAME)
    if operation in _STEPS:
        kind, attribute = _STEPS[operation]
        return _Step(kind, str(attributes.get(attribute, "unnamed")))
    if operation is None and names.TASK in attributes:
        return _Step("stage", str(attributes[names.TASK]))
    return None


def _is_call(attributes: Mapping[str, Any]) -> bool:
    return (
        attributes.get(names.GEN_AI_OPERATION_NAME) in INFERENCE_OPERATIONS
        and names.PHASE not in attributes
    )


def _duration_ms(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / 1e6


def _failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def _add_step(graph: TraceGraph, known: _Open, span: ReadableSpan) -> None:
    node, above = graph.node(*known.step), graph.node(*known.above)
    edge = graph.edge(above, node, "calls")
    for each in (node, edge):
        if each is not None:
            each.figures.add(_duration_ms(span), failed=_failed(span))


def _add_call(graph: TraceGraph, above: _Step, span: ReadableSpan) -> None:
    found: Mapping[str, Any] = span.attributes or {}
    model_name = found.get(names.GEN_AI_RESPONSE_MODEL) or found.get(names.GEN_AI_REQUEST_MODEL)
    model = graph.node("model", str(model_name or "unknown"))
    places = _places(graph, found)
    server = places[0] if places and places[0].kind == "server" else None
    edges = [graph.edge(graph.node(*above), model, "calls")]
    if server is not None:
        edges.append(graph.edge(model, server, "runs on"))
    edges += [graph.edge(server or model, each, "runs on") for each in places if each is not server]
    figures = [each.figures for each in (model, *places, *edges) if each is not None]
    for each in figures:
        each.add(
            _duration_ms(span),
            failed=_failed(span),
            input_tokens=_tokens(found, names.GEN_AI_USAGE_INPUT_TOKENS),
            output_tokens=_tokens(found, names.GEN_AI_USAGE_OUTPUT_TOKENS),
        )


def _places(graph: TraceGraph, found: Mapping[str, Any]) -> list[Node]:
    """Where a call ran: its server, the slot of it, the GPUs; as far as that is known."""
    places: list[Node | None] = []
    address, port = found.get(names.SERVER_ADDRESS), found.get(names.SERVER_PORT)
    server = address if port is None else f"{address}:{port}"
    if address is not None:
        places.append(graph.node("server", str(server)))
        if names.SLOT in found:
            places.append(graph.node("slot", f"{server}/{found[names.SLOT]}"))
    # Energy tells that the engine is on these GPUs; their state alone is on every span.
    if "llamatelemetry.gpu.energy" in found:
        ids: Sequence[str] = found.get(_GPU_IDS, ())
        places += [graph.node("gpu", gpu) for gpu in ids]
    return [place for place in places if place is not None]


def _tokens(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    return value if isinstance(value, int) else 0
