"""What proves which engine or service sent a response: values that only it writes.

A port, a path, the name of a model, `server: uvicorn` and ids that begin with `chatcmpl-` prove
nothing: many servers have them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._limits import Limit
from llamatelemetry.genai.json_access import as_count, as_dict, as_fields, as_list, get_field
from llamatelemetry.genai.wire.headers import NAME, VALUE, has_list
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamatelemetry.genai.wire.headers import Entry

VLLM: Final = "vllm"
SGLANG: Final = "sglang"
TENSORRT_LLM: Final = "tensorrt_llm"
TGI: Final = "tgi"
TEI: Final = "tei"
OLLAMA: Final = "ollama"
LM_STUDIO: Final = "lm_studio"
DYNAMO: Final = "dynamo"
LOCAL_AI: Final = "local_ai"
LEMONADE: Final = "lemonade"
KOBOLDCPP: Final = "koboldcpp"
MLX_LM: Final = "mlx_lm"
GROQ: Final = "groq"
CEREBRAS: Final = "cerebras"
FIREWORKS: Final = "fireworks"
SAMBANOVA: Final = "sambanova"

PROVING_PREFIXES: Final = ("vllm-", "fp_ollama", "b", *"0123456789")
"""How a fingerprint may begin that `provider_from_fingerprint` knows. OpenAI's begin with `fp_`."""

_PROVING_FIELDS: Final = (
    *("timings", "weight_version", "sglext", "nvext", "eval_duration", "load_duration", "stats"),
    *("time_info", "perf_metrics", "x_groq", "queue_time", "timing_prompt_processing"),
    *("prefill_duration_ttft", "completion_tokens_after_first_per_sec", "input_tokens_per_turn"),
    "avg_decoded_tokens_per_iter",
)
MAY_PROVE: Final = re.compile(
    rf'"(?:(?:{"|".join(_PROVING_FIELDS)})"\s*:\s*[^n\s]'
    rf'|system_fingerprint"\s*:\s*"(?:{"|".join(PROVING_PREFIXES)}))'.encode()
)
"""What the bytes of a response contain if its body can prove the engine. Most contain nothing of it.

Quotation marks in texts are escaped by a backslash, so it does not match there.
"""

_PROVIDER_BY_FINGERPRINT: Final = (
    (re.compile(r"vllm-\d.*"), VLLM),
    (re.compile(r"fp_ollama"), OLLAMA),
    (re.compile(r"b\d+-[0-9a-f]+"), PROVIDER_LLAMA_CPP),
    # Versions of mlx-lm and mlx, the platform, and the architecture of the GPU.
    (re.compile(r"\d[\w.]*-\d[\w.]*-.+-applegpu_\w+"), MLX_LM),
)
_PROVIDER_BY_OWNER: Final = {
    "llamacpp": PROVIDER_LLAMA_CPP,
    "vllm": VLLM,
    "sglang": SGLANG,
    "tensorrt_llm": TENSORRT_LLM,
    "koboldcpp": KOBOLDCPP,
    "lemonade": LEMONADE,
    "aphrodite": "aphrodite",
    "lmdeploy": "lmdeploy",
    "Triton Inference Server": "triton",
}
_PROVIDER_BY_SERVER_HEADER: Final = {
    "llama.cpp": PROVIDER_LLAMA_CPP,
    "ConcedoLlamaForKoboldServer": KOBOLDCPP,
}
_PROVING_VALUES: Final = frozenset(name.encode() for name in _PROVIDER_BY_SERVER_HEADER)
_PROVIDER_BY_USAGE_FIELD: Final = {
    "completion_tokens_after_first_per_sec": SAMBANOVA,
    "timing_prompt_processing": LOCAL_AI,
    "prefill_duration_ttft": LEMONADE,
}
# All of these fields of `/info` together.
_PROVIDER_BY_INFO: Final = (
    (frozenset({"max_best_of", "max_stop_sequences"}), TGI),
    (frozenset({"tokenization_workers", "max_batch_tokens"}), TEI),
)
# All of these headers together.
_PROVIDER_BY_HEADERS: Final = (
    (("x-validation-time", "x-time-per-token", "x-generated-tokens"), TGI),
    (("x-tokenization-time", "x-compute-tokens", "x-compute-type"), TEI),
    (("fireworks-prompt-tokens",), FIREWORKS),
)
_PROVING_NAMES: Final = frozenset(names[0].encode() for names, _ in _PROVIDER_BY_HEADERS)


@Limit("fingerprints", 256, "System fingerprints of responses").cached
def provider_from_fingerprint(fingerprint: str) -> str | None:
    """Return the provider that `system_fingerprint` proves."""
    for pattern, provider in _PROVIDER_BY_FINGERPRINT:
        if pattern.fullmatch(fingerprint):
            return provider
    return None


def provider_from_headers(headers: Any) -> str | None:
    """Return the provider that response headers prove, such as `Server: llama.cpp`."""
    entries: list[Entry] | None = headers._list if has_list(headers.__class__) else None
    if entries is None:
        server = headers.get("server")
    elif not _may_prove(entries):
        return None
    else:
        # Of several headers with this name, the first one counts: proxies append theirs.
        named = (VALUE(entry) for entry in entries if NAME(entry) == b"server")
        server = next(named, b"").decode("latin-1")
    proved = _PROVIDER_BY_SERVER_HEADER.get(server) if isinstance(server, str) else None
    if proved is not None:
        return proved
    for names, provider in _PROVIDER_BY_HEADERS:
        if all(headers.get(name) is not None for name in names):
            return provider
    return None


def _may_prove(entries: Iterable[Entry]) -> bool:
    """Return whether there is a header that can prove a provider. Most responses have none."""
    for _, name, value in entries:  # noqa: SIM110 - a generator takes twice as long
        if name in _PROVING_NAMES or value in _PROVING_VALUES:
            return True
    return False


def provider_from_models(reply: Any) -> str | None:
    """Return the provider that a list of models proves by the owner of the first one."""
    models = as_list(get_field(reply, "data"))
    owner = get_field(models[0], "owned_by") if models else None
    provider = _PROVIDER_BY_OWNER.get(owner) if isinstance(owner, str) else None
    if provider == VLLM and get_field(models[0], "max_model_len") is None:
        return None  # Every model list of vLLM has this field.
    return provider


def provider_from_info(reply: Any) -> str | None:
    """Return the provider that a reply of `GET /info` proves."""
    fields = as_fields(reply).keys()
    return next((provider for names, provider in _PROVIDER_BY_INFO if fields >= names), None)


def provider_from_body(fields: Mapping[str, Any], usage: Mapping[str, Any]) -> str | None:
    """Return the provider that fields of a response prove.

    Args:
        fields: The response.
        usage: Its token counts.
    """
    if isinstance(get_field(fields.get("x_groq"), "id"), str):
        return GROQ
    if "input_tokens_per_turn" in as_fields(usage.get("input_tokens_details")):
        return VLLM
    if "embeddings" in fields and as_count(fields.get("load_duration")):
        return OLLAMA  # Servers that imitate it do not know this time, or write 0.
    if "sglext" in fields or "weight_version" in as_dict(fields.get("metadata")):
        return SGLANG
    for name in _PROVIDER_BY_USAGE_FIELD.keys() & usage.keys():
        return _PROVIDER_BY_USAGE_FIELD[name]
    return _provider_from_choices(as_list(fields.get("choices")))


def _provider_from_choices(choices: Iterable[Any]) -> str | None:
    for choice in choices:
        fields = as_fields(choice)
        if "weight_version" in as_fields(fields.get("meta_info")):
            return SGLANG
        if "avg_decoded_tokens_per_iter" in fields:
            return TENSORRT_LLM
    return None
