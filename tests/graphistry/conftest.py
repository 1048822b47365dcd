from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamatelemetry.distributed import Links, Topology, TopologyGpu, TopologyNic
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from tests.graphistry.graphistry_server import Graphistry, serving

MARKUP = (
    "</script><script>alert('x')</script><b>b</b><a href='javascript:alert(1)'>a</a>"
    "<img src=x onerror=alert(1)>"
)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove all accounts: environment variables, and the file of Graphistry's client."""
    for name in [name for name in os.environ if "GRAPHISTRY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def graphistry_server() -> Iterator[Graphistry]:
    with serving() as graphistry:
        yield graphistry


@pytest.fixture
def a_trace() -> TraceGraph:
    """Return a trace graph of a service, a pipeline, a model, a server and two GPUs. One name is markup."""
    graph = TraceGraph()
    service, pipeline = graph.node("service", "library"), graph.node("pipeline", MARKUP)
    model, server = graph.node("model", "SmolLM2"), graph.node("server", "127.0.0.1:8080")
    gpus = [graph.node("gpu", "GPU-a"), graph.node("gpu", "GPU-b")]
    for source, target, kind in (
        (service, pipeline, "calls"),
        (pipeline, model, "calls"),
        (service, model, "calls"),
        (model, server, "runs on"),
        (server, gpus[0], "runs on"),
        (server, gpus[1], "runs on"),
    ):
        for each in (graph.edge(source, target, kind), target):
            each.stats.add(100.5, failed=target is pipeline)
    model.stats.add(50, failed=False, input_tokens=12, output_tokens=7)
    graph.link("GPU-a", "GPU-b", "NVLink")
    return graph


def a_topology(gpus: int, reason: str | None = None) -> Topology:
    """Return a topology of fully connected GPUs, and of an adapter close to the first one."""
    p2p = {"read": "OK", "write": "OK"}
    between = {
        (f"GPU{a}", f"GPU{b}"): Links(18, through_nvswitch=True, pcie="SYS", p2p=p2p)
        for a, b in itertools.combinations(range(gpus), 2)
    }
    between |= {(f"GPU{gpu}", "NIC0"): Links(pcie=None if gpu else "PIX") for gpu in range(gpus)}
    return Topology(
        gpus=tuple(
            TopologyGpu(n, f"GPU-{n}", "NVIDIA H100", numa_affinity="0", nvlinks_active=18)
            for n in range(gpus)
        ),
        nics=(TopologyNic("NIC0", "mlx5_0"),) if gpus else (),
        between=between,
        reason=reason,
    )


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(level, text) for name, level, text in caplog.record_tuples if "llamatel" in name]
