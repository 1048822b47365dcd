"""All documented calls that work without a GPU, as a program that needs no test library.

    python contract_calls.py SERVER_URL DIRECTORY [BENCHMARK_URL]

It prints one JSON object. Each call has an outcome: `ok`, or the type and message of the exception.
Each command has an exit status and an output. The packages in the variable `MISSING` cannot be
imported. `scripts/check_wheels.py` runs the program where only wheels are installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

MISSING = [name for name in os.environ.get("MISSING", "").split(",") if name]
PACKAGES = (
    "llamatelemetry",
    *("llamatelemetry.bench", "llamatelemetry.distributed", "llamatelemetry.gpu"),
    *("llamatelemetry.graphistry", "llamatelemetry.inference", "llamatelemetry.llama"),
    *("llamatelemetry.nccl", "llamatelemetry.otel", "llamatelemetry.pipeline"),
    *("llamatelemetry.semconv", "llamatelemetry.transformers"),
)
HELLO = [{"role": "user", "content": "Say hello."}]


class FinderWithoutMissing:
    """A module finder that does not find the packages in `MISSING`."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, *args: Any) -> Any:
        if any(f"{name}.".startswith(f"{missing}.") for missing in MISSING):
            return None
        return self._finder.find_spec(name, *args)


class EchoEngine:
    """A custom engine that returns its prompt."""

    model_name = "echo"

    def generate(self, prompt: str, *_args: Any, **_options: Any) -> str:
        return prompt

    def chat(self, messages: Any, *_args: Any, **_options: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": str(messages)}
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def load_names_of(package: str) -> Callable[[], Any]:
    def load() -> None:
        module = importlib.import_module(package)
        for name in module.__all__:
            getattr(module, name)

    return load


def init() -> None:
    import llamatelemetry

    kind = {"exporter": "file", "export_path": "data"}
    unreachable = {"exporter": "otlp", "otlp_endpoint": "http://127.0.0.1:9"}
    if {"grpc", "opentelemetry.exporter.otlp.proto.grpc"} & {*MISSING}:
        kind = {**unreachable, "otlp_protocol": "grpc"}
    elif {"requests", "opentelemetry.exporter.otlp.proto.http"} & {*MISSING}:
        kind = unreachable
    llamatelemetry.init(service_name="contract", enable_trace_graphs=True, **kind)


def use_client() -> None:
    from llamatelemetry.llama import LlamaCppClient

    with LlamaCppClient(URL, load_wait_s=5.0) as client:
        assert client.health().status == "ok"
        assert client.models().data[0].id
        assert client.detokenize(client.tokenize("Hello")) == "Hello"
        assert client.chat(HELLO, max_tokens=2).choices[0].message.content
        assert list(client.chat(HELLO, max_tokens=2, stream=True))


async def use_async_client() -> None:
    from llamatelemetry.llama import AsyncLlamaCppClient

    async with AsyncLlamaCppClient(URL) as client:
        assert (await client.chat(HELLO, max_tokens=2)).usage.completion_tokens == 2


def use_engines() -> None:
    from llamatelemetry.inference import create_engine, traced_engine

    assert traced_engine(EchoEngine()).generate("a") == "a"
    with create_engine("llama.cpp", base_url=URL) as engine:
        assert engine.generate("Once", max_tokens=2)


def wrap() -> None:
    from llamatelemetry.llama import unwrap_openai_client, wrap_openai_client

    try:
        from openai import OpenAI
    except ImportError:
        with contextlib.suppress(TypeError):  # not a client
            wrap_openai_client(EchoEngine())
        return
    with OpenAI(base_url=f"{URL}/v1", api_key="none") as client:
        wrap_openai_client(client).chat.completions.create(model="m", messages=HELLO, max_tokens=2)
        unwrap_openai_client(client)


def start_server() -> None:
    from llamatelemetry import ServerConfig, ServerManager
    from llamatelemetry.llama import ServerManagerError, ServerNotFoundError

    with contextlib.suppress(ValueError):
        ServerConfig("missing.gguf")
        raise AssertionError("ServerConfig accepted a missing file")
    Path("empty.gguf").write_bytes(b"GGUF")
    try:
        ServerManager(ServerConfig("empty.gguf", port=0, startup_timeout_s=20)).start()
    except ServerNotFoundError:
        raise
    except ServerManagerError:
        return  # not a model
    raise AssertionError("ServerManager started an empty model")


def bench() -> Any:
    from llamatelemetry.bench import BenchmarkProfile, BenchmarkResults, BenchmarkRunner

    runner = BenchmarkRunner(EchoEngine(), BenchmarkProfile.QUICK, progress=False)
    results = runner.run("echo", ["one", "two"])
    assert BenchmarkResults.load(results.save("results.json")).model == "echo"
    for suffix in (".csv", ".md", ".html"):
        assert results.save(f"results{suffix}").stat().st_size > 100
    assert json.loads(results.to_json())["summary"]["figures"]["e2e"]["count"] == 10
    return results


def summarize() -> None:
    summary = bench().summary()
    assert "p95" in summary
    has_note = "A confidence interval or a comparison needs" in summary
    assert has_note == ("p50 95% CI" not in summary)


def compare() -> None:
    results = bench()
    assert results.compare(results)["e2e"].verdict


def observe() -> None:
    from opentelemetry import metrics, trace

    import llamatelemetry
    from llamatelemetry.otel import GenAIMetrics
    from llamatelemetry.pipeline import PipelineTracer
    from llamatelemetry.semconv import normalize_operation, set_gen_ai_attrs

    @llamatelemetry.workflow
    def plan() -> str:
        with llamatelemetry.session("s1", user_id="u1"), llamatelemetry.suppress():
            return find("x")

    @llamatelemetry.tool(name="search")
    def find(query: str) -> str:
        return query

    @llamatelemetry.task
    async def later() -> str:
        return plan()

    assert asyncio.run(later()) == "x"
    assert llamatelemetry.invocation(plan)() == "x"
    with llamatelemetry.invocation(timeout_s=2.0):
        plan()
    tracer = PipelineTracer()
    with tracer.pipeline("rag", kind="test"), tracer.stage("retrieve") as stage:
        stage.set_attribute("n", 3)
        attributes = set_gen_ai_attrs(operation="chat", model="m", input_tokens=3)
        trace.get_current_span().set_attributes(attributes)
    assert normalize_operation("Embed") == "embeddings"
    recorder = GenAIMetrics(metrics.get_meter("contract"))
    known = {"gen_ai_system": "llama_cpp", "operation": "chat", "model": "m"}
    recorder.record_token_usage(3, 2, **known)
    recorder.record_ttft(0.1, **known)


def redact() -> None:
    from llamatelemetry.otel import RedactionLogProcessor, RedactionSpanProcessor

    RedactionSpanProcessor(redact_keys=["secret"])
    RedactionLogProcessor()


def redact_by_pattern() -> None:
    from llamatelemetry.otel import RedactionSpanProcessor

    RedactionSpanProcessor(patterns=[r"ACME-\d+"])


def draw() -> None:
    from llamatelemetry.distributed import TopologyMapper
    from llamatelemetry.graphistry import GraphistryViz

    viz = GraphistryViz(output_dir="pages")
    graph = recorded_graph()
    topology = TopologyMapper().detect()
    assert str(topology)
    topology.to_dict()
    pages = [
        viz.plot_pipeline_graph("m.gguf", "llama.cpp", ["A", "B"], (3, 1), URL),
        viz.plot_trace_graph(graph),
        viz.plot_topology(topology),
    ]
    for page in pages:
        assert 'id="graph"' in Path(page).read_text(encoding="utf-8")
    assert graph.to_mermaid()


def recorded_graph() -> Any:
    if MISSING:  # a missing package may be needed to record graphs
        from llamatelemetry.otel.trace_graph.graph import TraceGraph

        return TraceGraph()
    import llamatelemetry

    return llamatelemetry.trace_graph()


def data_frame_of(kind: str) -> Callable[[], Any]:
    def make() -> None:
        from llamatelemetry.distributed import TopologyMapper

        if kind == "bench":
            bench().to_dataframe()
        elif kind == "graph":
            recorded_graph().to_dataframes()
        else:
            TopologyMapper().detect().to_dataframe()

    return make


def look_for_gpus() -> None:
    import llamatelemetry

    if not llamatelemetry.detect_cuda().available:
        try:
            llamatelemetry.require_cuda()
        except RuntimeError:
            return
        raise AssertionError("require_cuda() found no GPU and raised no error")


def instrument_transformers() -> None:
    from llamatelemetry.transformers import TransformersInstrumentor

    instrumentor = TransformersInstrumentor()
    instrumentor.instrument()
    if instrumentor.is_instrumented_by_opentelemetry:  # False without transformers
        instrumentor.uninstrument()


def transformers_backend() -> None:
    from llamatelemetry.inference import create_engine

    Path("model.gguf").write_bytes(b"GGUF")
    create_engine("transformers", model_name_or_path="model.gguf")


def nccl_group() -> None:
    from llamatelemetry.nccl import NCCLGroup

    with NCCLGroup(1, backend="gloo") as group:
        assert group.check()


def finish() -> None:
    import llamatelemetry

    llamatelemetry.flush(2)
    llamatelemetry.shutdown(2)


# Importing torch takes seconds, so these run only if the variable HEAVY is set.
HEAVY = {"TransformersBackend": transformers_backend, "NCCLGroup": nccl_group}
CALLS: dict[str, Callable[[], Any]] = {
    **{f"names of {package}": load_names_of(package) for package in PACKAGES},
    "init": init,
    "LlamaCppClient": use_client,
    "AsyncLlamaCppClient": lambda: asyncio.run(use_async_client()),
    "engines": use_engines,
    "wrap_openai_client": wrap,
    "ServerManager": start_server,
    "benchmark": bench,
    "benchmark summary": summarize,
    "benchmark compare": compare,
    "benchmark to_dataframe": data_frame_of("bench"),
    "pipeline, semconv, metrics": observe,
    "redaction": redact,
    "redaction by pattern": redact_by_pattern,
    "graphs": draw,
    "trace graph to_dataframes": data_frame_of("graph"),
    "topology to_dataframe": data_frame_of("topology"),
    "GPUs": look_for_gpus,
    "TransformersInstrumentor": instrument_transformers,
    "flush and shutdown": finish,
}
COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "doctor": ["doctor", "--server", "URL"],
    "topology": ["topology"],
    "topology --json": ["topology", "--json"],
    "run": ["run", "--output", "run.db", "--", sys.executable, "-c", "pass"],
    "run --grpc-port": ["run", "--grpc-port", "PORT", "--", sys.executable, "-c", "pass"],
    "report": ["report", "run.db"],
    "bench": [
        *("bench", "--url", "BENCH_URL", "--profile", "quick", "--prompts", "prompts.jsonl"),
        *("--max-tokens", "2", "-o", "bench.json", "--html", "bench.html"),
    ],
    "bench --compare": [
        *("bench", "--url", "BENCH_URL", "--profile", "quick", "--prompts", "prompts.jsonl"),
        *("--max-tokens", "2", "--compare", "bench.json", "--min-effect", "1000"),
    ],
}


def outcome_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return "ok"


def command(arguments: list[str]) -> dict[str, Any]:
    """Run a command line in this process, as its console script does."""
    known = {"URL": URL, "BENCH_URL": BENCH_URL, "PORT": str(free_port())}
    sys.argv = ["llamatelemetry", *(known.get(each, each) for each in arguments)]
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            from llamatelemetry.__main__ import main

            main()
        except SystemExit as error:
            status = error.code
        except BaseException:
            status = "exception"
            traceback.print_exc()
    return {"status": status or 0, "out": out.getvalue()[-2000:], "err": err.getvalue()[-3000:]}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    os.chdir(sys.argv[2])
    # The scripted server of the tests reads its timing from the prompt.
    prompt = json.dumps({"first_s": 0.0, "gaps_s": [0.0]})
    Path("prompts.jsonl").write_text(json.dumps({"prompt": prompt}), encoding="utf-8")
    calls = CALLS | (HEAVY if os.environ.get("HEAVY") else {})
    found = {name: outcome_of(call) for name, call in calls.items()}
    # Only to see its error: tests/cli/test_demo.py runs the demo.
    demo = {"demo": ["demo"]} if {"openai", "xllamacpp"} & {*MISSING} else {}
    commands = {}
    for name, given in (COMMANDS | demo).items():
        if name != "bench --compare" or Path("bench.json").exists():
            commands[name] = command(given)
    print(json.dumps({"calls": found, "commands": commands}))  # noqa: T201 - the result


if __name__ == "__main__":
    URL, BENCH_URL = sys.argv[1], (sys.argv[3:] or sys.argv[1:2])[0]
    sys.meta_path[:] = [FinderWithoutMissing(finder) for finder in sys.meta_path]
    main()
