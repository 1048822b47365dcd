"""Tables of results and graphs in notebooks: shown as HTML, without markup of what they contain."""

from __future__ import annotations

import re

from llamatelemetry._table import html_table, text_table
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from tests.support.example_results import EVIL, results
from tests.support.explained_calls import call, explained


def test_text_table_aligns_columns_and_escapes_control_characters() -> None:
    found = text_table(["Name", "Count"], [["a\x1b[2Jb", "1"], ["c", "1,000"]])
    assert found.splitlines() == [
        "Name       Count",
        "─" * 16,
        r"a\x1b[2Jb      1",
        "c          1,000",
    ]


def test_html_table_escapes_every_value() -> None:
    found = html_table("<b>", ["<i>"], [["<script>"]], notes=["<img>"])
    assert set(re.findall(r"<(\w+)", found)) == {
        *("div", "strong", "table", "thead", "tr", "th", "tbody", "td"),
    }


def test_benchmark_results_are_a_table_in_notebooks() -> None:
    shown = results(model=EVIL)._repr_html_()
    assert EVIL not in shown
    assert "TTFT (ms)</td>" in shown


def test_explanations_are_tables_in_notebooks() -> None:
    slow = call(99, 200_000, wait=505, **{"gen_ai.response.model": EVIL, "error.type": EVIL})
    shown = explained(slow)._repr_html_()
    assert EVIL not in shown
    assert shown.count("<table") == 2
    assert "decode of the output</td>" in shown
    assert explained(quiet=[])._repr_html_() == "No LLM call recorded."


def test_trace_graphs_are_tables_in_notebooks() -> None:
    graph = TraceGraph()
    graph.edge(graph.node("service", "shop"), graph.node("model", EVIL), "calls")
    shown = graph._repr_html_()
    assert EVIL not in shown
    assert shown.count("<tr>") == 2 + 2 + 1
    assert "service:shop</td>" in shown
