"""`gen_ai.latency.*`: only figures with the meaning that engines give these names."""

from __future__ import annotations

import pytest

from llamatelemetry.genai import EngineTimings
from llamatelemetry.genai.engines.latency_names import latency_attributes
from tests.genai.engines.formats import FORMATS

IN_MODEL = {
    "time_in_model_prefill": 0.25,
    "time_in_model_decode": 1.0,
    "time_in_model_inference": 1.25,
}
# All formats have a queue of 0.5 s, a prefill of 0.25 s and a decode of 1 s, as far as they have any.
EXPECTED = {
    "llama.cpp": IN_MODEL,
    "vllm": {"time_in_queue": 0.5, **IN_MODEL},
    # Its times in the model begin and end elsewhere.
    "sglang, native": {"time_in_queue": 0.5, "time_to_first_token": 0.8, "e2e": 1.9},
    "sglang without metrics": {},
    # Its wait contains the routing. The KV cache is transferred between prefill and decode.
    "dynamo": {
        "time_in_model_prefill": 0.25,
        "time_in_model_decode": 1.0,
        "time_to_first_token": 0.8,
        "e2e": 1.8,
    },
    "ollama": IN_MODEL,
    # Where the times of these services begin and end is not documented.
    "groq": {"time_in_queue": 0.5},
    "cerebras": {"time_in_queue": 0.5},
    "fireworks": {"time_in_queue": 0.5, "time_to_first_token": 0.8},
}


@pytest.mark.parametrize("engine", EXPECTED)
def test_names_have_only_figures_with_their_meaning(engine: str) -> None:
    found = latency_attributes(FORMATS[engine][2])
    assert found == {f"gen_ai.latency.{name}": value for name, value in EXPECTED[engine].items()}


def test_inference_needs_prefill_and_decode() -> None:
    assert latency_attributes(EngineTimings()) == {}
    assert latency_attributes(EngineTimings(prefill_ms=0.0)) == {
        "gen_ai.latency.time_in_model_prefill": 0.0
    }
