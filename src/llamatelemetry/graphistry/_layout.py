"""Where the nodes of a picture stand, and which way its edges go.

Layers from left to right for what flows, a circle for what is only connected. Written here
because the layouts of networkx all need numpy, and the page must be drawn where neither is
installed.
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
# A tangle of long edges would need more places than nodes; nobody could follow them anyway.
_MAX_PASSED: Final = 2_000


class Layout(NamedTuple):
    """Where nodes stand, and between which places an edge passes the layers in between."""

    places: Mapping[str, Position]
    ways: Mapping[Ends, Sequence[Position]]


def circle(ids: Sequence[str]) -> Layout:
    """Place nodes at equal distances around the origin, clockwise from the top."""
    radius = max(1.0, len(ids) / math.tau)
    turn = math.tau / max(1, len(ids))
    places = {
        name: (radius * math.sin(turn * number), radius * math.cos(turn * number))
        for number, name in enumerate(ids)
    }
    return Layout(places, {})


def layers(ids: Sequence[str], edges: Sequence[Ends]) -> Layout:
    """Place each node to the right of all that lead to it, with few crossings.

    Sugiyama's method: break cycles, take the longest path to a node as its layer, let each edge
    have a place of its own in the layers that it passes, and order each layer by the mean place
    of its neighbours, there and back.
    """
    known = set(ids)
    # A dictionary, for an order: the same graph is drawn the same each time.
    within = list(dict.fromkeys((a, b) for a, b in edges if a != b and {a, b} <= known))
    acyclic = _without_cycles(ids, within)
    layer = _layers(ids, acyclic)
    passes = _passes(acyclic, layer)
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
    """All edges but those that lead back to a node on the way that led to them."""
    below = _neighbours(ids, edges)
    inner = {target for _, target in edges}
    on_the_way: dict[str, bool] = {}
    kept: list[Ends] = []
    for root in sorted(ids, key=inner.__contains__):  # those that nothing leads to come first
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


def _passes(edges: Sequence[Ends], layer: Mapping[str, int]) -> dict[Ends, dict[str, int]]:
    """The places that edges need in the layers between their ends, under names of their own."""
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
