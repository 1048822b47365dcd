"""Graphs to draw, with names and statistics only, and their layout."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from llamatelemetry.distributed import TopologyMapper
from llamatelemetry.graphistry import GraphistryViz
from llamatelemetry.graphistry._graphs import (
    PlotEdge,
    PlotNode,
    pipeline_graph,
    topology_graph,
    trace_graph,
)
from llamatelemetry.graphistry._layout import circle, layers
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from tests.graphistry.conftest import a_topology


def test_pipeline_graph_has_program_model_server_and_gpus():
    found = pipeline_graph(
        "/models/smol.gguf", "llama.cpp", ["Tesla T4", "Tesla T4", "Tesla T4"], [3, 1, 0],
        "http://ada:secret@127.0.0.1:8080/v1?key=k",
    )  # fmt: skip
    assert found.title == "smol.gguf on llama.cpp"
    assert found.nodes == [
        PlotNode("program", "service", "this program"),
        PlotNode("model", "model", "smol.gguf"),
        PlotNode("server", "server", "llama.cpp", {"address": "127.0.0.1:8080"}),
        PlotNode("gpu:0", "gpu", "GPU0 Tesla T4", {"share": 0.75}, 0.75),
        PlotNode("gpu:1", "gpu", "GPU1 Tesla T4", {"share": 0.25}, 0.25),
        PlotNode("gpu:2", "gpu", "GPU2 Tesla T4", {"share": 0.0}, 1),
    ]
    assert found.edges == [
        PlotEdge("program", "model", "calls"),
        PlotEdge("model", "server", "runs on"),
        PlotEdge("server", "gpu:0", "runs on", {"share": 0.75}),
        PlotEdge("server", "gpu:1", "runs on", {"share": 0.25}),
    ]


def test_pipeline_graph_shows_no_shares_without_tensor_split():
    found = pipeline_graph("m", "transformers", ["H100", "H100"], None, None)
    assert [node.details for node in found.nodes] == [{}] * 5
    assert [edge.details for edge in found.edges] == [{}] * 4


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("localhost:8080", "localhost:8080"),
        ("https://user:pass@host/v1?api_key=k#f", "host"),
        ("http://[::1]:80/", "[::1]:80"),
    ],
)
def test_pipeline_graph_draws_only_host_and_port_of_url(url, address):
    assert pipeline_graph("m", "b", [], None, url).nodes[2].details == {"address": address}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ([1], "one part for each of the 2 gpu_names, got 1"),
        ([1, -1], "0 or more"),
        ([1, float("nan")], "0 or more"),
        ([0, 0], "greater than 0"),
    ],
)
def test_pipeline_graph_rejects_invalid_tensor_split(split, message):
    with pytest.raises(ValueError, match=message):
        GraphistryViz().plot_pipeline_graph("m", "b", ["T4", "T4"], split)


def test_trace_graph_draws_only_known_statistics(a_trace: TraceGraph):
    found = trace_graph(a_trace)
    by_id = {node.id: node for node in found.nodes}
    assert by_id["model:SmolLM2"].details == {
        "count": 3, "errors": 0, "mean_ms": 83.667, "max_ms": 100.5,
        "input_tokens": 12, "output_tokens": 7,
    }  # fmt: skip
    assert by_id["gpu:GPU-a"].details == {
        "count": 1,
        "errors": 0,
        "mean_ms": 100.5,
        "max_ms": 100.5,
    }
    assert by_id["service:library"].details == {}
    link = PlotEdge("gpu:GPU-a", "gpu:GPU-b", "NVLink", {}, directed=False)
    assert found.edges[-1] == link


def test_trace_graph_ignores_unknown_columns():
    class TraceWithPrompts:
        def to_dict(self):
            row = {"count": 1, "prompt": "a secret"}
            return {
                "nodes": [{"id": name, "kind": "model", "name": name, **row} for name in "ab"],
                "edges": [{"source": "a", "target": "b", "kind": "calls", **row}],
            }

    assert "secret" not in repr(trace_graph(TraceWithPrompts()))


def test_trace_graph_shortens_long_names():
    graph = TraceGraph()
    graph.node("stage", "n" * 5000)
    assert len(trace_graph(graph).nodes[0].name) == 200


def test_topology_graph_draws_links():
    found = topology_graph(a_topology(2))
    assert [node.name for node in found.nodes] == [
        "GPU0 NVIDIA H100", "GPU1 NVIDIA H100", "NIC0 mlx5_0",
    ]  # fmt: skip
    assert found.nodes[0].details == {"uuid": "GPU-0", "numa_affinity": "0", "nvlinks_active": 18}
    assert found.edges == [
        PlotEdge(
            "GPU0", "GPU1", "NVLink",
            {"link": "NV18", "pcie": "SYS", "through": "NVSwitch", "p2p": "read OK, write OK"},
            directed=False,
        ),
        PlotEdge("GPU0", "NIC0", "PCIe", {"link": "PIX", "pcie": "PIX"}, directed=False),
    ]  # fmt: skip


def test_topology_graph_states_reason_without_gpu():
    assert topology_graph(a_topology(0, "no NVIDIA driver")).note == "no NVIDIA driver"


def test_topology_graph_accepts_topology_of_this_machine():
    found = TopologyMapper().detect()
    drawn = topology_graph(found)
    assert len(drawn.nodes) == len(found.labels)
    assert drawn.note == (found.reason or "")


@pytest.mark.parametrize("url", ["http://[::1", "http://host:99999"])
def test_pipeline_graph_names_invalid_server_url(url):
    with pytest.raises(ValueError, match="server_url must be a URL, got an invalid one"):
        pipeline_graph("a model", "llama.cpp", [], None, url)


@pytest.mark.parametrize("given", [None, {"nodes": []}, a_topology(1)])
def test_trace_graph_rejects_other_types(given):
    with pytest.raises(TypeError):
        GraphistryViz().plot_trace_graph(given)


@pytest.mark.parametrize("given", [None, "GPU0", TraceGraph()])
def test_topology_graph_rejects_other_types(given):
    with pytest.raises(TypeError):
        GraphistryViz().plot_topology(given)


def a_graph(seed: int, nodes: int, edges: int, *, acyclic: bool) -> tuple[list[str], list]:
    random_ = random.Random(seed)
    ids = [f"n{number}" for number in range(nodes)]
    pairs = [random_.sample(range(nodes), 2) for _ in range(edges)]
    return ids, [(ids[a], ids[b]) for a, b in (map(sorted, pairs) if acyclic else pairs)]


@pytest.mark.parametrize("seed", range(5))
def test_layers_draw_edges_from_left_to_right(seed):
    ids, edges = a_graph(seed, 40, 60, acyclic=True)
    positions, paths = layers(ids, edges)
    assert all(positions[a][0] < positions[b][0] for a, b in edges)
    for (a, b), path in paths.items():
        xs = [positions[a][0], *(x for x, _ in path), positions[b][0]]
        assert xs == [xs[0] + step for step in range(len(xs))]


@pytest.mark.parametrize("acyclic", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_layers_give_every_node_its_own_position(seed, acyclic):
    ids, edges = a_graph(seed, 40, 60, acyclic=acyclic)
    positions, paths = layers(ids, edges)
    taken = [*positions.values(), *itertools.chain.from_iterable(paths.values())]
    assert set(positions) == set(ids)
    assert len(set(taken)) == len(taken)


def test_layers_draw_fan_without_crossings():
    ids = ["root", "c", "a", "b", "a1", "b1", "c1"]
    edges = [("root", "a"), ("root", "b"), ("root", "c"), ("c", "c1"), ("b", "b1"), ("a", "a1")]
    positions, _ = layers(ids, edges)
    middle = sorted("abc", key=lambda name: positions[name][1])
    assert sorted("abc", key=lambda name: positions[f"{name}1"][1]) == middle


def test_layers_handle_large_graph_with_cycles_and_loops():
    ids, edges = a_graph(1, 1000, 5000, acyclic=False)
    positions, _ = layers(ids, [*edges, ("n1", "n1"), ("n1", "elsewhere")])
    assert len(set(positions.values())) == 1000


def test_circle_separates_all_nodes():
    positions, _ = circle([str(number) for number in range(16)])
    near = min(math.dist(a, b) for a, b in itertools.combinations(positions.values(), 2))
    assert near > 0.9
    assert circle([]).positions == {}
