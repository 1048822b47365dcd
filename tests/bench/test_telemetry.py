"""Spans and metrics of a benchmark, with and without other instrumentation."""

from __future__ import annotations

import json

import numpy as np
import openai
import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
from llamatelemetry.genai import internal_errors
from llamatelemetry.inference import traced_engine
from llamatelemetry.llama import LlamaCppClient, wrap_openai_client
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.timed_server import Script

CLIENTS = {
    "llama.cpp client": LlamaCppClient,
    "OpenAI": lambda url: openai.OpenAI(base_url=f"{url}/v1", api_key="none"),
    "AsyncOpenAI": lambda url: openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none"),
    "wrapped OpenAI": lambda url: wrap_openai_client(
        openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    ),
}


@pytest.fixture(params=[False, True], ids=["plugins off", "plugins on"])
def plugins(request, recorded):
    if not request.param:
        yield
        return
    active = [OpenAIInstrumentor(), LlamaCppInstrumentor()]
    for instrumentor in active:
        instrumentor.instrument(**recorded.providers)
    yield
    for instrumentor in active:
        instrumentor.uninstrument()


def run(client, scripts, **options):
    runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, progress=False, **options)
    return runner.run("scripted", [script.text() for script in scripts])


class BrokenProcessor(SpanProcessor):
    """A span processor of the application that raises, at the start or at the end of a span."""

    def __init__(self, at: str) -> None:
        setattr(self, at, self._fail)

    def _fail(self, *_args: object, **_kwargs: object) -> None:
        raise RuntimeError("broken processor")


@pytest.mark.parametrize("at", ["on_start", "on_end"])
def test_run_has_results_when_span_processor_raises(recorded, scripted, at):
    internal_errors.set_strict(False)
    recorded.tracer_provider.add_span_processor(BrokenProcessor(at))
    results = run(LlamaCppClient(scripted.url), [Script(0, first_s=0.01, gaps_s=[0.01])])
    assert [record.ok for record in results.requests] == [True] * 10


@pytest.mark.slow
@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("client", CLIENTS)
def test_run_records_one_trace_with_one_span_per_request(recorded, scripted, client):
    results = run(CLIENTS[client](scripted.url), [Script(0, first_s=0.01, gaps_s=[0.01])])
    (root,) = [span for span in recorded.spans() if span.parent is None]
    assert (root.name, root.kind) == ("benchmark scripted", SpanKind.INTERNAL)
    calls = recorded.calls()
    assert len(calls) == 10  # no warm-up requests and no requests for server properties
    assert {span.parent.span_id for span in calls} == {root.context.span_id}
    assert {span.context.trace_id for span in recorded.spans()} == {root.context.trace_id}
    assert results.runs[0].trace_id == f"{root.context.trace_id:032x}"
    by_span_id = {record.span_id: record.index for record in results.requests}
    assert by_span_id == {
        f"{span.context.span_id:016x}": span.attributes["llamatelemetry.bench.index"]
        for span in calls
    }


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("client", CLIENTS)
def test_span_attributes_match_request_record(recorded, scripted, client):
    results = run(CLIENTS[client](scripted.url), [Script(0, first_s=0.02, gaps_s=[0.01] * 3)])
    spans = {f"{span.context.span_id:016x}": span for span in recorded.calls()}
    for record in results.requests:
        attributes = spans[record.span_id].attributes
        assert attributes["gen_ai.operation.name"] == "chat"
        assert attributes["gen_ai.provider.name"] == "llama_cpp"
        assert attributes["gen_ai.request.max_tokens"] == 128
        assert attributes["gen_ai.usage.output_tokens"] == record.output_tokens == 4
        assert attributes["gen_ai.prefill_ms"] == pytest.approx(record.prefill_s * 1000)
        assert attributes["gen_ai.decode_ms"] == pytest.approx(record.decode_s * 1000)
        assert attributes["llamatelemetry.bench.dispatch_lag"] == pytest.approx(record.lag_s)


@pytest.mark.parametrize("client", ["llama.cpp client", "OpenAI", "AsyncOpenAI"])
def test_span_queue_duration_matches_request_record(recorded, scripted, client):
    results = run(CLIENTS[client](scripted.url), [Script(0, queue_s=0.02)])
    queues = {
        f"{span.context.span_id:016x}": span.attributes["llamatelemetry.queue_duration"]
        for span in recorded.calls()
    }
    assert queues == {each.span_id: pytest.approx(each.queue_s) for each in results.requests}


@pytest.mark.usefixtures("plugins")
def test_metrics_count_each_measured_request_once(recorded, scripted):
    run(CLIENTS["OpenAI"](scripted.url), [Script(0, gaps_s=[0.0])])
    (point,) = recorded.points("gen_ai.client.operation.duration")
    assert point.count == 10
    assert recorded.tokens("output") == 20


def test_failed_request_sets_span_status_to_error(recorded, scripted):
    run(CLIENTS["llama.cpp client"](scripted.url), [Script(0), Script(1, status=500)])
    failed = [span for span in recorded.calls() if span.status.status_code is StatusCode.ERROR]
    assert [span.attributes["error.type"] for span in failed] == ["server_error"] * 5


def test_spans_and_results_omit_prompts_by_default(recorded, scripted):
    results = run(CLIENTS["llama.cpp client"](scripted.url), [Script(471_147_114_711_471_147)])
    exported = [span.to_json() for span in recorded.spans()] + [results.to_json()]
    assert not any("471147114711471147" in text for text in exported)


def test_results_contain_prompts_when_record_prompts_is_set(scripted):
    script = Script(471_147_114_711_471_147)
    results = run(CLIENTS["llama.cpp client"](scripted.url), [script], record_prompts=True)
    assert {record.prompt_text for record in results.requests} == {script.text()}


class Engine:
    """A custom inference engine."""

    model_name = "custom"

    def __init__(self, reply):
        self._reply = reply
        self.requests = []

    def generate(
        self, prompt, max_tokens=256, temperature=0.7, stop_sequences=None, repetition_penalty=1.0
    ):
        raise NotImplementedError

    def chat(self, messages, max_tokens=256, temperature=0.7):
        self.requests.append((messages, max_tokens, temperature))
        return self._reply


REPLY = {
    "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


@pytest.mark.parametrize("wrap", [lambda engine: engine, traced_engine], ids=["plain", "traced"])
def test_custom_engine_records_one_span_per_request(recorded, wrap):
    engine = Engine(REPLY)
    results = BenchmarkRunner(wrap(engine), BenchmarkProfile.QUICK, max_tokens=9).run(
        "custom", "Hello"
    )
    assert engine.requests == [([{"role": "user", "content": "Hello"}], 9, 0.0)] * 12
    assert results.totals.failures == {}
    assert set(results.figures) == {"e2e", "lag"}
    assert {record.output_tokens for record in results.requests} == {2}
    calls = [span for span in recorded.spans() if span.parent is not None]
    assert len(calls) == 10
    assert {span.kind for span in calls} == {SpanKind.INTERNAL}


def test_engine_exception_is_counted_as_failure(recorded):
    class Broken(Engine):
        def chat(self, messages, max_tokens=256, temperature=0.7):
            self.requests.append(messages)
            if len(self.requests) % 2:
                raise ValueError("no")
            return REPLY

    results = BenchmarkRunner(Broken(REPLY), BenchmarkProfile.QUICK, progress=False).run(
        "m", "Hello"
    )
    assert results.totals.failures == {"ValueError": 5}


def test_runner_rejects_unsupported_client():
    with pytest.raises(TypeError, match=r"client must be a LlamaCppClient, .*, got str"):
        BenchmarkRunner("http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "hot"}, "cache must be 'cold' or 'warm', got 'hot'"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": 2.5}, "max_tokens must be an integer, got 2.5"),
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"concurrency": 1.5}, "concurrency must be an integer, got 1.5"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"profile": "quick"}, "profile must be a BenchmarkProfile such as .*, got 'quick'"),
        ({"slo": "ttft"}, "ttft must be a time"),
    ],
)
def test_runner_rejects_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkRunner(Engine(REPLY), **options)


def test_run_rejects_invalid_number_of_repeats():
    with pytest.raises(ValueError, match=r"repeats must be an integer, got 1\.5"):
        BenchmarkRunner(Engine(REPLY)).run("m", "Hello", repeats=1.5)


def test_runner_accepts_numbers_of_numpy():
    def runner(**options):
        return BenchmarkRunner(Engine(REPLY), BenchmarkProfile.QUICK, progress=False, **options)

    one, seed, rate = np.int64(1), np.int64(3), np.float32(200)
    results = runner(concurrency=one, max_tokens=one, seed=seed, rate=rate).run("m", "Hello")
    settings = json.loads(results.to_json())["settings"]
    assert [settings[name] for name in ("max_tokens", "seed", "rate")] == [1, 3, 200.0]
    sweep = runner().sweep("m", "Hello", concurrencies=np.arange(1, 3))
    levels = [point["level"] for point in json.loads(sweep.to_json())["points"]]
    assert (sweep.parameter, levels) == ("concurrency", [1, 2])


def test_run_raises_when_server_is_unreachable():
    import httpx2

    runner = BenchmarkRunner(LlamaCppClient("http://127.0.0.1:9"), BenchmarkProfile.QUICK)
    with pytest.raises(httpx2.ConnectError):
        runner.run("m", "Hello")
