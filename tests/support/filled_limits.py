"""Fill everything that has a limit with different entries: models, servers, tools, prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from llamatelemetry.config import _sources
from llamatelemetry.genai import Server, internal_errors, server_pids
from llamatelemetry.genai.deferred_metrics import DeferredRecorder
from llamatelemetry.genai.diagnostics import loop_blocks, server_process
from llamatelemetry.genai.diagnostics.references import Prompt, PromptHistory
from llamatelemetry.genai.diagnostics.sections import SectionCache
from llamatelemetry.genai.server_metadata import ServerMetadata, ServerMetadataCache
from llamatelemetry.genai.servers import KnownServers
from llamatelemetry.genai.wire.openai_responses import UnfinishedResponses
from llamatelemetry.gpu.energy import EnergyLedger
from llamatelemetry.gpu.monitor.engines import Engines
from llamatelemetry.llama.server.log import ServerLog
from llamatelemetry.local.call_history import CallHistory
from llamatelemetry.local.store import Store
from llamatelemetry.otel.export import encoding_repair
from llamatelemetry.otel.redaction import fail_closed
from llamatelemetry.otel.redaction.attribute_names import NameClassifier
from llamatelemetry.otel.redaction.processor_base import ResourceRedactor
from llamatelemetry.otel.redaction.redactor import Redactor
from llamatelemetry.otel.redaction.rules import Rules
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor
from llamatelemetry.otel.sampling.rules import Policy
from llamatelemetry.otel.sampling.tail_sampler import TailSampler
from llamatelemetry.otel.trace_graph.graph import TraceGraph
from llamatelemetry.otel.trace_graph.processor import TraceGraphProcessor
from llamatelemetry.server_metrics.reader import ServerReader
from llamatelemetry.server_metrics.target import parse_target
from llamatelemetry_instrumentation_llamacpp._origins import Origins
from llamatelemetry_instrumentation_openai import _requests as openai_requests
from tests.support import example_records
from tests.support.waiting import wait_for

MANY = 100_000
FEWER = 2_000
"""Entries where a new one takes long, such as a class."""
Sized = Callable[[], Any]


def _server(number: int) -> Server:
    return Server(f"host{number}", 80, f"http://host{number}:80", None)


def _class(number: int) -> type:
    return type(f"Error{number}", (Exception,), {})


def _logged_options(count: int) -> Sized:
    for number in range(count):
        _sources.warn_once(f"option {number}")
    return lambda: _sources._logged


def _internal_errors(count: int) -> Sized:
    internal_errors.set_strict(False)
    for number in range(count):
        internal_errors.log_once("driving", _class(number)())
    return lambda: internal_errors._reported


def _redaction_errors(count: int) -> Sized:
    for number in range(count):
        fail_closed.log_once("driving", _class(number)())
    return lambda: fail_closed._logged


def _unencodable_values(count: int) -> Sized:
    for number in range(count):
        encoding_repair._warn("attribute", f"name {number}")
    return lambda: encoding_repair._warned


def _known_servers(count: int) -> Sized:
    servers = KnownServers()
    for number in range(count):
        servers.remember(_server(number), "vllm")
    return lambda: servers.providers


def _server_metadata(count: int) -> Sized:
    cache = ServerMetadataCache()
    for number in range(count):
        cache.cache(_server(0), ServerMetadata({}), f"model {number}")
    return lambda: cache._found


def _server_metadata_requests(count: int) -> Sized:
    cache = ServerMetadataCache()
    for number in range(count):
        # Nothing listens on port 9, so each request fails at once.
        cache.fetch(_server(number), "http://127.0.0.1:9", {}, None)
        wait_for(lambda: not cache._fetching)
    return lambda: cache._due


def _server_processes(count: int) -> Sized:
    for number in range(count):
        server_pids.pid_of(f"http://192.0.2.1:{number}")
    return lambda: server_pids._lookups


def _metric_series(count: int) -> Sized:
    meter = MeterProvider().get_meter("limits")
    recorder = DeferredRecorder(meter, meter.create_histogram("histogram"))
    for number in range(count):
        recorder.start_series(number, None)
    return lambda: recorder.series


def _prompt_models(count: int) -> Sized:
    history = PromptHistory()
    for number in range(count):
        history.add(f"model {number}", Prompt([], number))
    return lambda: history._prompts


def _prompts(count: int) -> Sized:
    history = PromptHistory()
    for number in range(count):
        history.add("model", Prompt([], number))
    return lambda: history._prompts["model"]


def _prompt_groups(count: int) -> Sized:
    cache = SectionCache(b"key")
    for number in range(count):
        cache.hash_of((f"hash {number}",))
    return lambda: range(cache.hash_of.cache_info().currsize)


def _prompt_sections(count: int) -> Sized:
    cache = SectionCache(b"key")
    for number in range(count):
        cache._section("user", f"text {number}")
    return lambda: cache._known


def _loop_blocks(count: int) -> Sized:
    monitor = loop_blocks.LoopMonitor()
    for _ in range(count):
        monitor._due_ns = 0  # late since the start of the machine
        monitor._on_timer()
    return lambda: monitor._blocks


def _server_samples(count: int) -> Sized:
    server = server_process.Server("http://127.0.0.1:9")
    for _ in range(count):
        server._read(is_quick=False)
    return lambda: server.samples


def _unfinished_responses(count: int) -> Sized:
    responses = UnfinishedResponses()
    for number in range(count):
        responses.add(f"resp_{number}")
    return lambda: responses._ids


def _ended_gpu_calls(count: int) -> Sized:
    ledger, key = EnergyLedger(), _class(0)()
    ledger.place({"engine": frozenset({"gpu"})})
    ledger.settle({"gpu": (0.0, 1.0)})
    for number in range(count):
        ledger.start(key, "engine", number)
        ledger.finish(key, number)
    return lambda: ledger._ended


def _gpu_engines(count: int) -> Sized:
    engines = Engines(lambda _: ())
    for number in range(count):
        engines.look_up([f"http://127.0.0.1:{number}"], {}, 0.0)
    return lambda: engines._found


def _server_log(count: int) -> Sized:
    log = ServerLog()
    log.feed(b"line\n" * count)
    return log.lines


def _call_history(count: int) -> Sized:
    history = CallHistory()
    span = SimpleNamespace(attributes={"gen_ai.operation.name": "chat"})
    for _ in range(count):
        history.on_end(span)
    return lambda: history._ended


def stored_resources(count: int, folder: Path) -> Sized:
    """Store spans with this number of resources. Return a function that returns those kept."""
    span = example_records.span(1)
    with Store(folder / "telemetry.db") as store:
        store.write(replace(span, resource={"number": number}) for number in range(count))
        return lambda: store._resource_ids


def _attribute_names(count: int) -> Sized:
    classifier = NameClassifier()
    for number in range(count):
        classifier.kind(f"name.{number}")
    return lambda: classifier._cache


def _redacted_resources(count: int) -> Sized:
    redactor = ResourceRedactor(Redactor(Rules()))
    resources = [Resource({"number": number}) for number in range(count)]
    for resource in resources:
        redactor.redact(resource)
    return lambda: redactor._cache


def _clean_texts(count: int) -> Sized:
    redactor = Redactor(Rules.of(patterns="email"))
    for number in range(count):
        redactor.start().text(f"text {number}")
    return lambda: redactor.clean_texts


def _harmless_names(count: int) -> Sized:
    processor = SecretsSpanProcessor()
    redaction = processor._start()
    for number in range(count):
        processor._may_hold_secret(f"name.{number}", redaction)
    return lambda: processor._harmless_names


def _spans(processor: Any, count: int, *, end: bool) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("limits")
    for number in range(count):
        names = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"tool {number}"}
        span = tracer.start_span("span", attributes=names)
        if end:
            span.end()


def _kept_traces(count: int) -> Sized:
    sampler = TailSampler(Policy(rate=1.0))
    _spans(sampler, count, end=True)
    return lambda: sampler._recently_kept


def _trace_graph_spans(count: int) -> Sized:
    processor = TraceGraphProcessor()
    _spans(processor, count, end=False)
    return lambda: processor._open


def _trace_graphs(count: int) -> Sized:
    processor = TraceGraphProcessor()
    _spans(processor, count, end=True)
    return lambda: processor._graphs


def _trace_graph_nodes(count: int) -> Sized:
    graph = TraceGraph()
    for number in range(count):
        graph.node("tool", f"tool {number}")
    return lambda: graph.nodes


def _trace_graph_edges(count: int) -> Sized:
    graph = TraceGraph()
    nodes = [graph.node("server", f"server {number}") for number in range(400)]
    for number in range(count):
        graph.edge(nodes[number // 400], nodes[number % 400], "calls")
    return lambda: graph.edges


def _ended_servers(count: int) -> Sized:
    reader = ServerReader(parse_target("http://127.0.0.1:9/metrics"))
    for number in range(count + 1):
        reader._check_processes({None: str(number)})
    return lambda: reader._ended


def _configured_origins(count: int) -> Sized:
    origins = Origins(None, None)
    for number in range(count):
        origins._look_up(_server(number))
    return lambda: origins._configured


def _openai_servers(count: int) -> Sized:
    openai = pytest.importorskip("openai")
    openai_requests._servers.clear()
    client = openai.OpenAI(api_key="none")
    for number in range(count):
        client.base_url = f"http://host{number}/v1"
        openai_requests.server_of_client(client)
    return lambda: openai_requests._servers


FILLED: dict[str, tuple[Callable[[int], Sized], int]] = {
    "attribute_names": (_attribute_names, MANY),
    "call_history": (_call_history, MANY),
    "clean_texts": (_clean_texts, MANY),
    "configured_origins": (_configured_origins, MANY),
    "ended_gpu_calls": (_ended_gpu_calls, 4 * FEWER),
    "ended_servers": (_ended_servers, MANY),
    "gpu_engines": (_gpu_engines, FEWER),
    "harmless_names": (_harmless_names, MANY),
    "internal_errors": (_internal_errors, FEWER),
    "kept_traces": (_kept_traces, 12_000),
    "known_servers": (_known_servers, MANY),
    "logged_options": (_logged_options, MANY),
    "loop_blocks": (_loop_blocks, FEWER),
    "metric_series": (_metric_series, MANY),
    "openai_servers": (_openai_servers, FEWER),
    "prompt_groups": (_prompt_groups, MANY),
    "prompt_models": (_prompt_models, MANY),
    "prompt_sections": (_prompt_sections, MANY),
    "prompts": (_prompts, FEWER),
    "redacted_resources": (_redacted_resources, FEWER),
    "redaction_errors": (_redaction_errors, FEWER),
    "server_log": (_server_log, MANY),
    "server_metadata": (_server_metadata, MANY),
    "server_metadata_requests": (_server_metadata_requests, 300),
    "server_processes": (_server_processes, MANY),
    "server_samples": (_server_samples, MANY),
    "trace_graph_edges": (_trace_graph_edges, MANY),
    "trace_graph_nodes": (_trace_graph_nodes, MANY),
    "trace_graph_spans": (_trace_graph_spans, 30_000),
    "trace_graphs": (_trace_graphs, 10 * FEWER),
    "unencodable_values": (_unencodable_values, MANY),
    "unfinished_responses": (_unfinished_responses, MANY),
}


def _url(number: int) -> tuple[str]:
    return (f"http://host{number}/v1/chat/completions",)


def _name(number: int) -> tuple[str]:
    return (f"name-{number}",)


def _kind(number: int) -> tuple[type]:
    return (type(f"Class{number}", (), {"base_url": None}),)


def _address(number: int) -> tuple[str, str, int]:
    return ("http", f"host{number}", 80)


# The arguments of a call of each function with a cache, by a number.
CACHED: dict[str, tuple[Callable[[int], tuple[Any, ...]], int]] = {
    "attribute_texts": (lambda number: (json.dumps({"key": number}),), MANY),
    "aiohttp_urls": (lambda number: (*_url(number), None), MANY),
    "error_codes": (_name, MANY),
    "fingerprints": (_name, MANY),
    "header_classes": (_kind, FEWER),
    "httpx_servers": (_address, MANY),
    "local_addresses": (_url, MANY),
    "model_names": (_name, MANY),
    "openai_classes": (_kind, FEWER),
    "openai_clients": (_kind, FEWER),
    "request_paths": (_url, MANY),
    "requests_urls": (_url, MANY),
    "transport_classes": (_kind, FEWER),
    "urllib3_classes": (_kind, FEWER),
    "urllib3_servers": (_address, MANY),
    "urllib3_urls": (_url, MANY),
}
