"""Inference servers."""

from __future__ import annotations

from typing import Final

from llamatelemetry.genai.engines import proofs
from llamatelemetry.genai.engines.catalog.entry import (
    CACHED,
    CHAT,
    DECODE,
    DRAFTS,
    FIGURES,
    NO_DRAFTS,
    NOT_REPORTED,
    PREFILL,
    QUEUE,
    TIMES,
    TPOT,
    TTFT,
    USAGE,
    Engine,
    Route,
    Source,
    Unknown,
    only_cached,
)
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

_REQUEST_METRICS: Final = "`--enable-per-request-metrics`"
_TOKEN_DETAILS: Final = "`--enable-prompt-tokens-details`"
_SPEC_METRICS: Final = f"{_REQUEST_METRICS} and `--per-request-spec-decode-metrics summary`"
_META_INFO: Final = "`return_meta_info: true` in the request"
_EXTRA_USAGE: Final = "the request header `Extra-Usage: 1` and a llama.cpp backend"
_NVEXT: Final = '`nvext.extra_fields: ["timing"]` in the request'
_NO_TIMES_IN_V1: Final = "only the native routes report times"

SERVERS: Final = (
    Engine(
        PROVIDER_LLAMA_CPP,
        "llama.cpp",
        "header `Server: llama.cpp`, `system_fingerprint` such as `b6789-1a2b3c4d`, `timings`, or"
        " `owned_by: llamacpp`",
        (
            Route(
                (*CHAT, "/v1/responses", "/completion"),
                (Source((*TIMES, CACHED)), Source((DRAFTS,), "a draft model")),
            ),
        ),
        metrics_needs="with `--metrics`",
    ),
    Engine(
        proofs.VLLM,
        "vLLM",
        "`system_fingerprint` such as `vllm-0.32.0-6057df73`, `input_tokens_per_turn` in the usage of"
        " Responses, or `owned_by: vllm` with `max_model_len`",
        (
            Route(
                CHAT,
                (
                    Source(TIMES, _REQUEST_METRICS, USAGE),
                    Source((CACHED,), _TOKEN_DETAILS, USAGE),
                    Source((DRAFTS,), _SPEC_METRICS, USAGE),
                ),
            ),
            Route(
                ("/v1/responses",),
                (
                    Source(TIMES, _REQUEST_METRICS),
                    Source((CACHED,), _TOKEN_DETAILS),
                ),
                (Unknown((DRAFTS,), "reported by chat and text completions only"),),
            ),
        ),
        metrics_needs="without `--disable-log-stats`",
    ),
    Engine(
        proofs.SGLANG,
        "SGLang",
        "`weight_version` in `metadata` or `meta_info`, `sglext`, or `owned_by: sglang`",
        (
            Route(
                ("/generate",),
                (
                    Source(TIMES, "`--enable-metrics`"),
                    Source((CACHED,)),
                    Source((DRAFTS,), "speculative decoding"),
                ),
            ),
            Route(
                CHAT[:1],
                (
                    Source(TIMES, f"`--enable-metrics` and {_META_INFO}", None),
                    Source((DRAFTS,), f"speculative decoding and {_META_INFO}", None),
                    Source((CACHED,), "`--enable-cache-report`", USAGE),
                    Source((CACHED,), _META_INFO, None),
                ),
                (Unknown((*TIMES, DRAFTS), "`meta_info` is not sent on streams", True),),
            ),
        ),
        metrics_needs="with `--enable-metrics`",
    ),
    Engine(
        proofs.TENSORRT_LLM,
        "TensorRT-LLM",
        "`avg_decoded_tokens_per_iter` in a choice, or `owned_by: tensorrt_llm`",
        (
            only_cached(
                "only `GET /perf_metrics` has them, and reading it removes them for other readers",
                on_streams="",
            ),
        ),
        metrics="/prometheus/metrics",
        metrics_needs="with `return_perf_metrics: true` in the configuration",
    ),
    Engine(
        proofs.TGI,
        "Text Generation Inference",
        "headers `x-validation-time`, `x-time-per-token` and `x-generated-tokens`, or `max_best_of`"
        " and `max_stop_sequences` in `/info`",
        (
            Route(
                CHAT,
                (Source((QUEUE,), "", None),),
                (
                    Unknown((QUEUE,), "the headers of a stream do not have it", True),
                    Unknown((PREFILL, DECODE), "`x-inference-time` is the sum of both"),
                    Unknown((TPOT,), "`x-time-per-token` contains the prefill"),
                    Unknown((TTFT, CACHED, DRAFTS), NOT_REPORTED),
                ),
            ),
        ),
    ),
    Engine(
        proofs.TEI,
        "Text Embeddings Inference",
        "headers `x-tokenization-time`, `x-compute-tokens` and `x-compute-type`, or"
        " `tokenization_workers` and `max_batch_tokens` in `/info`",
        (
            Route(
                ("/v1/embeddings",),
                (Source((QUEUE,), "", None),),
                (
                    Unknown((PREFILL,), "`x-inference-time` is the time of the whole batch"),
                    Unknown((DECODE, TTFT, TPOT, DRAFTS), "embeddings have no output tokens"),
                    Unknown((CACHED,), NOT_REPORTED),
                ),
                streams=False,
            ),
        ),
    ),
    Engine(
        proofs.OLLAMA,
        "Ollama",
        "`load_duration` and `eval_duration` that are not 0, `system_fingerprint: fp_ollama`, or"
        " `Ollama is running` at `/` of a server that proves no other engine",
        (
            Route(
                ("/api/chat", "/api/generate"),
                (Source((PREFILL, DECODE, TPOT)), Source((CACHED,), "version 0.33.3")),
                (
                    Unknown((QUEUE, TTFT), "no duration contains the wait for a slot"),
                    NO_DRAFTS,
                ),
            ),
            only_cached(_NO_TIMES_IN_V1, needs="version 0.33.3"),
        ),
        metrics=None,
    ),
    Engine(
        proofs.LM_STUDIO,
        "LM Studio",
        "`stats`, `model_info` and `runtime` in a response of `/api/v0`",
        (
            Route(
                ("/api/v0/chat/completions",),
                (
                    Source((DECODE,), "", None),
                    Source((DRAFTS,), "a draft model", None),
                ),
                (
                    Unknown((DECODE, DRAFTS), "not documented", True),
                    Unknown((TTFT,), "where `time_to_first_token` starts is not documented"),
                    Unknown((TPOT,), "where `generation_time` starts is not documented"),
                    Unknown((QUEUE, PREFILL, CACHED), NOT_REPORTED),
                ),
            ),
            Route(CHAT, (), (Unknown(FIGURES, "only `/api/v0` reports times"),)),
        ),
        metrics=None,
    ),
    Engine(
        proofs.LOCAL_AI,
        "LocalAI",
        "`timing_prompt_processing` in the usage",
        (
            Route(
                CHAT,
                (Source((PREFILL, DECODE, TPOT), _EXTRA_USAGE, USAGE),),
                (Unknown((QUEUE, TTFT, CACHED, DRAFTS), NOT_REPORTED),),
            ),
        ),
    ),
    Engine(
        proofs.LEMONADE,
        "Lemonade",
        "`prefill_duration_ttft` in the usage, or `owned_by: lemonade`",
        (
            Route(
                CHAT,
                (Source((PREFILL, DECODE, TPOT), "the FastFlowLM backend", USAGE),),
                (
                    Unknown(
                        (QUEUE, TTFT, CACHED, DRAFTS),
                        "not reported by FastFlowLM; the llama.cpp backend reports as llama.cpp does",
                    ),
                ),
            ),
        ),
    ),
    Engine(
        proofs.DYNAMO,
        "NVIDIA Dynamo",
        "`nvext.timing`",
        (
            Route(
                CHAT,
                (
                    Source((DECODE, TTFT, TPOT), _NVEXT),
                    Source((QUEUE, PREFILL), f"{_NVEXT} and workers that only prefill"),
                    Source((CACHED,), "", USAGE),
                ),
                (NO_DRAFTS,),
            ),
        ),
    ),
    Engine(
        proofs.KOBOLDCPP,
        "KoboldCpp",
        "header `Server: ConcedoLlamaForKoboldServer`, or `owned_by: koboldcpp`",
        (
            Route(
                CHAT,
                (),
                (
                    Unknown(
                        FIGURES, "only `GET /api/extra/perf`, about the last call of any client"
                    ),
                ),
            ),
        ),
        metrics=None,
    ),
    Engine(
        proofs.MLX_LM,
        "mlx-lm",
        "`system_fingerprint` of four parts that ends with `applegpu_...`",
        (only_cached(NOT_REPORTED),),
        metrics=None,
    ),
    Engine(
        "aphrodite",
        "Aphrodite",
        "`owned_by: aphrodite`",
        (
            only_cached(
                "only its own spans have them",
                needs=_TOKEN_DETAILS,
            ),
        ),
    ),
    Engine(
        "lmdeploy",
        "LMDeploy",
        "`owned_by: lmdeploy`",
        (only_cached("only `/metrics` has them, for all calls together"),),
    ),
    Engine(
        "triton",
        "Triton Inference Server",
        "`owned_by: Triton Inference Server`",
        (
            Route(
                CHAT,
                (),
                (Unknown(FIGURES, "only its metrics have them, for all calls together"),),
            ),
        ),
        metrics=None,
        metrics_needs="on port 8002",
    ),
)
