"""Positions of nodes and paths of edges.

Directed graphs get layers from left to right, others a circle. The layouts of networkx need numpy,
which is not required for pages.
"""

from __future__ import annotations

import math
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Position = tuple[float, float]
Ends = tuple[str, str]

_SWEEPS: Final = 8
# Graphs with more dummy nodes than this are unreadable anyway.
_MAX_PASSED: Final = 2_000


class Layout(NamedTuple):
    """Positions of nodes, and for each edge its positions in the layers between its ends."""

    places: Mapping[str, Position]
    ways: Mapping[Ends, Sequence[Position]]


def circle(ids: Sequence[str]) -> Layout:
    """Place nodes at equal distances on a circle, clockwise from the top."""
    radius = max(1.0, len(ids) / math.tau)
    turn = math.tau / max(1, len(ids))
    places = {
        name: (radius * math.sin(turn * number), radius * math.cos(turn * number))
        for number, name in enumerate(ids)
    }
    return Layout(places, {})


def layers(ids: Sequence[str], edges: Sequence[Ends]) -> Layout:
    """Place each node to the right of its predecessors, with few crossings.

    Uses Sugiyama's method: remove cycles, use the longest path to a node as its layer, add dummy nodes in
    the layers that an edge passes, and order each layer by the mean position of its neighbors, in both
    directions.
    """
    known = set(ids)
    # A dict, because it keeps the order: the same graph has the same drawing.
    within = list(dict.fromkeys((a, b) for a, b in edges if a != b and {a, b} <= known))
    acyclic = _without_cycles(ids, within)
    layer = _layers(ids, acyclic)
    passes = _dummy_nodes(acyclic, layer)
    layer |= {place: at for each in passes.values() for place, at in each.items()}
    steps = [
        step
        for (source, target), passed in passes.items()
        for step in zip([source, *passed], [*passed, target], strict=True)
    ]
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for name, at in layer.items():
        rows[at].append(name)
    _order(rows, steps)
    places = {
        name: (float(at), (len(row) - 1) / 2 - place)
        for at, row in enumerate(rows)
        for place, name in enumerate(row)
    }
    return Layout(
        {name: places[name] for name in ids},
        {ends: [places[each] for each in passed] for ends, passed in passes.items() if passed},
    )


def _without_cycles(ids: Sequence[str], edges: Sequence[Ends]) -> list[Ends]:
    """Return all edges except those that close a cycle."""
    below = _neighbours(ids, edges)
    inner = {target for _, target in edges}
    on_the_way: dict[str, bool] = {}
    kept: list[Ends] = []
    for root in sorted(ids, key=inner.__contains__):  # nodes without predecessors come first
        if root in on_the_way:
            continue
        on_the_way[root] = True
        way = [(root, iter(below[root]))]
        while way:
            node, targets = way[-1]
            target = next(targets, None)
            if target is None:
                on_the_way[node] = False
                way.pop()
            elif not on_the_way.get(target, False):
                kept.append((node, target))
                if target not in on_the_way:
                    on_the_way[target] = True
                    way.append((target, iter(below[target])))
    return kept


def _layers(ids: Sequence[str], edges: Sequence[Ends]) -> dict[str, int]:
    above = _neighbours(ids, ((target, source) for source, target in edges))
    layer: dict[str, int] = {}
    for name in TopologicalSorter(above).static_order():
        layer[name] = max((layer[each] + 1 for each in above[name]), default=0)
    return layer


def _dummy_nodes(edges: Sequence[Ends], layer: Mapping[str, int]) -> dict[Ends, dict[str, int]]:
    """Return the dummy nodes of edges in the layers between their ends, with unique names."""
    needed = sum(layer[target] - layer[source] - 1 for source, target in edges)
    if needed > _MAX_PASSED:
        return {ends: {} for ends in edges}
    return {
        (source, target): {f"\0{number} {at}": at for at in range(layer[source] + 1, layer[target])}
        for number, (source, target) in enumerate(edges)
    }


def _order(rows: Sequence[list[str]], edges: Sequence[Ends]) -> None:
    ids = [name for row in rows for name in row]
    above = _neighbours(ids, ((target, source) for source, target in edges))
    below = _neighbours(ids, edges)
    place = {name: _middle(row, at) for row in rows for at, name in enumerate(row)}
    for sweep in range(_SWEEPS):
        near = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = {name: _mean([place[each] for each in near[name]]) for name in row}
            row.sort(key={name: _or(wanted[name], place[name]) for name in row}.__getitem__)
            place |= {name: _middle(row, at) for at, name in enumerate(row)}


def _neighbours(ids: Iterable[str], edges: Iterable[Ends]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in ids}
    for source, target in edges:
        found[source].append(target)
    return found


def _middle(row: Sequence[str], at: int) -> float:
    return at - (len(row) - 1) / 2


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
