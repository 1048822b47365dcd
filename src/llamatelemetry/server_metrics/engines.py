"""One table per engine: its name for each figure of the common vocabulary, and its proof.

A table has only figures whose meaning and unit are known to match. `unknown` gives the reason for
each figure that looks available but is not; all other missing figures are not exposed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from llamatelemetry.genai.engines.proofs import DYNAMO, SGLANG, TENSORRT_LLM, TGI, VLLM
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Mapping

Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Source:
    """The metric that a figure is read from. Label sets are summed, except those of replicas.

    Attributes:
        names: Name without the engine's prefix; of several ones, the first that is exposed.
        kind: Declared type. A metric with another type is not read.
        where: Labels that a sample must have. An empty value also matches a missing label.
        plus: Another metric that is added. Both must be exposed.
        count: Counter with the number of durations, for a duration without a histogram.
        scale: Factor from the engine's unit to the unit of the vocabulary.
        detail: Label whose value becomes the detail attribute of the figure.
    """

    names: tuple[str, ...]
    kind: str
    where: Labels = ()
    plus: str | None = None
    count: str | None = None
    scale: float = 1.0
    detail: str | None = None


@dataclass(frozen=True)
class Engine:
    """One inference server.

    Attributes:
        provider: Value of `gen_ai.provider.name`.
        title: Name in messages and in the documentation.
        prefix: Prefix of its metrics.
        proof: A sample name that proves the engine; all names with the prefix do if it is empty.
        sources: Source of each figure, by the figure's name.
        unknown: Reasons why figures are missing, by the figure's name; "" stands for all others.
        replica: Label that tells the engines of one server apart.
        ranks: Labels of processes that report the work of one replica several times. Only the
            series with the lowest ranks are read.
    """

    provider: str
    title: str
    prefix: str
    sources: Mapping[str, Source]
    unknown: Mapping[str, str] = field(default_factory=dict[str, str])
    proof: str = ""
    replica: str = ""
    ranks: tuple[str, ...] = ()

    def is_proved_by(self, name: str) -> bool:
        """Return whether a sample with this name proves the engine."""
        return name == self.proof if self.proof else name.startswith(self.prefix)


def _gauge(*names: str, where: Labels = ()) -> Source:
    return Source(names, "gauge", where)


def _counter(
    name: str,
    *,
    where: Labels = (),
    plus: str | None = None,
    count: str | None = None,
    scale: float = 1.0,
    detail: str | None = None,
) -> Source:
    return Source((name,), "counter", where, plus, count, scale, detail)


def _histogram(name: str, *, where: Labels = (), scale: float = 1.0) -> Source:
    return Source((name,), "histogram", where, scale=scale)


# Lookups of the prefix cache that are not counted, while its hits are the cached tokens.
_NO_LOOKUPS: Final = "lookups are not counted"

LLAMA_CPP: Final = Engine(
    PROVIDER_LLAMA_CPP,
    "llama.cpp",
    "llamacpp:",
    {
        "requests_running": _gauge("requests_processing"),
        "requests_waiting": _gauge("requests_deferred"),
        "prefix_cache_hits": _counter("prompt_tokens_cached_total"),
        # `prompt_tokens_total` does not include cached tokens.
        "prompt_tokens": _counter("prompt_tokens_total", plus="prompt_tokens_cached_total"),
        "cached_tokens": _counter("prompt_tokens_cached_total"),
        "generated_tokens": _counter("tokens_predicted_total"),
        "drafts": _counter("spec_decode_num_drafts_total"),
        "drafted_tokens": _counter("spec_decode_num_draft_tokens_total"),
        "accepted_tokens": _counter("spec_decode_num_accepted_tokens_total"),
        "prefill_time": _counter("prompt_seconds_total"),
        "decode_time": _counter("tokens_predicted_seconds_total"),
    },
    {
        "prefix_cache_queries": _NO_LOOKUPS,
        "kv_cache_usage": "only an estimate, see `llamatelemetry.llamacpp.kv_cache.*`",
        "time_between_tokens": "only an average since the last scrape by any client",
    },
)

_VLLM: Final = Engine(
    VLLM,
    "vLLM",
    "vllm:",
    {
        "requests_running": _gauge("num_requests_running"),
        "requests_waiting": _gauge("num_requests_waiting"),
        "requests_finished": _counter("request_success_total", detail="finished_reason"),
        "kv_cache_usage": _gauge("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        "prefix_cache_queries": _counter("prefix_cache_queries_total"),
        "prefix_cache_hits": _counter("prefix_cache_hits_total"),
        "prompt_tokens": _counter("prompt_tokens_total"),
        "cached_tokens": _counter("prompt_tokens_cached_total"),
        "generated_tokens": _counter("generation_tokens_total"),
        "preemptions": _counter("num_preemptions_total"),
        "drafts": _counter("spec_decode_num_drafts_total"),
        "drafted_tokens": _counter("spec_decode_num_draft_tokens_total"),
        "accepted_tokens": _counter("spec_decode_num_accepted_tokens_total"),
        "time_to_first_token": _histogram("time_to_first_token_seconds"),
        "time_between_tokens": _histogram("inter_token_latency_seconds"),
        "queue_time": _histogram("request_queue_time_seconds"),
        "prefill_time": _histogram("request_prefill_time_seconds"),
        "decode_time": _histogram("request_decode_time_seconds"),
        "request_time": _histogram("e2e_request_latency_seconds"),
    },
    # Routers in front of vLLM use its prefix, too, but not this name.
    proof="vllm:generation_tokens_total",
    replica="engine",
)

_SGLANG: Final = Engine(
    SGLANG,
    "SGLang",
    "sglang:",
    {
        "requests_running": _gauge("num_running_reqs"),
        # Series with a priority are parts of the one without.
        "requests_waiting": _gauge("num_queue_reqs", where=(("priority", ""),)),
        "requests_finished": _counter("num_requests_total"),
        "kv_cache_usage": _gauge("token_usage"),
        "prefix_cache_hits": _counter("cached_tokens_total"),
        "prompt_tokens": _counter("prompt_tokens_total"),
        "cached_tokens": _counter("cached_tokens_total"),
        "generated_tokens": _counter("generation_tokens_total"),
        "preemptions": _counter("num_retracted_requests_total"),
        "time_to_first_token": _histogram("time_to_first_token_seconds"),
        "time_between_tokens": _histogram("inter_token_latency_seconds"),
        "queue_time": _histogram("queue_time_seconds"),
        "prefill_time": _histogram(
            "per_stage_req_latency_seconds", where=(("stage", "prefill_forward"),)
        ),
        "request_time": _histogram("e2e_request_latency_seconds"),
    },
    {
        "prefix_cache_queries": _NO_LOOKUPS,
        "drafts": "`spec_verify_calls_total` may count a batch or each of its requests",
        "accepted_tokens": "only the mean of the last batch",
        "decode_time": "the decode stage of a request is not measured",
    },
    replica="dp_rank",
    ranks=("tp_rank", "pp_rank", "moe_ep_rank"),
)

_TENSORRT_LLM: Final = Engine(
    TENSORRT_LLM,
    "TensorRT-LLM",
    "trtllm_",
    {
        "requests_running": _gauge("num_requests_running"),
        "requests_waiting": _gauge("num_requests_waiting"),
        "requests_finished": _counter("request_success_total", detail="finished_reason"),
        "kv_cache_usage": _gauge("kv_cache_utilization"),
        "prompt_tokens": _counter("prompt_tokens_total"),
        "cached_tokens": _counter("prompt_cached_tokens_total"),
        "generated_tokens": _counter("generation_tokens_total"),
        "drafted_tokens": _counter("spec_decode_drafted_tokens_total"),
        "accepted_tokens": _counter("spec_decode_accepted_tokens_total"),
        "time_to_first_token": _histogram("time_to_first_token_seconds"),
        "queue_time": _histogram("request_queue_time_seconds"),
        "prefill_time": _histogram("request_prefill_time_seconds"),
        "decode_time": _histogram("request_decode_time_seconds"),
        "request_time": _histogram("e2e_request_latency_seconds"),
    },
    {
        "prefix_cache_queries": "counted in blocks, not in tokens",
        "prefix_cache_hits": "counted in blocks, not in tokens",
        "preemptions": "only the current number of paused requests",
        "time_between_tokens": "only the mean of each request",
    },
)

_LMDEPLOY: Final = Engine(
    "lmdeploy",
    "LMDeploy",
    "lmdeploy:",
    {
        "requests_running": _gauge("num_requests_running"),
        "requests_waiting": _gauge("num_requests_waiting"),
        "requests_finished": _counter("request_success_total", detail="finished_reason"),
        "kv_cache_usage": _gauge("gpu_cache_usage_perc"),
        "prefix_cache_hits": _counter("cached_tokens_total"),
        "prompt_tokens": _counter("prompt_tokens_total"),
        "cached_tokens": _counter("cached_tokens_total"),
        "generated_tokens": _counter("generation_tokens_total"),
        "drafts": _counter("spec_decode_num_drafts_total"),
        "drafted_tokens": _counter("spec_decode_num_draft_tokens_total"),
        "accepted_tokens": _counter("spec_decode_num_accepted_tokens_total"),
        "time_to_first_token": _histogram("time_to_first_token_seconds"),
        "time_between_tokens": _histogram("iter_token_latency"),
        "queue_time": _histogram("request_queue_time_seconds"),
        "prefill_time": _histogram("request_prefill_time_seconds"),
        "decode_time": _histogram("request_decode_time_seconds"),
        "request_time": _histogram("e2e_request_latency_seconds"),
    },
    {"prefix_cache_queries": "only the hit rate"},
    replica="engine",
)

_TGI: Final = Engine(
    TGI,
    "Text Generation Inference",
    "tgi_",
    {
        "requests_running": _gauge("batch_current_size"),
        "requests_waiting": _gauge("queue_size"),
        "requests_finished": _counter("request_success"),
        "prompt_tokens": _histogram("request_input_length"),
        "generated_tokens": _histogram("request_generated_tokens"),
        # The tokens of each step after its first one.
        "accepted_tokens": _histogram("request_skipped_tokens"),
        "queue_time": _histogram("request_queue_duration"),
        "request_time": _histogram("request_duration"),
    },
    {
        "time_between_tokens": "only the mean of each request, prefill included",
        "prefill_time": "measured per batch, not per request",
        "decode_time": "measured per step of a batch, not per request",
    },
)

_TRITON: Final = Engine(
    "triton",
    "Triton Inference Server with TensorRT-LLM",
    "nv_",
    {
        "requests_running": _gauge(
            "trt_llm_request_metrics", where=(("request_type", "scheduled"),)
        ),
        "requests_waiting": _gauge("trt_llm_request_metrics", where=(("request_type", "waiting"),)),
        "requests_finished": _counter("inference_request_success"),
        "kv_cache_usage": _gauge(
            "trt_llm_kv_cache_block_metrics", where=(("kv_cache_block_type", "fraction"),)
        ),
        "time_to_first_token": _histogram("inference_first_response_histogram_ms", scale=1e-3),
        "queue_time": _counter(
            "inference_queue_duration_us", count="inference_request_success", scale=1e-6
        ),
        "request_time": _counter(
            "inference_request_duration_us", count="inference_request_success", scale=1e-6
        ),
    },
    {
        "prefill_time": "computing is measured per model step, not per phase",
        "decode_time": "computing is measured per model step, not per phase",
    },
    proof="nv_inference_request_success",
)

_DYNAMO: Final = Engine(
    DYNAMO,
    "Dynamo",
    "dynamo_frontend_",
    {
        "requests_running": _gauge("active_requests", "inflight_requests"),
        "requests_finished": _counter("requests_total", where=(("status", "success"),)),
        "prompt_tokens": _histogram("input_sequence_tokens"),
        "cached_tokens": _histogram("cached_tokens"),
        "generated_tokens": _counter("output_tokens_total"),
        "time_to_first_token": _histogram("time_to_first_token_seconds"),
        "time_between_tokens": _histogram("inter_token_latency_seconds"),
        "request_time": _histogram("request_duration_seconds"),
    },
    {
        "requests_waiting": "`queued_requests` counts requests until their first token",
        "kv_cache_usage": "exposed by the workers, under their engine's names",
        "queue_time": "exposed by the workers, under their engine's names",
        "prefill_time": "exposed by the workers, under their engine's names",
        "decode_time": "exposed by the workers, under their engine's names",
    },
)

_NIM: Final = Engine(
    "nim",
    "NVIDIA NIM 1.x",
    "",
    {
        "requests_running": _gauge("num_requests_running"),
        "requests_waiting": _gauge("num_requests_waiting"),
        "kv_cache_usage": _gauge("gpu_cache_usage_perc"),
        "prompt_tokens": _counter("prompt_tokens_total"),
        "generated_tokens": _counter("generation_tokens_total"),
        "time_to_first_token": _histogram("time_to_first_token_seconds"),
        "request_time": _histogram("e2e_request_latency_seconds"),
    },
    {"time_between_tokens": "only a duration per request"},
    # Its other names are those of old vLLM and TensorRT-LLM versions.
    proof="num_request_max",
)

_LLAMA_SWAP: Final = Engine(
    "llama_swap", "llama-swap", "llamaswap_", {}, {"": "only figures of the host and its GPUs"}
)

ENGINES: Final = (
    LLAMA_CPP,
    _VLLM,
    _SGLANG,
    _TENSORRT_LLM,
    _LMDEPLOY,
    _TGI,
    # After the engines that it may run as backends, which report more.
    _TRITON,
    _DYNAMO,
    _NIM,
    _LLAMA_SWAP,
)
"""All engines. If one response has names of several, the first of them counts."""
