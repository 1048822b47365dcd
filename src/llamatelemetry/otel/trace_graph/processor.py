"""Span processor that builds the graphs of executed traces, in bounded memory."""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import StatusCode

from llamatelemetry._limits import Limit
from llamatelemetry.otel.process.forking import ForkSafeLock
from llamatelemetry.otel.trace_graph.graph import NodeKind, TraceGraph, processors
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from llamatelemetry.otel.trace_graph.graph import Node

_TRACES: Final = Limit("trace_graphs", 256, "Traces with a graph")
_OPEN_SPANS: Final = Limit("trace_graph_spans", 20_000, "Open spans")

_STEPS: Final[Mapping[str, tuple[NodeKind, str]]] = {
    "invoke_workflow": ("pipeline", names.GEN_AI_WORKFLOW_NAME),
    "invoke_agent": ("agent", names.GEN_AI_AGENT_NAME),
    "execute_tool": ("tool", names.GEN_AI_TOOL_NAME),
}
_GPU_IDS: Final = "llamatelemetry.gpu.ids"


class _Step(NamedTuple):
    """Kind and name of a node that is not in any graph yet."""

    kind: NodeKind
    name: str


class _Open(NamedTuple):
    """An open span: the step that it belongs to, and the step that its children belong to."""

    parent: _Step
    step: _Step


class TraceGraphProcessor(SpanProcessor):
    """Keeps a graph for each of the last 256 traces, and one for all traces.

    A finalizer or a signal handler can start and end spans at any point, also while this thread
    changes or copies a graph. Ended spans are therefore queued, by operations that are atomic,
    and whichever thread has the graphs adds them.

    Args:
        redact: Returns the redacted value of an attribute, given its name and value. Nodes of
            steps are named when their span starts, before redaction of the span, and a graph may
            be uploaded.
    """

    def __init__(self, redact: Callable[[str, Any], Any] = lambda _, value: value) -> None:
        self._redact = redact
        self._lock = ForkSafeLock()
        self._ended: deque[tuple[_Open, ReadableSpan]] = deque()
        self._is_in_use = False  # changed under the lock only
        self._open: dict[tuple[int, int], _Open] = {}
        self._graphs: dict[int, TraceGraph] = {}
        self._all = TraceGraph()
        processors.add(self)

    def graph(self, trace_id: int | str | None = None) -> TraceGraph:
        """Return a copy of the graph of a trace, or of all traces.

        Raises:
            KeyError: The trace is not among the recent ones.
        """
        number = int(trace_id, 16) if isinstance(trace_id, str) else trace_id
        self._add_ended(wait=True)
        with self._lock.held():
            was_in_use, self._is_in_use = self._is_in_use, True
            try:
                graph = self._all if number is None else self._graphs.get(number)
                found = copy.deepcopy(graph)
            finally:
                self._is_in_use = was_in_use
        self._add_ended()
        if found is not None:
            return found
        raise KeyError(
            f"Trace {number:032x} is not among the last {_TRACES.most} traces of this process"
        )

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Remember the parent and the step of the span."""
        context, parent = span.get_span_context(), span.parent
        enclosing = None
        if parent is not None and not parent.is_remote:
            enclosing = self._open.get((parent.trace_id, parent.span_id))
        parent_step = enclosing.step if enclosing is not None else _service(span, self._redact)
        step = _step_of(span.attributes or {}, self._redact) or parent_step
        self._open[context.trace_id, context.span_id] = _Open(parent_step, step)
        _OPEN_SPANS.trim(self._open)  # Some spans are never ended.

    def on_end(self, span: ReadableSpan) -> None:
        """Add the ended span to its graphs."""
        context = span.get_span_context()
        if context is None:
            return
        opened = self._open.pop((context.trace_id, context.span_id), None)
        if opened is not None:
            self._ended.append((opened, span))
            self._add_ended()

    def _add_ended(self, *, wait: bool = False) -> None:
        """Add the queued spans to their graphs, unless another caller is at it. `wait` for that one."""
        lock = self._lock.held()
        # Again if a span was queued after the last look at the queue, before the lock was free.
        while self._ended and lock.acquire(blocking=wait):
            try:
                if self._is_in_use:  # by the code that this call interrupts
                    return
                self._is_in_use = True
                try:
                    while self._ended:
                        self._add(*self._ended.popleft())
                finally:
                    self._is_in_use = False
            finally:
                lock.release()

    def _add(self, opened: _Open, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None:
            return
        for graph in (self._all, self._graph_of(context.trace_id)):
            if opened.step is not opened.parent:
                _add_step(graph, opened, span)
            elif _is_call(span.attributes or {}):
                _add_call(graph, opened.parent, span)

    def _graph_of(self, trace_id: int) -> TraceGraph:
        graph = self._graphs.get(trace_id)
        if graph is None:
            graph = self._graphs[trace_id] = TraceGraph()
            _TRACES.trim(self._graphs)
        return graph


def _service(span: ReadableSpan, redact: Callable[[str, Any], Any]) -> _Step:
    name = (span.attributes or {}).get("service.name")
    name = name or span.resource.attributes.get("service.name", "unknown")
    return _Step("service", str(redact("service.name", name)))


def _step_of(attributes: Mapping[str, Any], redact: Callable[[str, Any], Any]) -> _Step | None:
    operation = attributes.get(names.GEN_AI_OPERATION_NAME)
    if operation in _STEPS:
        kind, attribute = _STEPS[operation]
        return _Step(kind, str(redact(attribute, attributes.get(attribute, "unnamed"))))
    if operation is None and names.TASK in attributes:
        return _Step("stage", str(redact(names.TASK, attributes[names.TASK])))
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


def _add_step(graph: TraceGraph, opened: _Open, span: ReadableSpan) -> None:
    node, parent = graph.node(*opened.step), graph.node(*opened.parent)
    edge = graph.edge(parent, node, "calls")
    for each in (node, edge):
        if each is not None:
            each.stats.add(_duration_ms(span), failed=_failed(span))


def _add_call(graph: TraceGraph, parent: _Step, span: ReadableSpan) -> None:
    found: Mapping[str, Any] = span.attributes or {}
    model_name = found.get(names.GEN_AI_RESPONSE_MODEL) or found.get(names.GEN_AI_REQUEST_MODEL)
    model = graph.node("model", str(model_name or "unknown"))
    locations = _locations(graph, found)
    server = locations[0] if locations and locations[0].kind == "server" else None
    edges = [graph.edge(graph.node(*parent), model, "calls")]
    if server is not None:
        edges.append(graph.edge(model, server, "runs on"))
    edges += [
        graph.edge(server or model, each, "runs on") for each in locations if each is not server
    ]
    stats = [each.stats for each in (model, *locations, *edges) if each is not None]
    for each in stats:
        each.add(
            _duration_ms(span),
            failed=_failed(span),
            input_tokens=_tokens(found, names.GEN_AI_USAGE_INPUT_TOKENS),
            output_tokens=_tokens(found, names.GEN_AI_USAGE_OUTPUT_TOKENS),
        )


def _locations(graph: TraceGraph, found: Mapping[str, Any]) -> list[Node]:
    """Return the nodes where a call ran: server, slot and GPUs, as far as they are known."""
    locations: list[Node | None] = []
    address, port = found.get(names.SERVER_ADDRESS), found.get(names.SERVER_PORT)
    server = address if port is None else f"{address}:{port}"
    if address is not None:
        locations.append(graph.node("server", str(server)))
        if names.SLOT in found:
            locations.append(graph.node("slot", f"{server}/{found[names.SLOT]}"))
    # Energy attributes prove that the engine uses these GPUs. Every span has their state.
    if "llamatelemetry.gpu.energy" in found:
        ids: Sequence[str] = found.get(_GPU_IDS, ())
        locations += [graph.node("gpu", gpu) for gpu in ids]
    return [each for each in locations if each is not None]


def _tokens(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    return value if isinstance(value, int) else 0
