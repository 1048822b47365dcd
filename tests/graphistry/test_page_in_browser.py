"""The page in a real browser: drawing, keyboard and mouse, without network and foreign scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamatelemetry.graphistry import GraphistryViz
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from tests.graphistry.conftest import MARKUP, a_topology
from tests.support import browser

pytestmark = browser.MARKS

USE = """
  const press = async (key) => {
    graph.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    await settled();
  };
  const width = () => view.x[1] - view.x[0];
  %s
"""


def in_browser(tmp_path: Path, page: str, use: str) -> dict[str, Any]:
    return browser.run_in_page(tmp_path, page, USE % use, height=1200)


def test_browser_draws_trace_graph(tmp_path: Path, a_trace: TraceGraph) -> None:
    page = Path(GraphistryViz().plot_trace_graph(a_trace)).read_text(encoding="utf-8")
    said = in_browser(
        tmp_path,
        page,
        """
        const before = [...view.x];
        const at = (node) => node.getAttribute("transform");
        const node = graph.querySelectorAll(".node")[1];
        const place = at(node);
        said.labels = [...graph.querySelectorAll(".node text")].map((each) => each.textContent);
        said.shapes = [".node circle", ".edge"].map((each) => graph.querySelectorAll(each).length);
        const first = width();
        await press("+"); said.closer = width() < first;
        await press("-"); said.again = Math.abs(width() - first) < 1e-9;
        await press("ArrowRight"); said.moved = view.x[0] > before[0] && at(node) !== place;
        await press("0"); said.back = JSON.stringify(view.x) === JSON.stringify(before) && at(node) === place;
        pointer(svg, "pointerdown", [0.5, 0.5]);
        pointer(svg, "pointermove", [0.6, 0.5]);
        pointer(svg, "pointerup", [0.6, 0.5]);
        said.dragged = Math.abs(before[0] - view.x[0] - 0.1 * width()) < 0.01 * width();
        pointer(svg, "dblclick", [0.5, 0.5]);
        said.whole = at(node) === place;
        svg.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, cancelable: true }));
        said.wheeled = width() < first;
        graph.querySelector("[aria-label='Show all']").click();
        pointer(node.firstChild, "pointermove", [0.5, 0.5]);
        said.tooltip = document.querySelector(".tip").textContent;
        pointer(graph.querySelector(".edge path"), "pointermove", [0.5, 0.5]);
        said.edge = document.querySelector(".tip").textContent;
        const button = graph.querySelector(".legend button");
        button.click();
        said.hidden = graph.querySelectorAll(".edge[style*=none]").length;
        said.cell = document.querySelector("tbody tr:nth-child(2) td:nth-child(2)").textContent;
        said.scripts = document.querySelectorAll("main script, main img").length;
        said.fetched = performance.getEntriesByType("resource").length;
        """,
    )
    short = f"{MARKUP[:27]}…"
    assert sorted(said["labels"]) == sorted(
        ["library", short, "SmolLM2", "127.0.0.1:8080", "GPU-a", "GPU-b"]
    )
    assert MARKUP in said["tooltip"]
    assert "errors: 1" in said["tooltip"]
    assert said["cell"] == MARKUP
    assert said["scripts"] == said["fetched"] == 0
    assert said["shapes"] == [6, 7]
    assert said["edge"].startswith("calls: library → ")
    # The first button of the legend hides the three calls.
    assert said["hidden"] == 3
    for check in ("closer", "again", "moved", "back", "dragged", "whole", "wheeled"):
        assert said[check], check


def test_browser_draws_topology(tmp_path: Path) -> None:
    page = Path(GraphistryViz().plot_topology(a_topology(8))).read_text(encoding="utf-8")
    said = in_browser(
        tmp_path,
        page,
        """
        said.kinds = [...graph.querySelectorAll(".legend button")].map((each) => each.innerText);
        said.labels = graph.querySelectorAll(".node text").length;
        """,
    )
    assert said == {"kinds": ["NVLink", "PCIe", "gpu", "nic"], "labels": 9}


def test_browser_shows_reason_of_empty_graph(tmp_path: Path) -> None:
    page = Path(GraphistryViz().plot_topology(a_topology(0))).read_text(encoding="utf-8")
    said = in_browser(tmp_path, page, "said.shapes = shapes.length;")
    assert said == {"shapes": 0}


def test_browser_draws_large_graph(tmp_path: Path) -> None:
    graph = TraceGraph()
    for number in range(600):
        graph.edge(
            graph.node("stage", f"s{number // 3}"), graph.node("tool", f"t{number}"), "calls"
        )
    page = Path(GraphistryViz().plot_trace_graph(graph)).read_text(encoding="utf-8")
    said = in_browser(
        tmp_path,
        page,
        'said.shapes = [".node", ".edge", ".node text"].map((s) => graph.querySelectorAll(s).length);',
    )
    assert said == {"shapes": [800, 600, 0]}
