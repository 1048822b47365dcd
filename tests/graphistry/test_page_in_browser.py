"""The page in a real browser: it draws, moves by keyboard, fetches nothing, runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamatelemetry.graphistry import GraphistryViz
from llamatelemetry.otel.trace_graph import TraceGraph
from tests import browser
from tests.graphistry.conftest import EVIL
from tests.graphistry.test_graphs import a_topology

pytestmark = browser.MARKS

USE = """
  const press = async (key) => {
    graph.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    await settled();
  };
  const width = () => graph.layout.xaxis.range[1] - graph.layout.xaxis.range[0];
  %s
"""


def in_browser(tmp_path: Path, page: str, use: str) -> dict[str, Any]:
    return browser.said_in(tmp_path, page, USE % use, height=1200)


def test_a_trace(tmp_path: Path, a_trace: TraceGraph) -> None:
    page = Path(GraphistryViz().plot_trace_graph(a_trace)).read_text(encoding="utf-8")
    said = in_browser(
        tmp_path,
        page,
        """
        const before = [...graph.layout.xaxis.range];
        said.labels = [...graph.querySelectorAll(".textpoint")].map((each) => each.textContent);
        said.points = graph.querySelectorAll(".points path").length;
        const first = width();
        await press("+"); said.closer = width() < first;
        await press("-"); said.again = Math.abs(width() - first) < 1e-9;
        await press("ArrowRight"); said.moved = graph.layout.xaxis.range[0] > before[0];
        await press("0"); said.back = JSON.stringify(graph.layout.xaxis.range) === JSON.stringify(before);
        const curveNumber = graph.data.findIndex((each) => each.name === "pipeline");
        Plotly.Fx.hover(graph, [{ curveNumber, pointNumber: 0 }]);
        await settled();
        said.tooltip = graph.querySelector(".hoverlayer").textContent;
        said.cell = document.querySelector("tbody tr:nth-child(2) td:nth-child(2)").textContent;
        said.scripts = document.querySelectorAll("main script, main img").length;
        said.fetched = performance.getEntriesByType("resource").length;
        """,
    )
    short = f"{EVIL[:27]}…"
    assert sorted(said["labels"]) == sorted(
        ["library", short, "SmolLM2", "127.0.0.1:8080", "GPU-a", "GPU-b"]
    )
    assert EVIL in said["tooltip"]
    assert "errors: 1" in said["tooltip"]
    assert said["cell"] == EVIL
    assert said["scripts"] == said["fetched"] == 0
    assert said["points"] >= 6 + 7
    for what in ("closer", "again", "moved", "back"):
        assert said[what], what


def test_a_topology(tmp_path: Path) -> None:
    page = Path(GraphistryViz().plot_topology(a_topology(8))).read_text(encoding="utf-8")
    said = in_browser(
        tmp_path,
        page,
        """
        said.kinds = graph.data.map((each) => each.name);
        said.labels = graph.querySelectorAll(".textpoint").length;
        """,
    )
    assert said == {"kinds": ["NVLink", "PCIe", "gpu", "nic"], "labels": 9}


def test_an_empty_picture(tmp_path: Path) -> None:
    page = Path(GraphistryViz().plot_topology(a_topology(0))).read_text(encoding="utf-8")
    said = in_browser(tmp_path, page, "said.traces = graph.data.length;")
    assert said == {"traces": 0}


def test_a_large_graph(tmp_path: Path) -> None:
    graph = TraceGraph()
    for number in range(600):
        graph.edge(
            graph.node("stage", f"s{number // 3}"), graph.node("tool", f"t{number}"), "calls"
        )
    page = Path(GraphistryViz().plot_trace_graph(graph)).read_text(encoding="utf-8")
    said = in_browser(
        tmp_path, page, 'said.points = graph.querySelectorAll(".points path").length;'
    )
    assert said["points"] >= 800 + 600
