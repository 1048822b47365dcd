"""A benchmark of a real model in this process: no server, and an engine that is timed from inside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from llamatelemetry.bench import BenchmarkProfile, BenchmarkResults, BenchmarkRunner
from llamatelemetry.bench._environment import Clocks, warnings_of_clocks
from llamatelemetry.transformers import TransformersBackend
from llamatelemetry_instrumentation_transformers import TransformersInstrumentor
from tests.recorder import Recorder
from tests.transformers.conftest import folder

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
class Passes:
    """What the model itself did: for each generation, how long each pass through it took."""

    generations: list[list[float]] = field(default_factory=list)
    _began_s: float = 0.0

    def watch(self, model: Any) -> None:
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after)

    def _before(self, _model: Any, _args: Any, given: dict[str, Any]) -> None:
        if given["input_ids"].shape[1] > 1:  # the prompt; what follows comes one by one
            self.generations.append([])
        self._began_s = perf_counter()

    def _after(self, *_: Any) -> None:
        self.generations[-1].append(perf_counter() - self._began_s)


def measure(backend: TransformersBackend) -> tuple[BenchmarkResults, list[list[float]]]:
    """The results, and the model's own passes in each of the measured requests."""
    passes = Passes()
    passes.watch(backend.model)
    runner = BenchmarkRunner(backend, BenchmarkProfile.QUICK, max_tokens=TOKENS, progress=False)
    results = runner.run("tiny-llama", PROMPTS)
    assert len(passes.generations) == WARM_UP + RUNS
    return results, passes.generations[WARM_UP:]


@pytest.mark.usefixtures("plugin")
def test_the_engines_figures_are_those_of_its_spans(recorded: Recorder, folder: Any) -> None:
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
        lasted_s = {name: (s.end_time - s.start_time) / 1e9 for name, s in phases.items()}
        told_s = {"prefill": record.prefill_s, "decode": record.decode_s}
        assert lasted_s == pytest.approx(told_s, abs=2e-9)  # a span begins and ends on whole ns
        assert span.kind is SpanKind.INTERNAL
        assert span.attributes["gen_ai.provider.name"] == "huggingface"
        assert span.attributes["gen_ai.prefill_ms"] == pytest.approx(record.prefill_s * 1000)
        assert span.attributes["gen_ai.decode_ms"] == pytest.approx(record.decode_s * 1000)
        assert span.attributes["gen_ai.usage.input_tokens"] == record.input_tokens
        assert span.attributes["gen_ai.usage.output_tokens"] == record.output_tokens
    for name in ("ttft", "tpot", "e2e", "prefill", "decode", "prefill_rate", "decode_rate"):
        assert results.figures[name].count == RUNS


@pytest.mark.usefixtures("plugin")
def test_they_hold_what_the_model_did_and_are_held_by_what_the_caller_saw(folder: Any) -> None:
    results, passes = measure(TransformersBackend(folder, device="cpu"))
    for record, (first_s, *others_s) in zip(results.requests, passes, strict=True):
        assert record.prefill_s >= first_s
        assert record.decode_s >= sum(others_s)
        assert record.remainder_s >= 0
        assert record.prefill_s < record.ttft_s < record.e2e_s


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("stops", [False, True], ids=["to the last token", "stopped early"])
def test_tokens_are_counted_as_the_model_made_them(folder: Any, stops: bool) -> None:
    said = TransformersBackend(folder, device="cpu").chat(
        [{"role": "user", "content": PROMPTS[0]}], TOKENS, 0.0
    )["choices"][0]["message"]["content"]
    backend = TransformersBackend(
        folder, device="cpu", stop_sequences=[said[8:11]] if stops else None
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


def test_that_this_program_is_busy_is_held_against_it_unless_the_engine_is_part_of_it() -> None:
    clocks = Clocks()
    clocks._cpu_s -= 3600  # an hour's work, in a moment
    assert warnings_of_clocks(clocks, engine_is_here=True) == []
    (warning,) = warnings_of_clocks(clocks, engine_is_here=False)
    assert "of a core" in warning


def test_a_model_that_computes_is_no_reason_to_doubt_its_figures(folder: Any) -> None:
    results, _ = measure(TransformersBackend(folder, device="cpu"))
    assert not any("of a core" in warning for warning in results.warnings)
