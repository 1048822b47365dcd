"""Pages that are written if a graph is not uploaded, and the log messages about them."""

from __future__ import annotations

import html
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llamatelemetry
from llamatelemetry.graphistry import GraphistryViz
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from tests.graphistry.conftest import MARKUP, a_topology, logged


def test_plot_writes_page_without_account(a_trace: TraceGraph, caplog):
    caplog.set_level(logging.INFO, logger="llamatelemetry")
    path = GraphistryViz().plot_trace_graph(a_trace)
    assert Path(path).parent == Path("llamatelemetry-data")
    names = "GRAPHISTRY_PERSONAL_KEY_ID and GRAPHISTRY_PERSONAL_KEY_SECRET"
    reason = f"no credentials are set ({names}, or arguments)"
    line = f"Cannot upload the graph to Graphistry: {reason}. Saved it to {path}"
    assert logged(caplog) == [(logging.INFO, line)]
    page = Path(path).read_text(encoding="utf-8")
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data = json.loads(found[1])
    assert [node["name"] for node in data["nodes"]] == [
        "library", MARKUP, "SmolLM2", "127.0.0.1:8080", "GPU-a", "GPU-b",
    ]  # fmt: skip
    assert len(data["edges"]) == 7


def test_page_runs_and_loads_nothing_from_data(a_trace: TraceGraph):
    page = Path(GraphistryViz().plot_trace_graph(a_trace)).read_text(encoding="utf-8")
    assert MARKUP not in page
    assert html.escape(MARKUP, quote=False).replace("'", "&#39;") in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; base-uri 'none'")
    nonces = set(re.findall(r"nonce-([\w-]+)", policy))
    assert nonces == set(re.findall(r'<script nonce="([\w-]+)"', page))
    assert not re.search(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(?!data:)', page)


def test_pages_have_unique_nonces_and_names(a_trace: TraceGraph):
    paths = [GraphistryViz().plot_trace_graph(a_trace) for _ in range(3)]
    assert len(set(paths)) == 3
    texts = [Path(path).read_text(encoding="utf-8") for path in paths]
    assert len({re.search(r"nonce-([\w-]+)", text)[1] for text in texts}) == 3


def test_page_of_empty_graph_states_reason(caplog):
    caplog.set_level(logging.INFO, logger="llamatelemetry")
    viz = GraphistryViz(token="t")
    path = viz.plot_topology(a_topology(0, "no NVIDIA driver"))
    assert "no NVIDIA driver" in Path(path).read_text(encoding="utf-8")
    assert logged(caplog)[0][1].startswith(
        "Cannot upload the graph to Graphistry: no NVIDIA driver. "
    )


def test_page_replaces_characters_that_cannot_be_encoded(tmp_path: Path):
    viz = GraphistryViz(auto_register=False, output_dir=tmp_path)
    half = "half \ud83d of a pair"
    path = Path(viz.plot_pipeline_graph(half, half, [half], [1.0], "http://127.0.0.1:8080"))
    assert "half ? of a pair" in path.read_text(encoding="utf-8")


def test_plot_uploads_nothing_before_register(caplog, a_trace: TraceGraph):
    caplog.set_level(logging.INFO, logger="llamatelemetry")
    viz = GraphistryViz(auto_register=False, username="ada", password="p")
    assert not viz.registered
    assert viz.plot_trace_graph(a_trace).endswith(".html")
    assert "register() was not called" in logged(caplog)[0][1]
    assert viz.register()
    assert viz.registered


def test_credentials_come_from_arguments_or_environment_but_not_both(monkeypatch):
    assert not GraphistryViz().registered
    monkeypatch.setenv("GRAPHISTRY_PERSONAL_KEY_ID", "an-id")
    incomplete = GraphistryViz()
    assert not incomplete.registered
    assert "GRAPHISTRY_PERSONAL_KEY_SECRET" in incomplete._account.problem
    monkeypatch.setenv("GRAPHISTRY_PERSONAL_KEY_SECRET", "a-secret")
    assert GraphistryViz().registered
    account = GraphistryViz(username="ada", password="p", org_name="herd")._account
    assert account.registration() == {
        "username": "ada", "password": "p", "org_name": "herd",
        "server": "hub.graphistry.com", "protocol": "https",
    }  # fmt: skip
    assert "a-secret" not in repr(GraphistryViz()._account)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"username": "ada"}, "password must be set"),
        ({"personal_key_secret": "s"}, "personal_key_id must be set"),
        ({"privacy": "secret"}, "'private', 'organization', 'public'"),
        ({"protocol": "ftp"}, "'https', 'http'"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_constructor_rejects_invalid_option(options, message):
    with pytest.raises(ValueError, match=message):
        GraphistryViz(**options)


def test_page_is_written_to_temporary_directory_when_output_dir_is_not_writable(
    tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = GraphistryViz(output_dir=tmp_path / "file").plot_topology(a_topology(2))
    assert Path(path).parent.parent == tmp_path


def test_plot_trace_graph_accepts_trace_id(monkeypatch):
    program = """
import llamatelemetry
from llamatelemetry.graphistry import GraphistryViz
from llamatelemetry.pipeline import PipelineTracer

viz = GraphistryViz()
try:
    viz.plot_trace_graph("ab")
except RuntimeError as error:
    print(error)
llamatelemetry.init(enable_trace_graphs=True, exporter="none", gpu_enrichment=False)
with PipelineTracer().pipeline("rag") as span, PipelineTracer().stage("retrieve"):
    trace_id = span.get_span_context().trace_id
print(viz.plot_trace_graph(trace_id))
print(viz.plot_trace_graph(f"{trace_id:032x}"))
print(viz.plot_trace_graph(llamatelemetry.trace_graph()))
for wrong in ("ab", "no id"):
    try:
        viz.plot_trace_graph(wrong)
    except (KeyError, ValueError) as error:
        print(type(error).__name__, error)
llamatelemetry.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    none_kept, *paths, unknown, no_id = done.stdout.splitlines()
    assert "enable_trace_graphs=True" in none_kept
    for path in paths:
        page = Path(path).read_text(encoding="utf-8")
        assert ">rag</td>" in page
        assert ">retrieve</td>" in page
    assert unknown.startswith("KeyError")
    assert no_id == "ValueError trace_id must be 32 hexadecimal digits, got 'no id'"


def test_import_loads_no_heavy_packages():
    program = (
        "import sys, llamatelemetry.graphistry; "
        "print({'graphistry', 'pandas', 'jinja2', 'opentelemetry.sdk'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
    assert llamatelemetry.__version__
