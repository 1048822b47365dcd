"""Graph of executed traces: services, pipelines, stages, models, servers, slots and GPUs.

Nodes and edges have counts, latency, tokens and errors. The graph contains names, never message
content. It does not need the SDK; `llamatelemetry.otel.trace_graph.processor` builds it from spans.
"""

from __future__ import annotations

import importlib
import weakref
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from llamatelemetry._limits import REJECTS, Limit
from llamatelemetry._optional import required_by
from llamatelemetry._table import html_table
from llamatelemetry._terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor

NodeKind = Literal[
    "service", "pipeline", "agent", "stage", "tool", "model", "server", "slot", "gpu"
]
EdgeKind = Literal["calls", "runs on", "NVLink", "PCIe"]

_NODES: Final = Limit("trace_graph_nodes", 1_000, "Nodes of a trace graph", REJECTS)
_EDGES: Final = Limit("trace_graph_edges", 5_000, "Edges of a trace graph", REJECTS)
GRAPHS_DISABLED: Final = (
    "Trace graphs are disabled. Call llamatelemetry.init(enable_trace_graphs=True) or set "
    "LLAMATELEMETRY_TRACE_GRAPHS=true"
)


@dataclass(slots=True)
class ExecutionStats:
    """Totals over all executions of a node or an edge. Durations are in milliseconds."""

    count: int = 0
    errors: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def mean_ms(self) -> float | None:
        """Mean duration in milliseconds, or `None` without an execution."""
        return self.total_ms / self.count if self.count else None

    def add(
        self, duration_ms: float, *, failed: bool, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Add one execution."""
        self.count += 1
        self.errors += failed
        self.total_ms += duration_ms
        self.max_ms = max(self.max_ms, duration_ms)
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def row(self) -> dict[str, Any]:
        """Return the totals and the mean by name."""
        return {**asdict(self), "mean_ms": self.mean_ms}


@dataclass(slots=True)
class Node:
    """A node of the graph, such as a model or a server."""

    kind: NodeKind
    name: str
    stats: ExecutionStats = field(default_factory=ExecutionStats)

    @property
    def id(self) -> str:
        """Identifier in edges: kind and name."""
        return f"{self.kind}:{self.name}"


@dataclass(slots=True)
class Edge:
    """A relation between two nodes, with the executions that used it."""

    source: str
    target: str
    kind: EdgeKind
    stats: ExecutionStats = field(default_factory=ExecutionStats)


class TraceGraph:
    """The graph of one trace or of all traces.

    Attributes:
        dropped: Number of nodes and edges beyond the limits: 1,000 nodes, 5,000 edges.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: dict[tuple[str, str, str], Edge] = {}
        self.dropped = 0

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in the order of their first appearance."""
        return list(self._nodes.values())

    @property
    def edges(self) -> list[Edge]:
        """The edges, in the order of their first appearance."""
        return list(self._edges.values())

    def node(self, kind: NodeKind, name: str) -> Node | None:
        """Return a node, and create it if it is new. Return `None` if the graph is full."""
        key = f"{kind}:{name}"
        found = self._nodes.get(key)
        if found is None:
            if not _NODES.has_room(self._nodes):
                self.dropped += 1
                return None
            found = self._nodes[key] = Node(kind, name)
        return found

    def edge(self, source: Node | None, target: Node | None, kind: EdgeKind) -> Edge | None:
        """Return an edge, and create it if it is new. Return `None` without one of the nodes."""
        if source is None or target is None:
            return None
        key = (source.id, target.id, kind)
        found = self._edges.get(key)
        if found is None:
            if not _EDGES.has_room(self._edges):
                self.dropped += 1
                return None
            found = self._edges[key] = Edge(source.id, target.id, kind)
        return found

    def link(self, first: str, second: str, kind: Literal["NVLink", "PCIe"]) -> None:
        """Add the connection of two GPUs, given by UUID."""
        self.edge(self.node("gpu", first), self.node("gpu", second), kind)

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return nodes and edges as dictionaries."""
        return {"nodes": list(self._node_rows()), "edges": list(self._edge_rows())}

    def _repr_html_(self) -> str:
        """Return tables of the nodes and edges for a notebook."""

        def figures(stats: ExecutionStats) -> list[str]:
            mean = "" if stats.mean_ms is None else f"{stats.mean_ms:.1f}"
            return [str(stats.count), str(stats.errors), mean]

        header = ("Count", "Errors", "Mean (ms)")
        nodes = [[node.kind, node.name, *figures(node.stats)] for node in self.nodes]
        edges = [[edge.source, edge.kind, edge.target, *figures(edge.stats)] for edge in self.edges]
        return html_table("Nodes", ("Kind", "Name", *header), nodes, texts=2) + html_table(
            "Edges", ("From", "Relation", "To", *header), edges, texts=3
        )

    def to_dataframes(self) -> tuple[Any, Any]:
        """Return nodes and edges as pandas data frames.

        Raises:
            ImportError: pandas is not installed.
        """
        with required_by("to_dataframes()", "pandas"):
            pandas: Any = importlib.import_module("pandas")
        return (
            pandas.DataFrame(list(self._node_rows()), columns=_NODE_COLUMNS),
            pandas.DataFrame(list(self._edge_rows()), columns=_EDGE_COLUMNS),
        )

    def to_mermaid(self) -> str:
        """Return a Mermaid flowchart, which Markdown pages and wikis can display."""
        numbers = {name: f"n{number}" for number, name in enumerate(self._nodes)}
        lines = ["flowchart LR"]
        for node in self._nodes.values():
            opening, closing = _SHAPES[node.kind]
            label = _escaped(f"{node.kind} {node.name}")
            lines.append(f'    {numbers[node.id]}{opening}"{label}"{closing}')
        for edge in self._edges.values():
            arrow = "---" if edge.kind in {"NVLink", "PCIe"} else "-->"
            source, target = numbers[edge.source], numbers[edge.target]
            lines.append(f'    {source} {arrow}|"{_edge_label(edge)}"| {target}')
        return "\n".join(lines) + "\n"

    def _node_rows(self) -> Iterator[dict[str, Any]]:
        for node in self._nodes.values():
            yield {"id": node.id, "kind": node.kind, "name": node.name, **node.stats.row()}

    def _edge_rows(self) -> Iterator[dict[str, Any]]:
        for edge in self._edges.values():
            ends = {"source": edge.source, "target": edge.target, "kind": edge.kind}
            yield {**ends, **edge.stats.row()}


processors: Final[weakref.WeakSet[TraceGraphProcessor]] = weakref.WeakSet()
"""The trace graph processors of this process, as long as other references keep them alive."""


def find_graph(trace_id: int | str) -> TraceGraph:
    """Return the graph of a recent trace of this process.

    Raises:
        ValueError: The text is not a trace id.
        RuntimeError: Trace graphs are disabled.
        KeyError: The trace is not among the recent ones.
    """
    if isinstance(trace_id, str):
        try:
            int(trace_id, 16)
        except ValueError:
            raise ValueError(f"trace_id must be 32 hexadecimal digits, got {trace_id!r}") from None
    missing: KeyError | None = None
    for processor in list(processors):
        try:
            return processor.graph(trace_id)
        except KeyError as error:
            missing = error
    if missing is not None:
        raise missing
    raise RuntimeError(GRAPHS_DISABLED)


_NODE_COLUMNS: Final = ["id", "kind", "name", *ExecutionStats().row()]
_EDGE_COLUMNS: Final = ["source", "target", "kind", *ExecutionStats().row()]
_SHAPES: Final = {
    "service": ("([", "])"),
    "pipeline": ("[[", "]]"),
    "agent": ("{{", "}}"),
    "stage": ("[", "]"),
    "tool": ("[/", "/]"),
    "model": ("(", ")"),
    "server": ("[(", ")]"),
    "slot": ("[", "]"),
    "gpu": ("[[", "]]"),
}


def _edge_label(edge: Edge) -> str:
    stats = edge.stats
    if not stats.count:
        return edge.kind
    parts: Iterable[str] = (
        f"{edge.kind} {stats.count}x",
        f"{stats.mean_ms:.0f} ms",
        f"{stats.input_tokens}+{stats.output_tokens} tok" * bool(stats.output_tokens),
        f"{stats.errors} failed" * bool(stats.errors),
    )
    return ", ".join(filter(None, parts))


def _escaped(label: str) -> str:
    # Mermaid supports HTML entities, written with a hash sign.
    escaped = printable(label).replace("#", "#35;").replace('"', "#quot;")
    return escaped.replace("<", "#lt;").replace(">", "#gt;").replace("\n", " ")
