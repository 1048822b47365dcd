"""Cloud services that report the times of a call in its response.

None of them documents where its decode time starts, so no time per output token is derived. Sources:
the types in the services' own Python packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.engines.counts import counts_of
from llamatelemetry.genai.engines.proofs import CEREBRAS, FIREWORKS, GROQ
from llamatelemetry.genai.engines.units import SECOND, as_ms, text_as_ms
from llamatelemetry.genai.json_access import as_count, as_fields
from llamatelemetry.genai.model import EngineTimings
from llamatelemetry.genai.wire.headers import NAME, VALUE, has_list

if TYPE_CHECKING:
    from collections.abc import Mapping

_GROQ_SHAPE: Final = frozenset({"queue_time", "prompt_time", "completion_time"})
_FIREWORKS_PREFIX: Final = "fireworks-"
_FIREWORKS_HEADERS: Final = {
    f"{_FIREWORKS_PREFIX}{name}".encode(): name
    for name in (
        *("prefill-queue-duration", "prefill-duration", "generation-duration"),
        *("server-time-to-first-token", "prompt-tokens", "cached-prompt-tokens"),
    )
}


def read_groq(_fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read Groq's usage. Whether its queue and prefill adjoin is not documented."""
    return _read_times(usage, usage, GROQ) if usage.keys() >= _GROQ_SHAPE else None


def read_cerebras(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read `time_info` of Cerebras, whose parts do not add up to its total."""
    times = as_fields(fields.get("time_info"))
    return _read_times(times, usage, CEREBRAS) if times else None


def _read_times(times: Mapping[str, Any], usage: Mapping[str, Any], provider: str) -> EngineTimings:
    counts = counts_of(usage)
    return EngineTimings(
        queue_ms=as_ms(times.get("queue_time"), SECOND),
        prefill_ms=as_ms(times.get("prompt_time"), SECOND),
        decode_ms=as_ms(times.get("completion_time"), SECOND),
        prompt_tokens=counts.evaluated,
        cached_tokens=counts.cached,
        predicted_tokens=counts.output,
        provider=provider,
        has_exact_bounds=False,
    )


def read_fireworks(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    """Read `perf_metrics` of Fireworks: seconds as text, on requests that ask for it.

    The keys have the prefix `fireworks-` or not.
    """
    found = as_fields(fields.get("perf_metrics"))
    metrics = {name.removeprefix(_FIREWORKS_PREFIX): value for name, value in found.items()}
    if "server-time-to-first-token" not in metrics:
        return None
    return _fireworks_timings(metrics, counts_of(usage).output)


def read_fireworks_headers(headers: Any) -> EngineTimings | None:
    """Read the headers of Fireworks. A stream's lack what is not known when it begins."""
    metrics: dict[str, Any] = {}
    if has_list(headers.__class__):
        for entry in headers._list:
            name = _FIREWORKS_HEADERS.get(NAME(entry))
            if name is not None:
                metrics[name] = VALUE(entry).decode("latin-1")
    else:
        for header, name in _FIREWORKS_HEADERS.items():
            metrics[name] = headers.get(header.decode())
    return _fireworks_timings(metrics, None) if any(metrics.values()) else None


def _fireworks_timings(metrics: Mapping[str, Any], output_tokens: int | None) -> EngineTimings:
    prompt = _text_count(metrics.get("prompt-tokens"))
    cached = _text_count(metrics.get("cached-prompt-tokens"))
    return EngineTimings(
        queue_ms=text_as_ms(metrics.get("prefill-queue-duration"), SECOND),
        prefill_ms=text_as_ms(metrics.get("prefill-duration"), SECOND),
        decode_ms=text_as_ms(metrics.get("generation-duration"), SECOND),
        first_token_ms=text_as_ms(metrics.get("server-time-to-first-token"), SECOND),
        prompt_tokens=None if prompt is None or cached is None else max(0, prompt - cached),
        cached_tokens=cached,
        predicted_tokens=output_tokens,
        provider=FIREWORKS,
        has_exact_bounds=False,
    )


def _text_count(value: Any) -> int | None:
    return as_count(int(value) if isinstance(value, str) and value.isdecimal() else value)
