"""llama.cpp's `timings`, which llamafile, llama-swap and Lemonade pass on."""

from __future__ import annotations

from typing import Any

from llamatelemetry.genai.engines.units import MILLISECOND, as_ms
from llamatelemetry.genai.json_access import as_count, as_fields
from llamatelemetry.genai.model import EngineTimings
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP


def parse_timings(timings: Any) -> EngineTimings | None:
    """Parse llama.cpp's `timings`. Return `None` if the value is something else."""
    fields = as_fields(timings)
    prompt_tokens = as_count(fields.get("prompt_n"))
    prefill_ms = as_ms(fields.get("prompt_ms"), MILLISECOND)
    predicted_tokens = as_count(fields.get("predicted_n"))
    decode_ms = as_ms(fields.get("predicted_ms"), MILLISECOND)
    if prompt_tokens is None or prefill_ms is None or predicted_tokens is None or decode_ms is None:
        return None
    return EngineTimings(
        prompt_tokens=prompt_tokens,
        prefill_ms=prefill_ms,
        predicted_tokens=predicted_tokens,
        decode_ms=decode_ms,
        cached_tokens=as_count(fields.get("cache_n")),
        drafted_tokens=as_count(fields.get("draft_n")),
        accepted_tokens=as_count(fields.get("draft_n_accepted")),
        provider=PROVIDER_LLAMA_CPP,
        is_queue_derivable=True,
    )
