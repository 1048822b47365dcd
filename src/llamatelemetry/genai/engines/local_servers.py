"""LocalAI, Lemonade's FastFlowLM backend, and LM Studio. Each writes 0 for what it does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.engines.counts import counts_of
from llamatelemetry.genai.engines.proofs import LEMONADE, LM_STUDIO, LOCAL_AI
from llamatelemetry.genai.engines.units import MILLISECOND, SECOND, as_positive_ms
from llamatelemetry.genai.json_access import as_count, as_fields
from llamatelemetry.genai.model import EngineTimings

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_local_ai(_fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read the usage that LocalAI sends if the request has the header `Extra-Usage`."""
    if "timing_prompt_processing" not in usage:
        return None
    counts = counts_of(usage)
    return EngineTimings(
        prefill_ms=as_positive_ms(usage["timing_prompt_processing"], MILLISECOND),
        decode_ms=as_positive_ms(usage.get("timing_token_generation"), MILLISECOND),
        prompt_tokens=counts.evaluated,
        predicted_tokens=counts.output,
        provider=LOCAL_AI,
    )


def read_fast_flow_lm(_fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read the usage of FastFlowLM. What it calls time to first token is the prefill."""
    if "prefill_duration_ttft" not in usage:
        return None
    counts = counts_of(usage)
    return EngineTimings(
        prefill_ms=as_positive_ms(usage["prefill_duration_ttft"], SECOND),
        decode_ms=as_positive_ms(usage.get("decoding_duration"), SECOND),
        prompt_tokens=counts.evaluated,
        predicted_tokens=counts.output,
        provider=LEMONADE,
    )


def read_lm_studio(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read `stats` of `/api/v0`. Where its generation time starts is not documented."""
    stats = as_fields(fields.get("stats"))
    if "generation_time" not in stats or not {"model_info", "runtime"} <= fields.keys():
        return None
    return EngineTimings(
        decode_ms=as_positive_ms(stats["generation_time"], SECOND),
        predicted_tokens=counts_of(usage).output,
        drafted_tokens=as_count(stats.get("total_draft_tokens_count")),
        accepted_tokens=as_count(stats.get("accepted_draft_tokens_count")),
        provider=LM_STUDIO,
        has_exact_bounds=False,
    )
