"""SGLang's `meta_info`: in every native response, and in chat completions with `return_meta_info`.

Times are in seconds, and only there with `--enable-metrics`. Sources:
`sglang/srt/managers/tokenizer_manager.py` and `observability/req_time_stats.py` of version 0.5.23.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.engines.proofs import SGLANG
from llamatelemetry.genai.engines.units import SECOND, as_ms, between_ms
from llamatelemetry.genai.json_access import as_count, as_fields, as_list
from llamatelemetry.genai.model import EngineTimings

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_sglang(fields: Mapping[str, Any], _usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read `meta_info` of a native response, or of the only choice of a chat completion."""
    meta = as_fields(fields.get("meta_info"))
    choices = as_list(fields.get("choices"))
    if not meta and len(choices) == 1:
        meta = as_fields(as_fields(choices[0]).get("meta_info"))
    if "weight_version" not in meta:
        return None
    prompt, cached = as_count(meta.get("prompt_tokens")), as_count(meta.get("cached_tokens"))
    evaluated = None if prompt is None or cached is None else max(0, prompt - cached)
    return EngineTimings(
        queue_ms=as_ms(meta.get("queue_time"), SECOND),
        prefill_ms=between_ms(meta, "forward_entry_time", "prefill_finished_time", SECOND),
        decode_ms=between_ms(meta, "prefill_finished_time", "request_finished_ts", SECOND),
        first_token_ms=as_ms(meta.get("first_token_latency"), SECOND),
        request_ms=as_ms(meta.get("e2e_latency"), SECOND),
        prompt_tokens=evaluated,
        cached_tokens=cached,
        predicted_tokens=as_count(meta.get("completion_tokens")),
        drafted_tokens=as_count(meta.get("spec_num_proposed_drafts")),
        accepted_tokens=as_count(meta.get("spec_num_correct_drafts")),
        provider=SGLANG,
    )
