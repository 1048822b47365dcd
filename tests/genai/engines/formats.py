"""A response in the format of each engine, and what is read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamatelemetry.genai import EngineTimings
from tests.support.engine_formats import OLLAMA_DONE, SGLANG_META, SGLANG_REPLY
from tests.support.engine_responses import (
    CACHED,
    DYNAMO,
    FAST_FLOW_LM,
    LM_STUDIO,
    LOCAL_AI,
    PERF_METRICS,
    TIMES,
)

COUNTS: dict[str, Any] = {"prompt_tokens": 12, "cached_tokens": 8, "predicted_tokens": 5}
INEXACT: dict[str, Any] = {"has_exact_bounds": False}
SGLANG = EngineTimings(
    **COUNTS,
    queue_ms=500.0,
    prefill_ms=250.0,
    decode_ms=1000.0,
    first_token_ms=800.0,
    request_ms=1900.0,
    drafted_tokens=9,
    accepted_tokens=4,
    provider="sglang",
)
FIREWORKS = EngineTimings(
    **COUNTS,
    **INEXACT,
    queue_ms=500.0,
    prefill_ms=250.0,
    decode_ms=1000.0,
    first_token_ms=800.0,
    provider="fireworks",
)
VLLM = {
    "time_to_first_token_ms": 250.0,
    "generation_time_ms": 1000.0,
    "queue_time_ms": 500.0,
    "mean_itl_ms": 250.0,
    "tokens_per_second": 4.0,
    "speculative_decoding": {"num_draft_tokens": 9, "num_accepted_draft_tokens": 4},
}
QUEUED: dict[str, Any] = {"queue_ms": 500.0, "prefill_ms": 250.0, "decode_ms": 1000.0}

# Response, usage, and what is read of them.
FORMATS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], EngineTimings]] = {
    "llama.cpp": (
        {"timings": {"prompt_n": 12, "prompt_ms": 250, "predicted_n": 5, "predicted_ms": 1000}},
        CACHED,
        EngineTimings(12, 250.0, 5, 1000.0, provider="llama_cpp", is_queue_derivable=True),
    ),
    "vllm": (
        {"metrics": VLLM},
        CACHED,
        EngineTimings(**COUNTS, **QUEUED, drafted_tokens=9, accepted_tokens=4),
    ),
    "sglang, native": (SGLANG_REPLY, {}, SGLANG),
    "sglang, chat": ({"choices": [{"index": 0, "meta_info": SGLANG_META}]}, CACHED, SGLANG),
    "sglang without metrics": (
        {"meta_info": {"weight_version": "1", "cached_tokens": 8, "prompt_tokens": 20}},
        {},
        EngineTimings(prompt_tokens=12, cached_tokens=8, provider="sglang"),
    ),
    "dynamo": (
        {"nvext": {"timing": DYNAMO}},
        CACHED,
        EngineTimings(
            **COUNTS, **QUEUED, first_token_ms=800.0, request_ms=1800.0, provider="dynamo"
        ),
    ),
    "ollama": (
        OLLAMA_DONE,
        {},
        EngineTimings(**COUNTS, prefill_ms=250.0, decode_ms=1000.0, provider="ollama"),
    ),
    "ollama before it counted cached tokens": (
        {name: value for name, value in OLLAMA_DONE.items() if "cached" not in name},
        {},
        EngineTimings(predicted_tokens=5, prefill_ms=250.0, decode_ms=1000.0, provider="ollama"),
    ),
    "local ai": (
        {},
        {**CACHED, **LOCAL_AI},
        EngineTimings(
            prompt_tokens=12,
            predicted_tokens=5,
            prefill_ms=250.0,
            decode_ms=1000.0,
            provider="local_ai",
        ),
    ),
    "fast flow lm": (
        {},
        {**CACHED, **FAST_FLOW_LM},
        EngineTimings(
            prompt_tokens=12,
            predicted_tokens=5,
            prefill_ms=250.0,
            decode_ms=1000.0,
            provider="lemonade",
        ),
    ),
    "lm studio": (
        LM_STUDIO,
        CACHED,
        EngineTimings(
            predicted_tokens=5,
            decode_ms=1000.0,
            drafted_tokens=9,
            accepted_tokens=4,
            provider="lm_studio",
            **INEXACT,
        ),
    ),
    "groq": (
        {"x_groq": {"id": "req_1"}},
        {**CACHED, **TIMES},
        EngineTimings(**COUNTS, **QUEUED, provider="groq", **INEXACT),
    ),
    "cerebras": (
        {"time_info": TIMES},
        CACHED,
        EngineTimings(**COUNTS, **QUEUED, provider="cerebras", **INEXACT),
    ),
    "fireworks": ({"perf_metrics": PERF_METRICS}, CACHED, FIREWORKS),
    "fireworks with prefix": (
        {"perf_metrics": {f"fireworks-{name}": text for name, text in PERF_METRICS.items()}},
        CACHED,
        FIREWORKS,
    ),
}
