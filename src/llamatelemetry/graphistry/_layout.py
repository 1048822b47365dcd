"""Positions of nodes and paths of edges in a drawing.

Directed graphs are drawn in layers from left to right, others on a circle. No library fits: the
layouts of networkx need numpy and have no dummy nodes, and igraph has the GPL as its license.
"""

from __future__ import annotations

import math
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Position = tuple[float, float]
PlotEdge = tuple[str, str]

_SWEEPS: Final = 8
# Graphs with more dummy nodes than this are unreadable anyway.
_MAX_DUMMY_NODES: Final = 2_000


class Layout(NamedTuple):
    """Position of each node, and of the points in the layers that an edge passes, if any."""

    positions: Mapping[str, Position]
    paths: Mapping[PlotEdge, Sequence[Position]]


def circle(ids: Sequence[str]) -> Layout:
    """Place nodes at equal distances on a circle, clockwise from the top."""
    radius = max(1.0, len(ids) / math.tau)
    turn = math.tau / max(1, len(ids))
    positions = {
        name: (radius * math.sin(turn * number), radius * math.cos(turn * number))
        for number, name in enumerate(ids)
    }
    return Layout(positions, {})


def layers(ids: Sequence[str], edges: Sequence[PlotEdge]) -> Layout:
    """Place each node to the right of its predecessors, with few crossings.

    Uses Sugiyama's method: remove cycles, use the longest path to a node as its layer, and add dummy
    nodes in the layers that an edge passes. Then order each layer by the mean position of its
    neighbors, in both directions.
    """
    node_ids = set(ids)
    # A dict keeps the order, so that the same graph has the same drawing.
    unique_edges = list(dict.fromkeys((a, b) for a, b in edges if a != b and {a, b} <= node_ids))
    acyclic = _without_cycles(ids, unique_edges)
    layer = _layers(ids, acyclic)
    dummy_nodes = _dummy_nodes(acyclic, layer)
    for dummies in dummy_nodes.values():
        layer |= dummies
    links = [
        link
        for (source, target), dummies in dummy_nodes.items()
        for link in zip([source, *dummies], [*dummies, target], strict=True)
    ]
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name, index in layer.items():
        rows[index].append(name)
    _reduce_crossings(rows, links)
    positions = {
        name: (float(index), (len(row) - 1) / 2 - position)
        for index, row in enumerate(rows)
        for position, name in enumerate(row)
    }
    return Layout(
        {name: positions[name] for name in ids},
        {
            edge: [positions[each] for each in dummies]
            for edge, dummies in dummy_nodes.items()
            if dummies
        },
    )


def _without_cycles(ids: Sequence[str], edges: Sequence[PlotEdge]) -> list[PlotEdge]:
    """Return all edges except those that close a cycle."""
    successors = _adjacency(ids, edges)
    targets_of_edges = {target for _, target in edges}
    on_path: dict[str, bool] = {}
    kept: list[PlotEdge] = []
    # Start at nodes without predecessors.
    for root in sorted(ids, key=targets_of_edges.__contains__):
        if root in on_path:
            continue
        on_path[root] = True
        path = [(root, iter(successors[root]))]
        while path:
            node, targets = path[-1]
            target = next(targets, None)
            if target is None:
                on_path[node] = False
                path.pop()
            elif not on_path.get(target, False):
                kept.append((node, target))
                if target not in on_path:
                    on_path[target] = True
                    path.append((target, iter(successors[target])))
    return kept


def _layers(ids: Sequence[str], edges: Sequence[PlotEdge]) -> dict[str, int]:
    predecessors = _adjacency(ids, ((target, source) for source, target in edges))
    layer: dict[str, int] = {}
    for name in TopologicalSorter(predecessors).static_order():
        layer[name] = max((layer[each] + 1 for each in predecessors[name]), default=0)
    return layer


def _dummy_nodes(
    edges: Sequence[PlotEdge], layer: Mapping[str, int]
) -> dict[PlotEdge, dict[str, int]]:
    """Return the dummy nodes of edges in the layers between their ends, with unique names."""
    needed = sum(layer[target] - layer[source] - 1 for source, target in edges)
    if needed > _MAX_DUMMY_NODES:
        return {edge: {} for edge in edges}
    return {
        (source, target): {
            f"\0{number} {index}": index for index in range(layer[source] + 1, layer[target])
        }
        for number, (source, target) in enumerate(edges)
    }


def _reduce_crossings(rows: Sequence[list[str]], edges: Sequence[PlotEdge]) -> None:
    ids = [name for row in rows for name in row]
    predecessors = _adjacency(ids, ((target, source) for source, target in edges))
    successors = _adjacency(ids, edges)
    position = {name: _middle(row, index) for row in rows for index, name in enumerate(row)}
    for sweep in range(_SWEEPS):
        adjacent = successors if sweep % 2 else predecessors
        for row in reversed(rows) if sweep % 2 else rows:
            means = {
                name: _mean([position[each] for each in adjacent[name]], default=position[name])
                for name in row
            }
            row.sort(key=means.__getitem__)
            position |= {name: _middle(row, index) for index, name in enumerate(row)}


def _adjacency(ids: Iterable[str], edges: Iterable[PlotEdge]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in ids}
    for source, target in edges:
        found[source].append(target)
    return found


def _middle(row: Sequence[str], index: int) -> float:
    return index - (len(row) - 1) / 2


def _mean(values: Sequence[float], *, default: float) -> float:
    return sum(values) / len(values) if values else default
