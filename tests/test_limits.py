"""Everything that is kept in memory has a limit, drops entries by its rule, and counts them."""

from __future__ import annotations

import ast
import gc
import importlib
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from llamatelemetry._limits import LIMITS, Limit
from llamatelemetry.config import LlamaTelemetryConfig, _sources
from llamatelemetry.genai import (
    Content,
    Instrumenter,
    Request,
    Response,
    Usage,
    flush_pending,
    internal_errors,
    known_servers,
    server_of,
    server_pids,
)
from llamatelemetry.local.call_history import CallHistory
from llamatelemetry.otel import RedactionSpanProcessor
from llamatelemetry.otel.export import encoding_repair
from llamatelemetry.otel.limit_counts import LimitCounts
from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.sampling.rules import Policy
from llamatelemetry.otel.sampling.tail_sampler import TailSampler
from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor
from llamatelemetry_instrumentation_openai import _requests as openai_requests
from tests.support.filled_limits import CACHED, FEWER, FILLED, stored_resources

ROOT = Path(__file__).parents[1]
# Filled by tests of their own below.
OTHERS = {"httpx_classes", "stored_resources"}


def _modules_with_limits() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for path in sorted((ROOT / "src").rglob("*.py"))
        if path.name != "_limits.py" and "Limit(" in path.read_text(encoding="utf-8")
    ]


for module in _modules_with_limits():
    importlib.import_module(module)


def test_every_limit_is_filled_by_a_test():
    assert {*FILLED, *CACHED, *OTHERS} == set(LIMITS)


@pytest.fixture(autouse=True)
def _leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test fill containers of its own, and keep the logs quiet."""
    for module, name in (
        (_sources, "_logged"),
        (internal_errors, "_reported"),
        (fail_closed, "_logged"),
        (encoding_repair, "_warned"),
        (server_pids, "_lookups"),
        (openai_requests, "_servers"),
    ):
        monkeypatch.setattr(module, name, {})
        if logger := getattr(module, "_logger", None):
            monkeypatch.setattr(logger, "disabled", True)


@pytest.mark.parametrize("name", FILLED)
def test_entries_beyond_a_limit_are_dropped_and_counted(name):
    fill, count = FILLED[name]
    limit, before = LIMITS[name], LIMITS[name].dropped
    kept = len(fill(count)())
    assert count > limit.most
    assert limit.most // 2 <= kept <= limit.most or limit.rule == "drops all"
    assert kept <= limit.most
    # A resource has a redacted copy. A span without a local parent adds a node of a service.
    assert limit.dropped - before == count - kept


@pytest.mark.parametrize("name", CACHED)
def test_results_beyond_the_limit_of_a_cache_are_dropped_and_counted(name):
    arguments, count = CACHED[name]
    limit = LIMITS[name]
    (function,) = limit._caches
    function.cache_clear()
    for number in range(count):
        function(*arguments(number))
    assert function.cache_info().currsize == limit.most
    assert limit.dropped == count - limit.most
    function.cache_clear()


def test_classes_of_httpx_are_limited(monkeypatch: pytest.MonkeyPatch):
    limit = LIMITS["httpx_classes"]
    (function,) = limit._caches
    before = limit.dropped
    for number in range(20):
        library = SimpleNamespace(SyncByteStream=object, AsyncByteStream=object)
        monkeypatch.setitem(sys.modules, f"httpx{number}", library)
        function(f"httpx{number}")
    assert function.cache_info().currsize == limit.most
    assert limit.dropped - before >= 20 - limit.most
    function.cache_clear()


def test_resources_of_a_database_are_limited(tmp_path: Path):
    limit, before = LIMITS["stored_resources"], LIMITS["stored_resources"].dropped
    assert len(stored_resources(FEWER, tmp_path)()) == limit.most
    assert limit.dropped - before == FEWER - limit.most


@pytest.fixture
def limit() -> Iterator[Limit]:
    yield Limit("of a test", 10, "entries")
    del LIMITS["of a test"]


def _in_threads(work: Callable[[int], object]) -> None:
    with ThreadPoolExecutor(32) as threads:
        list(threads.map(work, range(32)))


def test_threads_count_every_drop(limit: Limit):
    entries: dict[Any, None] = {}
    ring: deque[int] = deque(maxlen=limit.most)
    full = dict.fromkeys(range(limit.most))

    def work(thread: int) -> None:
        for number in range(500):
            limit.drop()
            entries[thread, number] = None
            limit.trim(entries)
            limit.append(ring, number)
            assert len(limit.copy(ring)) <= limit.most
            assert not limit.has_room(full)
            if number == 250:
                limit.empty(entries)

    _in_threads(work)
    added = 32 * 500
    assert limit.dropped == 2 * added + (added - len(entries)) + (added - len(ring))


def test_cache_with_room_has_dropped_nothing_when_threads_compute_the_same(limit: Limit):
    barrier = Barrier(2)
    cached = limit.cached(lambda _: barrier.wait(10))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(cached, [1, 1]))
    assert limit.dropped == 0


def test_metric_counts_what_limits_drop_from_now_on():
    limit = Limit("of a test", 2, "entries")
    try:
        limit.drop(5)
        reader, counts = InMemoryMetricReader(), LimitCounts()
        counts.export_to(MeterProvider([reader], shutdown_on_exit=False))
        assert _exported(reader) == {}
        limit.trim(dict.fromkeys(range(5)))
        assert _exported(reader) == {"of a test": 3}
        counts.reset_after_fork()
        assert _exported(reader) == {}
    finally:
        del LIMITS["of a test"]


def _exported(reader: InMemoryMetricReader) -> dict[str, int]:
    data = reader.get_metrics_data()
    return {
        point.attributes["llamatelemetry.limit.name"]: point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "llamatelemetry.limit.dropped"
        for point in metric.data.data_points
    }


def test_page_lists_all_limits():
    command = [sys.executable, "scripts/limits_reference.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


# Containers of a whole module whose entries cannot grow without end.
FIXED = {
    "llamatelemetry._limits.LIMITS": "the limits",
    "llamatelemetry._setup_in_progress._threads": "calls of init() that are running",
    "llamatelemetry.distro._gpu._instruments": "one for each process",
    "llamatelemetry.genai.diagnostics.loop_blocks._monitors": "weak: running loops",
    "llamatelemetry.genai.server_pids._managed": "running servers of the application",
    "llamatelemetry.genai.streams.open_streams._open": "weak: open streams",
    "llamatelemetry.gpu.monitor.background._loops": "weak: threads of llamatelemetry",
    "llamatelemetry.gpu.monitor.background._waiting_for_fork": "threads of llamatelemetry",
    "llamatelemetry.llama.server.help._cache": "installed builds of llama.cpp",
    "llamatelemetry.llama.server.manager._running": "running servers of the application",
    "llamatelemetry.otel.export.file_exporter._files": "weak: exporters",
    "llamatelemetry.otel.export.http_sessions._inherited": "exporters of parent processes",
    "llamatelemetry.otel.export.http_sessions._sessions": "weak: exporters",
    "llamatelemetry.otel.export.prometheus_reader._readers": "weak: readers",
    "llamatelemetry.otel.process.forking._locks": "weak: locks",
    "llamatelemetry.otel.process.leader_election._elections": "weak: elections",
    "llamatelemetry.otel.trace_graph.graph.processors": "weak: processors",
    "llamatelemetry.server_metrics.scraper._instances": "weak: scrapers",
    "llamatelemetry_instrumentation_llamacpp._llama_cpp._runs": "weak: models in memory",
    "llamatelemetry_instrumentation_transformers._model._described": "weak: models in memory",
    "llamatelemetry_instrumentation_transformers._model._names": "weak: models in memory",
    "llamatelemetry_instrumentation_transformers._model._parameters": "weak: models in memory",
}
LIMITED = {
    "llamatelemetry.config._sources._logged",
    "llamatelemetry.genai.internal_errors._reported",
    "llamatelemetry.genai.server_pids._lookups",
    "llamatelemetry.otel.export.encoding_repair._warned",
    "llamatelemetry.otel.redaction.fail_closed._logged",
    "llamatelemetry_instrumentation_openai._requests._servers",
}
GROWING = {
    *("dict", "set", "list", "deque", "OrderedDict", "defaultdict", "Counter", "SimpleQueue"),
    *("Queue", "WeakSet", "WeakKeyDictionary", "WeakValueDictionary"),
}


def _grows(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        function = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        return name in GROWING and not value.args
    if isinstance(value, ast.Dict):
        return not value.keys
    return isinstance(value, (ast.List, ast.Set)) and not value.elts


def test_containers_of_modules_have_a_limit_or_cannot_grow():
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.AnnAssign) and _grows(node.value):
                # A mapping that cannot be changed is a constant.
                if (
                    "Attributes" not in (kind := ast.unparse(node.annotation))
                    and "Mapping" not in kind
                ):
                    found.add(f"{module}.{ast.unparse(node.target)}")
            elif isinstance(node, ast.Assign) and _grows(node.value):
                found.add(f"{module}.{ast.unparse(node.targets[0])}")
    assert found == {*FIXED, *LIMITED}


def test_caches_of_functions_have_a_limit():
    """`Limit.cached` counts what a cache drops; `functools.lru_cache` does not."""
    users = {
        path.name
        for path in (ROOT / "src").rglob("*.py")
        if "lru_cache(" in path.read_text(encoding="utf-8")
    }
    # The configuration is read for a few combinations of arguments.
    assert users == {"_limits.py", "_sources.py"}


CALLS = 100_000


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_memory_is_constant_over_100_000_models_servers_tools_and_conversations():
    """One call of each, with everything on. Of whatever a call leaves, a limit drops the oldest."""
    tracers = TracerProvider(shutdown_on_exit=False)
    sampler = TailSampler(Policy(rate=1.0))
    for processor in (RedactionSpanProcessor(), TraceGraphProcessor(), CallHistory(), sampler):
        tracers.add_span_processor(processor)
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    config = LlamaTelemetryConfig(capture_content="span_only", diagnostics=True)
    instrumenter = Instrumenter(
        "limits", "1", config=config, tracer_provider=tracers, meter_provider=meters
    )
    objects: list[int] = []
    for number in range(CALLS):
        if number in (CALLS // 2, CALLS - 1):
            assert flush_pending(60)
            reader.collect()
            gc.collect()
            objects.append(len(gc.get_objects()))
        _call(instrumenter, tracers.get_tracer("limits"), number)
    # One object for each call would be 50,000.
    assert objects[1] - objects[0] < 10_000


def _call(instrumenter: Instrumenter, tracer: Tracer, number: int) -> None:
    body = {"messages": [{"role": "user", "content": f"Prompt {number} of ada@example.com"}]}
    names = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"tool {number}"}
    with tracer.start_as_current_span("execute_tool", attributes=names):
        request = Request(
            "chat",
            "vllm",
            f"model-{number}",
            server=server_of("http", f"host{number}", 8000),
            parameters={"gen_ai.conversation.id": f"conversation-{number}"},
            body=body,
            read_content=lambda: Content(inputs=body["messages"]),
        )
        call = instrumenter.start(request)
        assert call is not None
        known_servers.remember(request.server, "vllm")
        usage = Usage(input_tokens=10, output_tokens=2)
        call.finish(Response(model=f"model-{number}", id=f"r{number}", usage=usage))
