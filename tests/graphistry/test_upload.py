"""Uploads with Graphistry's client to a server with its documented endpoints."""

from __future__ import annotations

import importlib.util
import io
import logging
import sys
from pathlib import Path

import pytest

from llamatelemetry.graphistry import GraphistryViz
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from tests.graphistry.conftest import MARKUP, a_topology, logged
from tests.graphistry.graphistry_server import DATASET, Graphistry

HAS_CLIENT = importlib.util.find_spec("graphistry") is not None


def needs_client(test):
    """Mark a test that uploads: importing pandas and Arrow takes a second or more."""
    return pytest.mark.slow(pytest.mark.needs("graphistry")(test))


SECRET = "secret-of-the-test"
KEY = {"personal_key_id": "an-id", "personal_key_secret": SECRET}


def viz_for(server: Graphistry, **options) -> GraphistryViz:
    return GraphistryViz(**{**KEY, "server": server.address, "protocol": "http", **options})


def table_of(content: bytes) -> list[dict]:
    import pyarrow as pa

    return pa.ipc.open_file(io.BytesIO(content)).read_all().to_pylist()


@needs_client
@pytest.mark.parametrize(
    ("login", "first"),
    [
        (KEY, ("GET", "/api/v2/auth/pkey/jwt/")),
        ({"username": "ada", "password": SECRET}, ("POST", "/api-token-auth/")),
        ({"token": "jwt-of-the-test"}, ("POST", "/api-token-verify/")),
    ],
    ids=["key", "password", "token"],
)
@pytest.mark.parametrize("source", ["arguments", "environment"])
def test_upload_works_with_each_kind_of_login(  # noqa: PLR0917 - fixtures
    graphistry_server, a_trace, monkeypatch, caplog, login, first, source
):
    server = {"server": graphistry_server.address, "protocol": "http"}
    if source == "environment":
        variables = {"token": "API_TOKEN", "server": "HOSTNAME"}
        for name, value in {**login, **server}.items():
            monkeypatch.setenv(f"GRAPHISTRY_{variables.get(name, name.upper())}", value)
        login, server = {}, {}
    url = GraphistryViz(**login, **server).plot_trace_graph(a_trace)
    base = f"http://{graphistry_server.address}/graph/graph.html?dataset={DATASET}&type=arrow&"
    assert url.startswith(base)
    assert graphistry_server.requests[0][:2] == first
    assert logged(caplog) == []
    assert not Path("llamatelemetry-data").exists()


@needs_client
def test_upload_sends_graph(graphistry_server: Graphistry, a_trace: TraceGraph):
    viz_for(graphistry_server).plot_trace_graph(a_trace)
    nodes = table_of(graphistry_server.tables["nodes"])
    edges = table_of(graphistry_server.tables["edges"])
    statistics = {"count": 3.0, "errors": 0.0, "mean_ms": 83.667, "max_ms": 100.5}
    assert [node["name"] for node in nodes] == [
        "library", MARKUP, "SmolLM2", "127.0.0.1:8080", "GPU-a", "GPU-b",
    ]  # fmt: skip
    assert nodes[2] == {
        **statistics, "input_tokens": 12.0, "output_tokens": 7.0, "weight": 3.0,
        "id": "model:SmolLM2", "kind": "model", "name": "SmolLM2", "label": "model SmolLM2",
    }  # fmt: skip
    assert nodes[0]["count"] is None
    assert [(edge["source"], edge["target"], edge["kind"]) for edge in edges] == [
        (edge.source, edge.target, edge.kind) for edge in a_trace.edges
    ]
    assert edges[0]["label"] == "calls, count 1, errors 1, mean_ms 100.5, max_ms 100.5"
    dataset = graphistry_server.datasets[0]
    assert dataset["name"] == "llamatelemetry: Trace graph"
    assert dataset["node_encodings"]["bindings"] == {
        "node": "id", "node_size": "weight", "node_title": "label",
    }  # fmt: skip
    assert dataset["edge_encodings"]["bindings"] == {
        "source": "source", "destination": "target", "edge_title": "label",
    }  # fmt: skip


@needs_client
@pytest.mark.parametrize("privacy", ["private", "organization", "public"])
def test_upload_sets_privacy_before_data(graphistry_server: Graphistry, privacy):
    options = {} if privacy == "private" else {"privacy": privacy}
    viz_for(graphistry_server, **options).plot_topology(a_topology(4))
    assert graphistry_server.order == ["dataset", "share", "edges", "nodes"]
    (share,) = graphistry_server.shares
    assert (share["obj_pk"], share["obj_type"], share["mode"]) == (DATASET, "dataset", privacy)
    assert (share["notify"], share["invited_users"]) == (False, [])
    assert len(table_of(graphistry_server.tables["edges"])) == 7


def failed_upload(viz: GraphistryViz, caplog: pytest.LogCaptureFixture) -> str:
    """Return the logged reason why a graph was not uploaded."""
    path = viz.plot_pipeline_graph("smol.gguf", "llama.cpp", ["T4"])
    assert ">smol.gguf</td>" in Path(path).read_text(encoding="utf-8")
    ((level, text),) = logged(caplog)
    assert level == logging.WARNING
    assert SECRET not in text
    assert text.endswith(f". Saved it to {path}")
    assert len(caplog.records) == 1
    return text.removeprefix("Cannot upload the graph to Graphistry: ").removesuffix(
        f". Saved it to {path}"
    )


@needs_client
@pytest.mark.parametrize(
    "login",
    [
        {"personal_key_id": "an-id", "personal_key_secret": "wrong-secret"},
        {"username": "ada", "password": "wrong-secret"},
        {"token": "wrong-secret"},
    ],
    ids=["key", "password", "token"],
)
def test_upload_failure_is_logged_when_login_is_rejected(
    graphistry_server: Graphistry, caplog, capfd, login
):
    server = {"server": graphistry_server.address, "protocol": "http"}
    line = failed_upload(GraphistryViz(**login, **server), caplog)
    assert line.startswith(f"{graphistry_server.address} rejected the login (")
    assert "wrong-secret" not in line
    assert capfd.readouterr() == ("", "")
    assert graphistry_server.order == []


@needs_client
@pytest.mark.parametrize(
    "login",
    [KEY, {"username": "ada", "password": SECRET}, {"token": SECRET}],
    ids=["key", "password", "token"],
)
def test_upload_failure_is_logged_without_network(caplog, capfd, login):
    viz = GraphistryViz(**login, server="127.0.0.1:1", protocol="http")
    assert failed_upload(viz, caplog) == "cannot connect to 127.0.0.1:1"
    assert capfd.readouterr() == ("", "")


@needs_client
def test_upload_ignores_output_of_client(graphistry_server: Graphistry, capfd):
    # The client prints this error and logs in again.
    graphistry_server.refused["/token/refresh"] = 401
    url = viz_for(graphistry_server).plot_pipeline_graph("smol.gguf", "llama.cpp", ["T4"])
    assert url.startswith("http://")
    assert capfd.readouterr() == ("", "")


@needs_client
def test_upload_failure_is_logged_when_host_is_unknown(caplog):
    viz = GraphistryViz(**KEY, server="graphistry.invalid")
    assert failed_upload(viz, caplog) == "cannot connect to graphistry.invalid"


@needs_client
@pytest.mark.parametrize("path", ["/auth/pkey/", "/upload/datasets/", "/share/link/"])
def test_upload_failure_is_logged_after_timeout(graphistry_server: Graphistry, caplog, path):
    graphistry_server.delay_s[path] = 9
    line = failed_upload(viz_for(graphistry_server, timeout_s=6), caplog)
    assert line == f"{graphistry_server.address} took longer than 6 s"
    assert "nodes" not in graphistry_server.tables


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e7])
def test_upload_without_a_time_limit_is_possible(tmp_path: Path, timeout_s: float):
    viz = GraphistryViz(
        **KEY, server="127.0.0.1:1", protocol="http", timeout_s=timeout_s, output_dir=tmp_path
    )
    assert Path(viz.plot_pipeline_graph("smol.gguf", "llama.cpp")).parent == tmp_path


@needs_client
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/auth/pkey/jwt/", 500),
        ("/upload/datasets/", 503),
        ("/share/link/", 403),
        ("/share/link/", 404),
        ("/edges/arrow", 400),
        ("/nodes/arrow", 413),
    ],
)
def test_upload_failure_is_logged_when_server_rejects_request(
    graphistry_server: Graphistry, caplog, capfd, path, status
):
    graphistry_server.refused[path] = status
    line = failed_upload(viz_for(graphistry_server), caplog)
    assert graphistry_server.address in line
    assert capfd.readouterr() == ("", "")
    if "share" in path:
        assert graphistry_server.tables == {}, "data was uploaded before privacy was set"


def test_upload_failure_names_pip_command_when_client_is_missing(monkeypatch, tmp_path, caplog):
    if HAS_CLIENT:
        missing = "raise ModuleNotFoundError(\"No module named 'graphistry'\", name='graphistry')"
        (tmp_path / "absent").mkdir()
        (tmp_path / "absent/graphistry.py").write_text(missing)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "absent"))
    assert failed_upload(GraphistryViz(**KEY), caplog) == (
        "its client cannot be imported (No module named 'graphistry'): "
        "pip install 'llamatelemetry-core[graphistry]'"
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("/nowhere/python", "cannot start the upload process"),
        ("/bin/false", "the upload process ended without a result"),
    ],
)
def test_upload_failure_is_logged_when_child_process_fails(monkeypatch, caplog, program, message):
    monkeypatch.setattr(sys, "executable", program)
    assert message in failed_upload(GraphistryViz(**KEY), caplog)
