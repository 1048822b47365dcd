"""One response of each route in the catalog of engines, with every figure that the route reports.

The figures of vLLM are those of recorded responses. Those of the others follow their sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support import payloads
from tests.support.engine_formats import OLLAMA_DONE, SGLANG_META, SGLANG_REPLY

_RECORDED = Path(__file__).parent / "engine_replies" / "vllm"
_NO_DETAILS: Final = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
CACHED: Final = {**_NO_DETAILS, "prompt_tokens_details": {"cached_tokens": 8}}


@dataclass(frozen=True)
class EngineResponse:
    """What a response has besides the standard fields.

    Attributes:
        fields: Fields of a plain response, and of the last chunk of a stream.
        usage: The usage.
        headers: Headers of a plain response.
        choice: Fields of the choice of a plain response.
        is_native: Whether `fields` are a whole response of a native route.
        is_plain_only: Whether streams lack the fields.
    """

    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    usage: dict[str, Any] = field(default_factory=lambda: _NO_DETAILS)
    headers: dict[str, str] = field(default_factory=dict[str, str])
    choice: dict[str, Any] = field(default_factory=dict[str, Any])
    is_native: bool = False
    is_plain_only: bool = False

    def plain(self, path: str) -> Any:
        """Return the HTTP response of a route of OpenAI's interface."""
        if path == "/v1/embeddings":
            return payloads.json_response(payloads.embeddings(), **self.headers)
        if path == "/v1/responses":
            body = payloads.response(usage=_of_responses(self.usage), **self.fields)
        else:
            body = _BODIES[path](usage=self.usage, **self.fields)
            body["choices"] = [{**body["choices"][0], **self.choice}]
        return payloads.json_response(body, **self.headers)

    def stream(self, path: str) -> Any:
        """Return the HTTP response of the same route, streamed."""
        if path == "/v1/responses":
            events = payloads.response_events(usage=_of_responses(self.usage), **self.fields)
            return payloads.stream_response(payloads.sse(events, done=False))
        chunks = _CHUNKS[path]()
        fields = {} if self.is_plain_only else self.fields
        last = {**chunks[-1], "choices": [], "usage": self.usage, **fields}
        return payloads.stream_response(payloads.sse([*chunks, last]))


_BODIES = {"/v1/completions": payloads.completion, "/v1/chat/completions": payloads.chat}
_BODIES["/api/v0/chat/completions"] = payloads.chat
_CHUNKS = {
    "/v1/completions": payloads.completion_chunks,
    "/v1/chat/completions": payloads.chat_chunks,
    "/api/v0/chat/completions": payloads.chat_chunks,
}


def _of_responses(usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "input_tokens_details": usage.get("prompt_tokens_details", {}),
    }


def _vllm(recorded: str, *names: str) -> dict[str, Any]:
    """Return fields of a recorded response."""
    body = json.loads((_RECORDED / f"{recorded}.json").read_text(encoding="utf-8"))["body"]
    return {name: body[name] for name in names}


PERF_METRICS: Final = {
    "prefill-queue-duration": "0.5",
    "prefill-duration": "0.25",
    "generation-duration": "1",
    "server-time-to-first-token": "0.8",
    "prompt-tokens": "20",
    "cached-prompt-tokens": "8",
}
TIMES: Final = {"queue_time": 0.5, "prompt_time": 0.25, "completion_time": 1.0, "total_time": 2.0}
LM_STUDIO: Final = {
    "stats": {
        "generation_time": 1.0,
        "time_to_first_token": 0.3,
        "total_draft_tokens_count": 9,
        "accepted_draft_tokens_count": 4,
    },
    "model_info": {},
    "runtime": {},
}
DYNAMO: Final = {
    "prefill_wait_time_ms": 500,
    "prefill_time_ms": 250,
    "ttft_ms": 800,
    "total_time_ms": 1800,
}
LOCAL_AI: Final = {"timing_prompt_processing": 250, "timing_token_generation": 1000}
FAST_FLOW_LM: Final = {"prefill_duration_ttft": 0.25, "decoding_duration": 1.0}
_ONLY_CACHED = EngineResponse(usage=CACHED)
_V0 = "/api/v0/chat/completions"

# By engine and the first path of the route in the catalog.
RESPONSES: Final = {
    ("llama.cpp", "/v1/chat/completions"): EngineResponse({"timings": payloads.TIMINGS}),
    ("vLLM", "/v1/chat/completions"): EngineResponse(
        _vllm("speculative_chat", "metrics", "system_fingerprint"), CACHED
    ),
    ("vLLM", "/v1/responses"): EngineResponse(_vllm("responses_plain", "metrics"), CACHED),
    ("SGLang", "/generate"): EngineResponse(SGLANG_REPLY, is_native=True),
    ("SGLang", "/v1/chat/completions"): EngineResponse(
        usage=CACHED, choice={"meta_info": SGLANG_META}
    ),
    ("TensorRT-LLM", "/v1/chat/completions"): EngineResponse(
        usage=CACHED, choice={"avg_decoded_tokens_per_iter": 1.0}
    ),
    ("Text Generation Inference", "/v1/chat/completions"): EngineResponse(
        headers={
            "x-queue-time": "500",
            "x-validation-time": "1",
            "x-inference-time": "1250",
            "x-time-per-token": "250",
            "x-generated-tokens": "5",
        }
    ),
    ("Text Embeddings Inference", "/v1/embeddings"): EngineResponse(
        headers={
            "x-queue-time": "500",
            "x-tokenization-time": "1",
            "x-inference-time": "20",
            "x-compute-tokens": "20",
            "x-compute-type": "cpu",
        }
    ),
    ("Ollama", "/api/chat"): EngineResponse(OLLAMA_DONE, is_native=True),
    ("Ollama", "/v1/chat/completions"): EngineResponse({"system_fingerprint": "fp_ollama"}, CACHED),
    ("LM Studio", _V0): EngineResponse(LM_STUDIO, is_plain_only=True),
    ("LM Studio", "/v1/chat/completions"): EngineResponse(),
    ("LocalAI", "/v1/chat/completions"): EngineResponse(usage={**_NO_DETAILS, **LOCAL_AI}),
    ("Lemonade", "/v1/chat/completions"): EngineResponse(usage={**_NO_DETAILS, **FAST_FLOW_LM}),
    ("NVIDIA Dynamo", "/v1/chat/completions"): EngineResponse(
        {"nvext": {"timing": DYNAMO}}, CACHED
    ),
    ("KoboldCpp", "/v1/chat/completions"): EngineResponse(
        headers={"server": "ConcedoLlamaForKoboldServer"}
    ),
    ("mlx-lm", "/v1/chat/completions"): _ONLY_CACHED,
    ("Aphrodite", "/v1/chat/completions"): _ONLY_CACHED,
    ("LMDeploy", "/v1/chat/completions"): _ONLY_CACHED,
    ("Triton Inference Server", "/v1/chat/completions"): EngineResponse(),
    ("Groq", "/v1/chat/completions"): EngineResponse(
        {"x_groq": {"id": "req_1"}}, {**CACHED, **TIMES}
    ),
    ("Cerebras", "/v1/chat/completions"): EngineResponse({"time_info": TIMES}, CACHED),
    ("Fireworks", "/v1/chat/completions"): EngineResponse({"perf_metrics": PERF_METRICS}, CACHED),
    ("SambaNova", "/v1/chat/completions"): EngineResponse(
        usage={
            **_NO_DETAILS,
            "completion_tokens_after_first_per_sec": 4.0,
            "time_to_first_token": 0.3,
            "total_latency": 1.3,
        }
    ),
    ("OpenAI, Azure OpenAI and other services", "/v1/chat/completions"): EngineResponse(
        usage=CACHED, headers={"openai-processing-ms": "81"}
    ),
}
