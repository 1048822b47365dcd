"""Graphs to draw: nodes and edges with names and statistics.

Only the columns listed here are drawn. Data that is added to traces later, such as prompts, is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import urlsplit

from llamatelemetry.genai import model_name as base_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Detail = int | float | str

COLORS: Final = {
    "service": "#3567d6",
    "pipeline": "#8a5cd0",
    "agent": "#b0478f",
    "stage": "#6c7a8f",
    "tool": "#c2772b",
    "model": "#2e9e6b",
    "server": "#127c8a",
    "slot": "#6aa84f",
    "gpu": "#76a800",
    "nic": "#9a6b4f",
}

_MAX_NAME: Final = 200
_STATISTICS: Final = ("count", "errors", "mean_ms", "max_ms", "input_tokens", "output_tokens")
_TOKENS: Final = ("input_tokens", "output_tokens")
_UNDIRECTED_KINDS: Final = {"NVLink", "PCIe"}


@dataclass(frozen=True, slots=True)
class PlotNode:
    """A node. Its kind is a key of `COLORS`, its weight the relative size in the drawing."""

    id: str
    kind: str
    name: str
    details: Mapping[str, Detail] = field(default_factory=dict[str, Detail])
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PlotEdge:
    """A relation between two nodes, named by their ids. Its kind is such as `calls` or `NVLink`."""

    source: str
    target: str
    kind: str
    details: Mapping[str, Detail] = field(default_factory=dict[str, Detail])
    directed: bool = True


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph to draw, or a note why it is empty."""

    kind: Literal["pipeline", "trace", "topology"]
    title: str
    nodes: Sequence[PlotNode]
    edges: Sequence[PlotEdge]
    note: str = ""


def pipeline_graph(
    model_name: str,
    backend: str,
    gpu_names: Sequence[str],
    tensor_split: Sequence[float] | None,
    server_url: str | None,
) -> Graph:
    """Return the graph of a served model: program, model, server and GPUs."""
    shares = _shares(tensor_split, len(gpu_names))
    address = _address(server_url)
    program = PlotNode("program", "service", "this program")
    model = PlotNode("model", "model", _shorten(base_name(model_name) or model_name))
    server_details: dict[str, Detail] = {"address": address} if address else {}
    server = PlotNode("server", "server", _shorten(backend), server_details)
    gpus = [
        PlotNode(
            f"gpu:{number}",
            "gpu",
            _shorten(f"GPU{number} {name}"),
            _without_none(share=share),
            share or 1,
        )
        for number, (name, share) in enumerate(zip(gpu_names, shares, strict=True))
    ]
    edges = [PlotEdge("program", "model", "calls"), PlotEdge("model", "server", "runs on")]
    edges += [
        PlotEdge("server", gpu.id, "runs on", _without_none(share=share))
        for gpu, share in zip(gpus, shares, strict=True)
        if share != 0
    ]
    return Graph(
        "pipeline", f"{model.name} on {server.name}", [program, model, server, *gpus], edges
    )


def trace_graph(trace: Any) -> Graph:
    """Return the drawing of a trace graph."""
    found = _as_dict(trace, "the result of llamatelemetry.trace_graph()")
    nodes = [_trace_node(row) for row in _rows(found, "nodes")]
    edges = [
        PlotEdge(
            str(row["source"]),
            str(row["target"]),
            str(row["kind"]),
            _statistics(row),
            directed=row["kind"] not in _UNDIRECTED_KINDS,
        )
        for row in _rows(found, "edges")
    ]
    note = "" if nodes else "No span has ended yet."
    return Graph("trace", "Trace graph", nodes, edges, note)


def topology_graph(topology: Any) -> Graph:
    """Return the drawing of the GPUs of a machine and their connections."""
    found = _as_dict(topology, "the result of TopologyMapper().detect()")
    nodes = [_gpu(row) for row in _rows(found, "gpus")]
    nodes += [
        PlotNode(str(row["label"]), "nic", _shorten(f"{row['label']} {row.get('name') or ''}"))
        for row in found.get("nics") or ()
    ]
    edges = [_link(row) for row in _rows(found, "links") if row.get("label")]
    note = "" if nodes else str(found.get("reason") or "No GPU was found.")
    return Graph("topology", "GPUs and their connections", nodes, edges, note)


def _trace_node(row: Mapping[str, Any]) -> PlotNode:
    name = _shorten(row["name"])
    weight = float(row.get("count") or 1)
    return PlotNode(str(row["id"]), str(row["kind"]), name, _statistics(row), weight)


def _statistics(row: Mapping[str, Any]) -> dict[str, Detail]:
    """Return the statistics of a row: none without calls, and no token counts of 0."""
    if not row.get("count"):
        return {}
    found = {name: row[name] for name in _STATISTICS if row.get(name) is not None}
    for name in _TOKENS:
        if not found.get(name):
            found.pop(name, None)
    for name in ("mean_ms", "max_ms"):
        if name in found:
            found[name] = round(float(found[name]), 3)
    return found


def _gpu(row: Mapping[str, Any]) -> PlotNode:
    label = str(row["label"])
    kept = ("uuid", "pci_bus_id", "cpu_affinity", "numa_affinity", "gpu_numa_node")
    details = _without_none(**{name: row.get(name) for name in kept})
    if row.get("nvlinks_active"):
        details["nvlinks_active"] = row["nvlinks_active"]
    return PlotNode(label, "gpu", _shorten(f"{label} {row.get('name') or ''}"), details)


def _link(row: Mapping[str, Any]) -> PlotEdge:
    details = _without_none(link=row["label"], pcie=row.get("pcie"))
    if row.get("through_nvswitch"):
        details["through"] = "NVSwitch"
    if row.get("p2p"):
        details["p2p"] = ", ".join(f"{name} {state}" for name, state in row["p2p"].items())
    kind = "NVLink" if row.get("nvlinks") else "PCIe"
    return PlotEdge(str(row["a"]), str(row["b"]), kind, details, directed=False)


def _shares(tensor_split: Sequence[float] | None, gpus: int) -> list[float | None]:
    """Return the share of the model on each GPU, 0 to 1; `None` for each if it is unknown."""
    if tensor_split is None:
        return [None] * gpus
    parts = [float(part) for part in tensor_split]
    if len(parts) != gpus:
        raise ValueError(
            f"tensor_split must have one part for each of the {gpus} gpu_names, got {len(parts)}"
        )
    if any(part < 0 or not math.isfinite(part) for part in parts):
        raise ValueError(
            f"tensor_split must contain numbers of 0 or more, got {list(tensor_split)!r}"
        )
    whole = sum(parts)
    if parts and not whole:
        raise ValueError("tensor_split must have a part greater than 0")
    return [round(part / whole, 4) for part in parts]


def _address(url: str | None) -> str | None:
    """Return host and port only. Other parts of a URL may contain a password or a key."""
    if not url:
        return None
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        port = parts.port
    except ValueError as error:
        raise ValueError(f"server_url must be a URL, got an invalid one: {error}") from None
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _shorten(name: Any) -> str:
    text = str(name).strip()
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 1]}…"


def _without_none(**values: Any) -> dict[str, Detail]:
    return {name: value for name, value in values.items() if value is not None}


def _as_dict(value: Any, wanted: str) -> Mapping[str, Any]:
    to_dict = getattr(value, "to_dict", None)
    if not callable(to_dict):
        raise TypeError(f"The argument must be {wanted}, got {type(value).__name__}")
    return cast("Mapping[str, Any]", to_dict())


def _rows(found: Mapping[str, Any], name: str) -> Iterable[Mapping[str, Any]]:
    if name not in found:
        raise TypeError(
            f"to_dict() of the argument must contain {name!r}, got {', '.join(sorted(found))}"
        )
    return found[name]
