"""What really ran, as a graph: services, pipelines, stages, models, servers, slots, GPUs.

A node is a thing, an edge what one did with the other, with counts, latency, tokens and errors.
Names only, never content. Building it needs no SDK; what feeds it is in
`llamatelemetry.otel.trace_graph_processor`.
"""

from __future__ import annotations

import importlib
import weakref
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from llamatelemetry._optional import required_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NodeKind = Literal[
    "service", "pipeline", "agent", "stage", "tool", "model", "server", "slot", "gpu"
]
EdgeKind = Literal["calls", "runs on", "NVLink", "PCIe"]

MAX_NODES: Final = 1_000
MAX_EDGES: Final = 5_000


@dataclass(slots=True)
class Figures:
    """What is summed up over the times that something ran. Durations in milliseconds."""

    count: int = 0
    errors: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def mean_ms(self) -> float | None:
        """The mean duration, ``None`` before anything ran."""
        return self.total_ms / self.count if self.count else None

    def add(
        self, duration_ms: float, *, failed: bool, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Count one more time."""
        self.count += 1
        self.errors += failed
        self.total_ms += duration_ms
        self.max_ms = max(self.max_ms, duration_ms)
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def row(self) -> dict[str, Any]:
        """Give them by name, the mean among them."""
        return {**asdict(self), "mean_ms": self.mean_ms}


@dataclass(slots=True)
class Node:
    """A thing; ``id`` is its kind and name."""

    kind: NodeKind
    name: str
    figures: Figures = field(default_factory=Figures)

    @property
    def id(self) -> str:
        """What edges call it."""
        return f"{self.kind}:{self.name}"


@dataclass(slots=True)
class Edge:
    """What one node did with another."""

    source: str
    target: str
    kind: EdgeKind
    figures: Figures = field(default_factory=Figures)


class TraceGraph:
    """A graph of one trace or of all; what is beyond its bounds is counted in ``dropped``."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._edges: dict[tuple[str, str, str], Edge] = {}
        self.dropped = 0

    @property
    def nodes(self) -> list[Node]:
        """Give the nodes, in the order of their first appearance."""
        return list(self._nodes.values())

    @property
    def edges(self) -> list[Edge]:
        """Give the edges, in the order of their first appearance."""
        return list(self._edges.values())

    def node(self, kind: NodeKind, name: str) -> Node | None:
        """Give a node, a new one if need be; ``None`` when the graph is full."""
        key = f"{kind}:{name}"
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) >= MAX_NODES:
                self.dropped += 1
                return None
            found = self._nodes[key] = Node(kind, name)
        return found

    def edge(self, source: Node | None, target: Node | None, kind: EdgeKind) -> Edge | None:
        """Give an edge between two nodes, a new one if need be; ``None`` without one of them."""
        if source is None or target is None:
            return None
        key = (source.id, target.id, kind)
        found = self._edges.get(key)
        if found is None:
            if len(self._edges) >= MAX_EDGES:
                self.dropped += 1
                return None
            found = self._edges[key] = Edge(source.id, target.id, kind)
        return found

    def link(self, first: str, second: str, kind: Literal["NVLink", "PCIe"]) -> None:
        """Say how two GPUs, by UUID, are connected."""
        self.edge(self.node("gpu", first), self.node("gpu", second), kind)

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Give nodes and edges as plain values."""
        return {"nodes": list(self._node_rows()), "edges": list(self._edge_rows())}

    def to_dataframes(self) -> tuple[Any, Any]:
        """Give nodes and edges as pandas frames.

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
        """Give a Mermaid flowchart, as Markdown pages and wikis draw it."""
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
            yield {"id": node.id, "kind": node.kind, "name": node.name, **node.figures.row()}

    def _edge_rows(self) -> Iterator[dict[str, Any]]:
        for edge in self._edges.values():
            ends = {"source": edge.source, "target": edge.target, "kind": edge.kind}
            yield {**ends, **edge.figures.row()}


class Keeper(Protocol):
    """Keeps the graphs of traces, as `TraceGraphProcessor` does."""

    def graph(self, trace_id: int | str | None = None) -> TraceGraph:
        """Give the graph of a trace, or of all; ``KeyError`` when it is not kept."""
        ...


_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


def kept_by(keeper: Keeper) -> None:
    """Let `kept_graph` find what a keeper keeps, for as long as somebody else holds it."""
    _keepers.add(keeper)


def kept_graph(trace_id: int | str) -> TraceGraph:
    """Give the graph of one of the last traces of this process, whoever keeps it.

    Raises:
        ValueError: a text that is no trace id.
        RuntimeError: no graphs are kept.
        KeyError: the trace is not among the last ones.
    """
    if isinstance(trace_id, str):
        try:
            int(trace_id, 16)
        except ValueError:
            raise ValueError(f"{trace_id!r} is not a trace id of 32 hex digits") from None
    missing: KeyError | None = None
    for keeper in list(_keepers):
        try:
            return keeper.graph(trace_id)
        except KeyError as error:
            missing = error
    if missing is not None:
        raise missing
    raise RuntimeError(
        "no trace graphs are kept: call llamatelemetry.init(enable_trace_graphs=True), or set "
        "LLAMATELEMETRY_TRACE_GRAPHS=true"
    )


_NODE_COLUMNS: Final = ["id", "kind", "name", *Figures().row()]
_EDGE_COLUMNS: Final = ["source", "target", "kind", *Figures().row()]
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
    figures = edge.figures
    if not figures.count:
        return edge.kind
    said: Iterable[str] = (
        f"{edge.kind} {figures.count}x",
        f"{figures.mean_ms:.0f} ms",
        f"{figures.input_tokens}+{figures.output_tokens} tok" * bool(figures.output_tokens),
        f"{figures.errors} failed" * bool(figures.errors),
    )
    return ", ".join(filter(None, said))


def _escaped(label: str) -> str:
    """Mermaid knows HTML entities, written with a hash sign."""
    escaped = label.replace("#", "#35;").replace('"', "#quot;")
    return escaped.replace("<", "#lt;").replace(">", "#gt;").replace("\n", " ")
