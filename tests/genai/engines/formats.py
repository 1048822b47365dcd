"""A response in the format of each engine, and what is read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamatelemetry.genai import EngineTimings

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 8},
}
COUNTS: dict[str, Any] = {"prompt_tokens": 12, "cached_tokens": 8, "predicted_tokens": 5}
INEXACT: dict[str, Any] = {"has_exact_bounds": False}
META_INFO = {
    "weight_version": "default",
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "cached_tokens": 8,
    "queue_time": 0.5,
    "forward_entry_time": 1000.0,
    "prefill_finished_time": 1000.25,
    "request_finished_ts": 1001.25,
    "first_token_latency": 0.8,
    "e2e_latency": 1.9,
    "spec_num_proposed_drafts": 9,
    "spec_num_correct_drafts": 4,
}
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
FIREWORKS_METRICS = {
    "prefill-queue-duration": "0.5",
    "prefill-duration": "0.25",
    "generation-duration": "1",
    "server-time-to-first-token": "0.8",
    "prompt-tokens": "20",
    "cached-prompt-tokens": "8",
}
OLLAMA = {
    "done": True,
    "total_duration": 2_000_000_000,
    "load_duration": 5_000_000,
    "prompt_eval_count": 20,
    "prompt_eval_cached_count": 8,
    "prompt_eval_duration": 250_000_000,
    "eval_count": 5,
    "eval_duration": 1_000_000_000,
}
VLLM = {
    "time_to_first_token_ms": 250.0,
    "generation_time_ms": 1000.0,
    "queue_time_ms": 500.0,
    "mean_itl_ms": 250.0,
    "tokens_per_second": 4.0,
    "speculative_decoding": {"num_draft_tokens": 9, "num_accepted_draft_tokens": 4},
}
QUEUED: dict[str, Any] = {"queue_ms": 500.0, "prefill_ms": 250.0, "decode_ms": 1000.0}
TIME_INFO = {"queue_time": 0.5, "prompt_time": 0.25, "completion_time": 1.0, "total_time": 2.0}

# Response, usage, and what is read of them.
FORMATS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], EngineTimings]] = {
    "llama.cpp": (
        {"timings": {"prompt_n": 12, "prompt_ms": 250, "predicted_n": 5, "predicted_ms": 1000}},
        USAGE,
        EngineTimings(12, 250.0, 5, 1000.0, provider="llama_cpp", is_queue_derivable=True),
    ),
    "vllm": (
        {"metrics": VLLM},
        USAGE,
        EngineTimings(**COUNTS, **QUEUED, drafted_tokens=9, accepted_tokens=4),
    ),
    "sglang, native": ({"text": "Hi", "meta_info": META_INFO}, {}, SGLANG),
    "sglang, chat": ({"choices": [{"index": 0, "meta_info": META_INFO}]}, USAGE, SGLANG),
    "sglang without metrics": (
        {"meta_info": {"weight_version": "1", "cached_tokens": 8, "prompt_tokens": 20}},
        {},
        EngineTimings(prompt_tokens=12, cached_tokens=8, provider="sglang"),
    ),
    "dynamo": (
        {
            "nvext": {
                "timing": {
                    "prefill_wait_time_ms": 500,
                    "prefill_time_ms": 250,
                    "ttft_ms": 800,
                    "total_time_ms": 1800,
                }
            }
        },
        USAGE,
        EngineTimings(
            **COUNTS, **QUEUED, first_token_ms=800.0, request_ms=1800.0, provider="dynamo"
        ),
    ),
    "ollama": (
        OLLAMA,
        {},
        EngineTimings(**COUNTS, prefill_ms=250.0, decode_ms=1000.0, provider="ollama"),
    ),
    "ollama before it counted cached tokens": (
        {name: value for name, value in OLLAMA.items() if "cached" not in name},
        {},
        EngineTimings(predicted_tokens=5, prefill_ms=250.0, decode_ms=1000.0, provider="ollama"),
    ),
    "local ai": (
        {},
        {**USAGE, "timing_prompt_processing": 250, "timing_token_generation": 1000},
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
        {**USAGE, "prefill_duration_ttft": 0.25, "decoding_duration": 1.0},
        EngineTimings(
            prompt_tokens=12,
            predicted_tokens=5,
            prefill_ms=250.0,
            decode_ms=1000.0,
            provider="lemonade",
        ),
    ),
    "lm studio": (
        {
            "stats": {
                "generation_time": 1.0,
                "time_to_first_token": 0.3,
                "total_draft_tokens_count": 9,
                "accepted_draft_tokens_count": 4,
            },
            "model_info": {},
            "runtime": {},
        },
        USAGE,
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
        {**USAGE, **TIME_INFO},
        EngineTimings(**COUNTS, **QUEUED, provider="groq", **INEXACT),
    ),
    "cerebras": (
        {"time_info": TIME_INFO},
        USAGE,
        EngineTimings(**COUNTS, **QUEUED, provider="cerebras", **INEXACT),
    ),
    "fireworks": ({"perf_metrics": FIREWORKS_METRICS}, USAGE, FIREWORKS),
    "fireworks with prefix": (
        {"perf_metrics": {f"fireworks-{name}": text for name, text in FIREWORKS_METRICS.items()}},
        USAGE,
        FIREWORKS,
    ),
}
