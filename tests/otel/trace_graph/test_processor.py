"""The graph of executed traces, built from spans."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

import llamatelemetry
from llamatelemetry.otel.trace_graph import processor
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor
from llamatelemetry.pipeline import PipelineTracer

CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "m",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 3,
    "server.address": "127.0.0.1",
    "server.port": 8080,
    "llamatelemetry.slot": 1,
}


class Traced:
    def __init__(self) -> None:
        self.processor = TraceGraphProcessor()
        self.provider = TracerProvider(
            resource=Resource({"service.name": "library"}), shutdown_on_exit=False
        )
        self.provider.add_span_processor(self.processor)
        self.tracer = self.provider.get_tracer("test")
        self.pipeline = PipelineTracer(tracer_provider=self.provider)

    def call(self, *, failed: bool = False, milliseconds: int = 100, **more: object) -> None:
        span = self.tracer.start_span(
            "chat m", kind=SpanKind.CLIENT, attributes={**CALL, **more}, start_time=0
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(milliseconds * 1_000_000)


@pytest.fixture
def traced() -> Traced:
    return Traced()


def edges_of(graph: TraceGraph) -> set[tuple[str, str, str, int]]:
    return {(e.source, e.target, e.kind, e.stats.count) for e in graph.edges}


def test_graph_contains_executed_steps_calls_and_servers(traced: Traced) -> None:
    with traced.pipeline.pipeline("rag"):
        with traced.pipeline.stage("answer"):
            traced.call()
            traced.call(failed=True, milliseconds=300)
        with traced.pipeline.agent("critic"), traced.pipeline.tool("search"):
            pass
    traced.call()
    graph = traced.processor.graph()
    assert edges_of(graph) == {
        ("service:library", "pipeline:rag", "calls", 1),
        ("pipeline:rag", "stage:answer", "calls", 1),
        ("stage:answer", "model:m", "calls", 2),
        ("service:library", "model:m", "calls", 1),
        ("model:m", "server:127.0.0.1:8080", "runs on", 3),
        ("server:127.0.0.1:8080", "slot:127.0.0.1:8080/1", "runs on", 3),
        ("pipeline:rag", "agent:critic", "calls", 1),
        ("agent:critic", "tool:search", "calls", 1),
    }
    [stats] = [edge.stats for edge in graph.edges if edge.source == "stage:answer"]
    assert stats.row() == {
        "count": 2,
        "errors": 1,
        "total_ms": 400.0,
        "max_ms": 300.0,
        "mean_ms": 200.0,
        "input_tokens": 20,
        "output_tokens": 6,
    }


def test_call_below_third_party_span_belongs_to_enclosing_stage(traced: Traced) -> None:
    with (
        traced.pipeline.stage("answer"),
        traced.tracer.start_as_current_span("POST", kind=SpanKind.CLIENT),
    ):
        traced.call()
    assert ("stage:answer", "model:m", "calls", 1) in edges_of(traced.processor.graph())


def test_graph_contains_gpus_only_of_calls_with_energy(traced: Traced) -> None:
    state = {"llamatelemetry.gpu.ids": ("GPU-1", "GPU-2")}
    traced.call(**state)
    assert not any(node.kind == "gpu" for node in traced.processor.graph().nodes)
    traced.call(**state, **{"llamatelemetry.gpu.energy": 3.0})
    graph = traced.processor.graph()
    assert {edge.target for edge in graph.edges if edge.target.startswith("gpu")} == {
        "gpu:GPU-1",
        "gpu:GPU-2",
    }


def test_phase_spans_are_not_counted_as_calls(traced: Traced) -> None:
    traced.call(**{"llamatelemetry.phase": "decode"})
    assert traced.processor.graph().nodes == []


async def test_each_trace_has_its_own_graph(traced: Traced) -> None:
    async def run(name: str) -> int:
        async with traced.pipeline.pipeline(name) as span:
            await asyncio.sleep(0)
            traced.call()
            return span.get_span_context().trace_id

    first, second = await asyncio.gather(run("a"), run("b"))
    graph = traced.processor.graph(first)
    assert [node.id for node in graph.nodes if node.kind == "pipeline"] == ["pipeline:a"]
    assert edges_of(traced.processor.graph(f"{second:032x}")) >= {
        ("pipeline:b", "model:m", "calls", 1)
    }
    with pytest.raises(KeyError, match=r"Trace 0{31}1 is not among the last"):
        traced.processor.graph(1)


def test_memory_of_processor_is_bounded(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor._TRACES, "most", 5)
    monkeypatch.setattr(processor._OPEN_SPANS, "most", 10)
    for number in range(1_100):
        with traced.pipeline.stage(f"stage {number}"):
            pass
        traced.tracer.start_span("never ended")
    graph = traced.processor.graph()
    assert len(graph.nodes) == 1_000
    assert graph.dropped >= 100
    assert len(traced.processor._graphs) == 5
    assert len(traced.processor._open) == 10


def test_copied_graph_is_constant_while_spans_end(traced: Traced) -> None:
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with traced.pipeline.stage(f"stage {number % 500}"):
                pass

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            graph = traced.processor.graph()
            before = graph.to_dict()
            assert graph.to_dict() == before
    finally:
        stop.set()
        worker.join()


def test_to_mermaid_escapes_names_and_labels_edges(traced: Traced) -> None:
    with traced.pipeline.stage('a "quoted" <script> #1'):
        traced.call()
    text = traced.processor.graph().to_mermaid()
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "flowchart LR"
    assert any('["stage a #quot;quoted#quot; #lt;script#gt; #35;1"]' in line for line in lines)
    assert any('|"calls 1x, 100 ms, 10+3 tok"|' in line for line in lines)
    assert "<script>" not in text


@pytest.mark.needs("pandas")
def test_to_dataframes_returns_nodes_and_edges(traced: Traced) -> None:
    traced.call()
    nodes, edges = traced.processor.graph().to_dataframes()
    found = ["model:m", "server:127.0.0.1:8080", "service:library", "slot:127.0.0.1:8080/1"]
    assert sorted(nodes["id"]) == found
    assert list(edges["count"]) == [1, 1, 1]


def test_to_mermaid_draws_gpu_links_without_arrows() -> None:
    graph = TraceGraph()
    graph.link("GPU-1", "GPU-2", "NVLink")
    assert 'n0 ---|"NVLink"| n1' in graph.to_mermaid()


def test_trace_graph_is_available_after_init_with_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="enable_trace_graphs=True"):
        llamatelemetry.trace_graph()
    llamatelemetry.init(enable_trace_graphs=True, exporter="none")
    try:
        with PipelineTracer().pipeline("rag") as span:
            trace_id = span.get_span_context().trace_id
        assert next(n.id for n in llamatelemetry.trace_graph(trace_id).nodes) == "pipeline:rag"
        assert len(llamatelemetry.trace_graph().edges) == 1
    finally:
        llamatelemetry.shutdown()
    with pytest.raises(RuntimeError):
        llamatelemetry.trace_graph()


def test_to_dataframes_names_pip_command_when_pandas_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        TraceGraph().to_dataframes()


class Dropped:
    """A span in a reference cycle, which the garbage collector ends."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.cycle = self

    def __del__(self) -> None:
        self.span.end()


def test_spans_that_garbage_collection_ends_do_not_hang(traced: Traced) -> None:
    stage = {"llamatelemetry.task": "dropped"}

    def work() -> None:
        for number in range(100):
            # Garbage is collected after so many allocations, also within the processor.
            gc.set_threshold(20 + 7 * number)
            Dropped(traced.tracer.start_span("stage", attributes=stage))
            traced.call()
            traced.processor.graph()

    before = gc.get_threshold()
    try:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "deadlock"
    finally:
        gc.set_threshold(*before)
    gc.collect()
    edges = edges_of(traced.processor.graph())
    assert ("service:library", "stage:dropped", "calls", 100) in edges
    assert ("service:library", "model:m", "calls", 100) in edges


FORKING = """
    import os, sys, threading, time
    from opentelemetry.sdk.trace import TracerProvider
    from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor

    processor = TraceGraphProcessor()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    for number in range(200):
        tracer.start_span("s", attributes={"llamatelemetry.task": f"stage {number}"}).end()

    def copy_graphs():
        while True:
            processor.graph()

    threading.Thread(target=copy_graphs, daemon=True).start()
    failed = 0
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            tracer.start_span("s", attributes={"llamatelemetry.task": "own"}).end()
            os._exit(0 if "stage:own" in {n.id for n in processor.graph().nodes} else 1)
        until = time.monotonic() + 30
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                sys.exit("a child hangs")
            time.sleep(0.005)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork()")
def test_child_forked_during_copy_of_graph_does_not_hang() -> None:
    # A separate process, because forking a process with threads, such as pytest, warns.
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKING)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
