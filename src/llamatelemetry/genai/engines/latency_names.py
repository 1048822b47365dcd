"""The engine's figures of a call under the names that engines give them on their own spans.

The names are those of vLLM, SGLang and TensorRT-LLM; the conventions have none of them. Each has one
meaning here, that of vLLM, and a figure that measures something else is left out:

| Name | From | To |
|---|---|---|
| `gen_ai.latency.time_in_queue` | queued in the engine | scheduled for the first time |
| `gen_ai.latency.time_in_model_prefill` | scheduled | first token |
| `gen_ai.latency.time_in_model_decode` | first token | last token |
| `gen_ai.latency.time_in_model_inference` | scheduled | last token |
| `gen_ai.latency.time_to_first_token` | arrival of the request | first token |
| `gen_ai.latency.e2e` | arrival of the request | end of the output |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry.genai.engines.proofs import DYNAMO, SGLANG
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.genai.model import EngineTimings

_IN_MODEL: Final = frozenset(
    {
        names.GEN_AI_LATENCY_TIME_IN_MODEL_PREFILL,
        names.GEN_AI_LATENCY_TIME_IN_MODEL_DECODE,
        names.GEN_AI_LATENCY_TIME_IN_MODEL_INFERENCE,
    }
)
_WITH_OTHER_MEANING: Final[Mapping[str | None, frozenset[str]]] = {
    # SGLang's own span gives these names to times that its response does not contain: they begin
    # when the request is dispatched to the engine, and end when its tokens are back.
    SGLANG: _IN_MODEL,
    # Dynamo's wait contains the routing, and the transfer of the KV cache follows the prefill.
    DYNAMO: frozenset(
        {names.GEN_AI_LATENCY_TIME_IN_QUEUE, names.GEN_AI_LATENCY_TIME_IN_MODEL_INFERENCE}
    ),
}


def latency_attributes(timings: EngineTimings) -> dict[str, float]:
    """Return `gen_ai.latency.*` in seconds, as far as the engine has reported them."""
    found = {
        names.GEN_AI_LATENCY_TIME_IN_QUEUE: timings.queue_ms,
        names.GEN_AI_LATENCY_TIME_TO_FIRST_TOKEN: timings.first_token_ms,
        names.GEN_AI_LATENCY_E2E: timings.request_ms,
    }
    if timings.has_exact_bounds:
        prefill_ms, decode_ms = timings.prefill_ms, timings.decode_ms
        found[names.GEN_AI_LATENCY_TIME_IN_MODEL_PREFILL] = prefill_ms
        found[names.GEN_AI_LATENCY_TIME_IN_MODEL_DECODE] = decode_ms
        if prefill_ms is not None and decode_ms is not None:
            found[names.GEN_AI_LATENCY_TIME_IN_MODEL_INFERENCE] = prefill_ms + decode_ms
    other = _WITH_OTHER_MEANING.get(timings.provider, frozenset())
    return {name: ms / 1000 for name, ms in found.items() if ms is not None and name not in other}
