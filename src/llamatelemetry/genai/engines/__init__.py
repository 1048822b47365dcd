"""The engine's own figures of a call, in the formats of all known engines.

`read_engine` reads a response, `read_engine_headers` its headers. There is one reader per format. It
recognizes the format by fields that occur in no other one, and maps each figure by what it measures,
not by its name. A figure without a place among queue, prefill and decode is not read.

Recognizing a format does not prove the engine, because proxies and forks pass on formats. `proofs`
has the values that prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from llamatelemetry.genai.engines.dynamo import read_dynamo
from llamatelemetry.genai.engines.hugging_face import read_hugging_face_headers
from llamatelemetry.genai.engines.llama_cpp import parse_timings
from llamatelemetry.genai.engines.local_servers import (
    read_fast_flow_lm,
    read_lm_studio,
    read_local_ai,
)
from llamatelemetry.genai.engines.ollama import read_ollama
from llamatelemetry.genai.engines.proofs import (
    FIREWORKS,
    TEI,
    TGI,
    provider_from_body,
    provider_from_fingerprint,
)
from llamatelemetry.genai.engines.services import (
    read_cerebras,
    read_fireworks,
    read_fireworks_headers,
    read_groq,
)
from llamatelemetry.genai.engines.sglang import read_sglang
from llamatelemetry.genai.engines.vllm import read_vllm
from llamatelemetry.genai.json_access import as_fields, as_str
from llamatelemetry.genai.model import EngineTimings

__all__ = [
    "ENGINE_CHOICE_FIELDS",
    "ENGINE_FIELDS",
    "ENGINE_USAGE_FIELDS",
    "EngineReport",
    "parse_timings",
    "read_engine",
    "read_engine_headers",
]


class EngineReport(NamedTuple):
    """What a response says about its engine; `None` is unknown."""

    provider: str | None
    timings: EngineTimings | None


def _read_llama_cpp(fields: Mapping[str, Any], _usage: Mapping[str, Any]) -> EngineTimings | None:
    return parse_timings(fields.get("timings"))


_Reader = Callable[[Mapping[str, Any], Mapping[str, Any]], EngineTimings | None]

# Readers by the field of the response, or of its usage, without which they read nothing.
_READER_BY_FIELD: Final[Mapping[str, _Reader]] = {
    "timings": _read_llama_cpp,
    "metrics": read_vllm,
    "meta_info": read_sglang,
    "nvext": read_dynamo,
    "done": read_ollama,
    "stats": read_lm_studio,
    "time_info": read_cerebras,
    "perf_metrics": read_fireworks,
}
_READER_BY_USAGE_FIELD: Final[Mapping[str, _Reader]] = {
    "timing_prompt_processing": read_local_ai,
    "prefill_duration_ttft": read_fast_flow_lm,
    "queue_time": read_groq,
}
ENGINE_FIELDS: Final = frozenset({*_READER_BY_FIELD, "x_groq", "sglext"})
"""Fields of responses that have figures of the engine, or prove it."""
ENGINE_USAGE_FIELDS: Final = frozenset(
    {*_READER_BY_USAGE_FIELD, "completion_tokens_after_first_per_sec"}
)
ENGINE_CHOICE_FIELDS: Final = frozenset({"meta_info", "avg_decoded_tokens_per_iter"})
_HEADER_READERS: Final = {
    TGI: read_hugging_face_headers,
    TEI: read_hugging_face_headers,
    FIREWORKS: read_fireworks_headers,
}


def read_engine(fields: Mapping[str, Any], usage: Any) -> EngineReport:
    """Read the fields of a plain response, or of a stream's chunks merged into one.

    Args:
        fields: The response.
        usage: Its usage object.
    """
    counts = as_fields(usage)
    timings = _read_timings(fields, counts)
    fingerprint = as_str(fields.get("system_fingerprint"))
    provider = (
        (fingerprint and provider_from_fingerprint(fingerprint))
        or (timings and timings.provider)
        or provider_from_body(fields, counts)
    )
    return EngineReport(provider or None, timings)


def _read_timings(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> EngineTimings | None:
    for name, read in _READER_BY_FIELD.items():
        if name in fields and (found := read(fields, usage)) is not None:
            return found
    for name, read in _READER_BY_USAGE_FIELD.items():
        if name in usage and (found := read(fields, usage)) is not None:
            return found
    return read_sglang(fields, usage)  # Its figures are in the choice.


def read_engine_headers(headers: Any, provider: str) -> EngineTimings | None:
    """Read the headers of a response, whose provider `provider_from_headers` has proved."""
    read = _HEADER_READERS.get(provider)
    return None if read is None else read(headers)
