"""A graph as one self-contained HTML page. Nothing is loaded from the network."""

from __future__ import annotations

import os
import secrets
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamatelemetry._html_page import fill_page
from llamatelemetry._private_files import make_private_directory, write_private_text
from llamatelemetry.graphistry._graphs import COLORS
from llamatelemetry.graphistry._layout import circle, layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.graphistry._graphs import Detail, Graph


def write_page(graph: Graph, folder: Path) -> Path:
    """Write the page into a directory, or into the temporary directory if that fails."""
    page = render(graph)
    when = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"graph-{graph.kind}-{when}-{os.getpid()}-{secrets.token_hex(3)}.html"
    try:
        make_private_directory(folder)
        path = folder / name
        write_private_text(path, page)
    except OSError:
        path = Path(tempfile.mkdtemp(prefix="llamatelemetry-")) / name
        write_private_text(path, page)
    return path


def render(graph: Graph) -> str:
    """Return the page. Needs Jinja2."""
    return fill_page(
        "llamatelemetry.graphistry",
        "graph.html",
        feature="A graph as a page",
        graph=graph,
        names={node.id: node.name for node in graph.nodes},
        data=_drawing_data(graph),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _drawing_data(graph: Graph) -> dict[str, Any]:
    """Return the data that `graph.js` draws."""
    ids = [node.id for node in graph.nodes]
    directed_edges = [(edge.source, edge.target) for edge in graph.edges if edge.directed]
    positions, paths = circle(ids) if graph.kind == "topology" else layers(ids, directed_edges)
    return {
        "colors": COLORS,
        "nodes": [
            {
                "id": node.id,
                "kind": node.kind,
                "name": node.name,
                "weight": node.weight,
                "x": positions[node.id][0],
                "y": positions[node.id][1],
                "lines": _lines(node.details),
            }
            for node in graph.nodes
        ],
        "edges": [
            {
                "source": edge.source,
                "target": edge.target,
                "kind": edge.kind,
                "directed": edge.directed,
                "by": paths.get((edge.source, edge.target), []),
                "lines": _lines(edge.details),
            }
            for edge in graph.edges
            if edge.source in positions and edge.target in positions
        ],
    }


def _lines(details: Mapping[str, Detail]) -> list[str]:
    return [f"{name}: {value}" for name, value in details.items()]
