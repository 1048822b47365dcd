"""NVIDIA Dynamo's `nvext.timing`, which a request asks for with `nvext.extra_fields`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.engines.counts import counts_of
from llamatelemetry.genai.engines.proofs import DYNAMO
from llamatelemetry.genai.engines.units import MILLISECOND, as_ms, between_ms
from llamatelemetry.genai.json_access import as_fields, get_field
from llamatelemetry.genai.model import EngineTimings

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_dynamo(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read the timing. Only a worker that prefills for others reports the wait and the prefill."""
    timing = as_fields(get_field(fields.get("nvext"), "timing"))
    if not timing:
        return None
    counts = counts_of(usage)
    return EngineTimings(
        queue_ms=as_ms(timing.get("prefill_wait_time_ms"), MILLISECOND),
        prefill_ms=as_ms(timing.get("prefill_time_ms"), MILLISECOND),
        decode_ms=between_ms(timing, "ttft_ms", "total_time_ms", MILLISECOND),
        first_token_ms=as_ms(timing.get("ttft_ms"), MILLISECOND),
        request_ms=as_ms(timing.get("total_time_ms"), MILLISECOND),
        prompt_tokens=counts.evaluated,
        cached_tokens=counts.cached,
        predicted_tokens=counts.output,
        provider=DYNAMO,
    )
