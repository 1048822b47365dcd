"""vLLM's `metrics`, which `--enable-per-request-metrics` adds to responses.

`time_to_first_token_ms` starts when the request is scheduled, so it is the prefill. The wait before it
is `queue_time_ms`. `generation_time_ms` runs from the first to the last token. Sources:
`vllm/v1/metrics/stats.py` and `vllm/entrypoints/generate/base/protocol.py` of version 0.32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.engines.counts import counts_of
from llamatelemetry.genai.engines.units import MILLISECOND, as_ms
from llamatelemetry.genai.json_access import as_count, as_fields
from llamatelemetry.genai.model import EngineTimings

if TYPE_CHECKING:
    from collections.abc import Mapping

# All of them together occur in no other format.
_SHAPE: Final = frozenset({"time_to_first_token_ms", "generation_time_ms", "queue_time_ms"})


def read_vllm(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read `metrics` of a response. It is missing for several choices or prompts."""
    metrics = as_fields(fields.get("metrics"))
    if not metrics.keys() >= _SHAPE:
        return None
    # Without `--enable-prompt-tokens-details` the Responses API writes 0 cached tokens.
    is_responses = "input_tokens_details" in usage
    counts = counts_of(usage, is_zero_cached_known=not is_responses)
    drafts = as_fields(metrics.get("speculative_decoding"))
    return EngineTimings(
        queue_ms=as_ms(metrics["queue_time_ms"], MILLISECOND),
        prefill_ms=as_ms(metrics["time_to_first_token_ms"], MILLISECOND),
        decode_ms=as_ms(metrics["generation_time_ms"], MILLISECOND),
        prompt_tokens=counts.evaluated,
        cached_tokens=counts.cached,
        predicted_tokens=counts.output,
        drafted_tokens=as_count(drafts.get("num_draft_tokens")),
        accepted_tokens=as_count(drafts.get("num_accepted_draft_tokens")),
    )
