"""The durations in the last object of Ollama's native routes, in nanoseconds.

`total_duration` and `load_duration` are not phases of the request: the rest of the total is not only
the wait for a slot. SGLang and Lemonade imitate these routes without figures, or with zeros. Source:
`api/types.go` and `server/routes.go`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai.engines.proofs import OLLAMA
from llamatelemetry.genai.engines.units import NANOSECOND, as_positive_ms
from llamatelemetry.genai.json_access import as_count
from llamatelemetry.genai.model import EngineTimings

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_ollama(fields: Mapping[str, Any], _usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read the durations of a response that is done."""
    if fields.get("done") is not True:
        return None
    load_ms = as_positive_ms(fields.get("load_duration"), NANOSECOND)
    decode_ms = as_positive_ms(fields.get("eval_duration"), NANOSECOND)
    if load_ms is None or decode_ms is None:
        return None
    # The count contains the cached tokens, the duration does not.
    prompt = as_count(fields.get("prompt_eval_count"))
    cached = as_count(fields.get("prompt_eval_cached_count"))
    return EngineTimings(
        prefill_ms=as_positive_ms(fields.get("prompt_eval_duration"), NANOSECOND),
        decode_ms=decode_ms,
        prompt_tokens=None if prompt is None or cached is None else max(0, prompt - cached),
        cached_tokens=cached,
        predicted_tokens=as_count(fields.get("eval_count")),
        provider=OLLAMA,
    )
