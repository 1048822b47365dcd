"""Benchmarks of a real Transformers model in this process, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from llamatelemetry.bench import BenchmarkProfile, BenchmarkResults, BenchmarkRunner
from llamatelemetry.bench.analysis.validity import clock_warnings
from llamatelemetry.bench.machine import Clocks
from llamatelemetry.transformers import TransformersBackend
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.support.recorder import Recorder
from tests.support.saved_models import folder

__all__ = ["folder"]

PROMPTS = ["Hello there", "What is a queue?"]
WARM_UP, RUNS, TOKENS = 2, 10, 24


@pytest.fixture(params=[False, True], ids=["plugin off", "plugin on"])
def plugin(request: pytest.FixtureRequest, recorded: Recorder) -> Iterator[None]:
    if not request.param:
        yield
        return
    instrumentor: Any = TransformersInstrumentor()
    instrumentor.instrument(**recorded.providers)
    yield
    instrumentor.uninstrument()


@dataclass
class ForwardPasses:
    """Forward passes of the model: the duration of each pass, per generation."""

    generations: list[list[float]] = field(default_factory=list)
    _started_s: float = 0.0

    def observe(self, model: Any) -> None:
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)

    def _before(self, _model: Any, _args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > 1:  # a prompt; later passes have one token
            self.generations.append([])
        self._started_s = perf_counter()

    def _after(self, *_: Any) -> None:
        self.generations[-1].append(perf_counter() - self._started_s)


def measure(backend: TransformersBackend) -> tuple[BenchmarkResults, list[list[float]]]:
    """Return the results, and the model's forward passes of each measured request."""
    passes = ForwardPasses()
    passes.observe(backend.model)
    runner = BenchmarkRunner(backend, BenchmarkProfile.QUICK, max_tokens=TOKENS, progress=False)
    results = runner.run("tiny-llama", PROMPTS)
    assert len(passes.generations) == WARM_UP + RUNS
    return results, passes.generations[WARM_UP:]


@pytest.mark.usefixtures("plugin")
def test_engine_metrics_match_attributes_of_spans(recorded: Recorder, folder: Any) -> None:
    results, _ = measure(TransformersBackend(folder, device="cpu"))
    calls = {
        f"{span.context.span_id:016x}": span
        for span in recorded.spans()
        if "gen_ai.operation.name" in span.attributes
    }
    assert set(calls) == {record.span_id for record in results.requests}
    for record in results.requests:
        span = calls[record.span_id]
        phases = recorded.phases(span)
        span_s = {name: (s.end_time - s.start_time) / 1e9 for name, s in phases.items()}
        record_s = {"prefill": record.prefill_s, "decode": record.decode_s}
        assert span_s == pytest.approx(record_s, abs=2e-9)  # spans have a resolution of 1 ns
        assert span.kind is SpanKind.INTERNAL
        assert span.attributes["gen_ai.provider.name"] == "huggingface"
        assert span.attributes["gen_ai.prefill_ms"] == pytest.approx(record.prefill_s * 1000)
        assert span.attributes["gen_ai.decode_ms"] == pytest.approx(record.decode_s * 1000)
        assert span.attributes["gen_ai.usage.input_tokens"] == record.input_tokens
        assert span.attributes["gen_ai.usage.output_tokens"] == record.output_tokens
    for name in (
        *("ttft", "tpot", "e2e", "prefill", "decode", "prefill_rate", "decode_rate"),
        "engine_tpot",
    ):
        assert results.figures[name].count == RUNS


@pytest.mark.usefixtures("plugin")
def test_engine_phases_lie_between_forward_passes_and_client_latency(folder: Any) -> None:
    results, passes = measure(TransformersBackend(folder, device="cpu"))
    for record, (first_s, *others_s) in zip(results.requests, passes, strict=True):
        assert record.prefill_s >= first_s
        assert record.decode_s >= sum(others_s)
        assert record.remainder_s >= 0
        assert record.prefill_s < record.ttft_s < record.e2e_s


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("stops", [False, True], ids=["max tokens", "stop sequence"])
def test_token_counts_match_forward_passes_of_the_model(folder: Any, stops: bool) -> None:
    reply = TransformersBackend(folder, device="cpu").chat(
        [{"role": "user", "content": PROMPTS[0]}], TOKENS, 0.0
    )["choices"][0]["message"]["content"]
    backend = TransformersBackend(
        folder, device="cpu", stop_sequences=[reply[8:11]] if stops else None
    )
    results, passes = measure(backend)
    assert [record.output_tokens for record in results.requests] == [len(each) for each in passes]
    assert [record.decoded_tokens for record in results.requests] == [len(each) for each in passes]
    first = results.requests[0]
    assert (first.finish_reason, first.output_tokens == TOKENS) == (
        ("stop", False) if stops else ("length", True)
    )
    sizes = [
        len(
            backend.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
        )
        for prompt in PROMPTS
    ]
    assert [record.input_tokens for record in results.requests] == sizes * (RUNS // 2)


def test_clock_warnings_report_busy_client_unless_engine_is_in_process() -> None:
    clocks = Clocks()
    clocks._cpu_s -= 3600  # as if this process had used an hour of CPU time just now
    assert clock_warnings(clocks, engine_in_process=True) == []
    (warning,) = clock_warnings(clocks, engine_in_process=False)
    assert "of a CPU core" in warning


def test_in_process_model_causes_no_busy_client_warning(folder: Any) -> None:
    results, _ = measure(TransformersBackend(folder, device="cpu"))
    assert not any("of a CPU core" in warning for warning in results.warnings)
