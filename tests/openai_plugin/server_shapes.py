"""Responses in the formats of five servers, from their public documentation, and the expected spans.

| Server | Documentation |
|---|---|
| OpenAI | platform.openai.com/docs/api-reference/chat |
| Azure | learn.microsoft.com/azure/ai-foundry/openai: reference, content filtering, content streaming |
| vLLM | docs.vllm.ai: OpenAI-Compatible Server, `chat_completion.protocol` |
| Ollama | docs.ollama.com: OpenAI compatibility |
| DeepSeek | api-docs.deepseek.com: Create Chat Completion, Rate Limit, Error Codes |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support import payloads


@dataclass(frozen=True)
class Shape:
    """The responses of one server to the same request, plain and streamed.

    Attributes:
        base_url: Base URL of the server.
        model: Model in the request.
        request: Further parameters.
        reply: JSON of the plain response.
        events: JSON of the stream's events.
        attributes: Attributes of both spans, except those that every call or every stream has.
        refusal: Status and JSON of an error that the server documents.
        error_type: Recorded `error.type` of that error.
        off_schema: Deviations of the server from the types of openai, as pydantic names them.
        padding: Bytes that may come before the JSON of a plain response and between events.
    """

    name: str
    base_url: str
    model: str
    reply: dict[str, Any]
    events: Sequence[dict[str, Any]]
    attributes: dict[str, Any]
    refusal: tuple[int, dict[str, Any]]
    error_type: str
    request: dict[str, Any] = field(default_factory=dict)
    off_schema: frozenset[tuple[str, ...]] = frozenset()
    padding: tuple[bytes, bytes] = (b"", b"")
    azure: bool = False

    @property
    def body(self) -> bytes:
        return self.padding[0] + json.dumps(self.reply).encode()

    @property
    def stream(self) -> bytes:
        events = (payloads.sse([event], done=False) for event in self.events)
        return self.padding[1].join([b"", *events, payloads.sse([])])


def _chunks(head: dict[str, Any], *choices: dict[str, Any]) -> list[dict[str, Any]]:
    return [head | {"choices": [{"index": 0, **choice}]} for choice in choices]


# OpenAI: usage in a last chunk without choices, and padding that hides the sizes of chunks.

_OPENAI_USAGE = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 256,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
_OPENAI_HEAD = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion.chunk",
    "created": 1741569952,
    "model": "gpt-5.4-2026-03-05",
    "service_tier": "default",
    "system_fingerprint": "fp_44709d6fcb",
    "usage": None,
}
OPENAI = Shape(
    name="OpenAI",
    base_url="https://api.openai.com/v1",
    model="gpt-5.4",
    request={"max_completion_tokens": 400, "reasoning_effort": "low"},
    reply=_OPENAI_HEAD
    | {
        "object": "chat.completion",
        "usage": _OPENAI_USAGE,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello! How can I assist you today?",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    },
    events=[
        *(
            event | {"obfuscation": "8I3E9Ee5e06GJu"}
            for event in _chunks(
                _OPENAI_HEAD,
                {
                    "delta": {"role": "assistant", "content": "", "refusal": None},
                    "logprobs": None,
                    "finish_reason": None,
                },
                {"delta": {"content": "Hello"}, "logprobs": None, "finish_reason": None},
                {"delta": {"content": "!"}, "logprobs": None, "finish_reason": None},
                {"delta": {}, "logprobs": None, "finish_reason": "stop"},
            )
        ),
        _OPENAI_HEAD | {"choices": [], "usage": _OPENAI_USAGE, "obfuscation": "x"},
    ],
    attributes={
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5.4",
        "gen_ai.request.max_tokens": 400,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.response.id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "gen_ai.response.model": "gpt-5.4-2026-03-05",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 2006,
        "gen_ai.usage.output_tokens": 300,
        "gen_ai.usage.cache_read.input_tokens": 1920,
        "gen_ai.usage.reasoning.output_tokens": 256,
        "gen_ai.usage.audio.input_tokens": 0,
        "gen_ai.usage.audio.output_tokens": 0,
        "openai.api.type": "chat_completions",
        "openai.response.service_tier": "default",
        "openai.response.system_fingerprint": "fp_44709d6fcb",
        "server.address": "api.openai.com",
        "server.port": 443,
    },
    refusal=(
        429,
        {
            "error": {
                "message": "You exceeded your current quota, please check your plan.",
                "type": "insufficient_quota",
                "param": None,
                "code": "insufficient_quota",
            }
        },
    ),
    error_type="insufficient_quota",
)

# Azure: a first chunk with filter results and empty names, and filter results everywhere.

_SAFE = {
    kind: {"filtered": False, "severity": "safe"}
    for kind in ("hate", "self_harm", "sexual", "violence")
}
_PROMPT_FILTER = [{"prompt_index": 0, "content_filter_results": _SAFE}]
_AZURE_USAGE = {
    "prompt_tokens": 33,
    "completion_tokens": 8,
    "total_tokens": 41,
    "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_AZURE_HEAD = {
    "id": "chatcmpl-6v7mkQj980V1yBec6ETrKPRqFjNw9",
    "object": "chat.completion.chunk",
    "created": 1679072642,
    "model": "gpt-4.1-mini-2025-04-14",
    "system_fingerprint": "fp_178c8d546f",
}
AZURE = Shape(
    name="Azure",
    base_url="https://contoso.openai.azure.com",
    azure=True,
    model="my-deployment",
    reply=_AZURE_HEAD
    | {
        "object": "chat.completion",
        "prompt_filter_results": _PROMPT_FILTER,
        "usage": _AZURE_USAGE,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Yes.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "content_filter_results": _SAFE,
            }
        ],
    },
    events=[
        {
            "id": "",
            "object": "",
            "created": 0,
            "model": "",
            "choices": [],
            "prompt_filter_results": _PROMPT_FILTER,
        },
        *_chunks(
            _AZURE_HEAD,
            {
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "finish_reason": None,
                "logprobs": None,
                "content_filter_results": {},
            },
            {
                "delta": {"content": "Yes"},
                "finish_reason": None,
                "logprobs": None,
                "content_filter_results": _SAFE,
            },
            {
                "delta": {},
                "finish_reason": None,
                "logprobs": None,
                "content_filter_results": _SAFE,
                "content_filter_offsets": {
                    "check_offset": 44,
                    "start_offset": 44,
                    "end_offset": 198,
                },
            },
            {
                "delta": {},
                "finish_reason": "stop",
                "logprobs": None,
                "content_filter_results": {},
            },
        ),
        _AZURE_HEAD | {"choices": [], "usage": _AZURE_USAGE},
    ],
    off_schema=frozenset({("object",)}),
    attributes={
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": "my-deployment",
        "gen_ai.response.id": "chatcmpl-6v7mkQj980V1yBec6ETrKPRqFjNw9",
        "gen_ai.response.model": "gpt-4.1-mini-2025-04-14",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 33,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "gen_ai.usage.audio.input_tokens": 0,
        "gen_ai.usage.audio.output_tokens": 0,
        "openai.api.type": "chat_completions",
        "openai.response.system_fingerprint": "fp_178c8d546f",
        "server.address": "contoso.openai.azure.com",
        "server.port": 443,
    },
    refusal=(
        400,
        {
            "error": {
                "message": "The response was filtered",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
                },
            }
        },
    ),
    error_type="content_filter",
)

# vLLM: usage in each chunk, reasoning in addition to content, and a numeric error code.

_VLLM_USAGE = {
    "prompt_tokens": 41,
    "total_tokens": 60,
    "completion_tokens": 19,
    "prompt_tokens_details": {"cached_tokens": 32},
}
_VLLM_HEAD = {
    "id": "chatcmpl-5f1b9c1e0a6c4a4a9d8f6b3a1c2d3e4f",
    "object": "chat.completion.chunk",
    "created": 1762790400,
    "model": "Qwen/Qwen3-8B",
}


def _vllm_usage(output_tokens: int) -> dict[str, Any]:
    counts = {"completion_tokens": output_tokens, "total_tokens": 41 + output_tokens}
    return {"usage": _VLLM_USAGE | counts}


VLLM = Shape(
    name="vLLM",
    base_url="http://gpu-node.test:8000/v1",
    model="Qwen/Qwen3-8B",
    request={
        "temperature": 0.6,
        "extra_body": {"top_k": 20, "chat_template_kwargs": {"enable_thinking": True}},
    },
    reply=_VLLM_HEAD
    | {
        "object": "chat.completion",
        "service_tier": None,
        "system_fingerprint": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "kv_transfer_params": None,
        "usage": _VLLM_USAGE,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "9.8",
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [],
                    "reasoning": "9.11 is less than 9.8.",
                    "reasoning_content": "9.11 is less than 9.8.",
                },
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
                "token_ids": None,
            }
        ],
    },
    events=[
        chunk | _vllm_usage(position)
        for position, chunk in enumerate(
            _chunks(
                _VLLM_HEAD,
                {
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                },
                {
                    "delta": {"reasoning": "9.11", "reasoning_content": "9.11"},
                    "logprobs": None,
                    "finish_reason": None,
                    "token_ids": None,
                },
                {
                    "delta": {"content": "9.8"},
                    "logprobs": None,
                    "finish_reason": None,
                    "token_ids": None,
                },
                {
                    "delta": {"content": ""},
                    "logprobs": None,
                    "finish_reason": "stop",
                    "stop_reason": None,
                },
            )
        )
    ]
    + [_VLLM_HEAD | {"choices": [], "usage": _VLLM_USAGE}],
    attributes={
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "Qwen/Qwen3-8B",
        "gen_ai.request.temperature": 0.6,
        "gen_ai.request.top_k": 20,
        "gen_ai.response.id": "chatcmpl-5f1b9c1e0a6c4a4a9d8f6b3a1c2d3e4f",
        "gen_ai.response.model": "Qwen/Qwen3-8B",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 41,
        "gen_ai.usage.output_tokens": 19,
        "gen_ai.usage.cache_read.input_tokens": 32,
        "openai.api.type": "chat_completions",
        "server.address": "gpu-node.test",
        "server.port": 8000,
    },
    refusal=(
        404,
        {
            "error": {
                "message": "The model `gpt-4` does not exist.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            }
        },
    ),
    error_type="NotFoundError",
)

# Ollama: the role in each chunk, a complete tool call in one chunk, and no usage details.

_OLLAMA_HEAD = {
    "id": "chatcmpl-923",
    "object": "chat.completion.chunk",
    "created": 1756921364,
    "model": "llama3.2:3b",
    "system_fingerprint": "fp_ollama",
}
_OLLAMA_USAGE = {"prompt_tokens": 172, "completion_tokens": 18, "total_tokens": 190}
_OLLAMA_CALL = {
    "id": "call_os3xa9go",
    "index": 0,
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city":"Tokyo"}'},
}
OLLAMA = Shape(
    name="Ollama",
    base_url="http://localhost:11434/v1",
    model="llama3.2:3b",
    request={"seed": 101, "max_tokens": 64},
    reply=_OLLAMA_HEAD
    | {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "", "tool_calls": [_OLLAMA_CALL]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": _OLLAMA_USAGE,
    },
    events=[
        *_chunks(
            _OLLAMA_HEAD,
            {
                "delta": {"role": "assistant", "content": "", "tool_calls": [_OLLAMA_CALL]},
                "finish_reason": None,
            },
            {"delta": {"role": "assistant", "content": ""}, "finish_reason": "tool_calls"},
        ),
        _OLLAMA_HEAD | {"choices": [], "usage": _OLLAMA_USAGE},
    ],
    attributes={
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "llama3.2:3b",
        "gen_ai.request.seed": 101,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.response.id": "chatcmpl-923",
        "gen_ai.response.model": "llama3.2:3b",
        "gen_ai.response.finish_reasons": ("tool_calls",),
        "gen_ai.usage.input_tokens": 172,
        "gen_ai.usage.output_tokens": 18,
        "server.address": "localhost",
        "server.port": 11434,
    },
    refusal=(
        404,
        {
            "error": {
                "message": 'model "llama9" not found, try pulling it first',
                "type": "not_found_error",
                "param": None,
                "code": None,
            }
        },
    ),
    error_type="not_found_error",
)

# DeepSeek: keep-alives before response and events, cache hits and misses, and an own finish reason.

_DEEPSEEK_USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 24,
    "total_tokens": 54,
    "prompt_tokens_details": {"cached_tokens": 14},
    "completion_tokens_details": {"reasoning_tokens": 20},
    "prompt_cache_hit_tokens": 14,
    "prompt_cache_miss_tokens": 16,
}
_DEEPSEEK_HEAD = {
    "id": "930c60df-bf64-41c9-a88e-3ec75f81e00e",
    "object": "chat.completion.chunk",
    "created": 1766977481,
    "model": "deepseek-reasoner",
    "system_fingerprint": "fp_eaab8d114b_prod0820_fp8_kvcache",
}
DEEPSEEK = Shape(
    name="DeepSeek",
    base_url="https://api.deepseek.com",
    model="deepseek-reasoner",
    reply=_DEEPSEEK_HEAD
    | {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "9.8",
                    "reasoning_content": "Compare the tenths first.",
                },
                "logprobs": None,
                "finish_reason": "insufficient_system_resource",
            }
        ],
        "usage": _DEEPSEEK_USAGE,
    },
    events=[
        *_chunks(
            _DEEPSEEK_HEAD,
            {
                "delta": {"role": "assistant", "content": None, "reasoning_content": ""},
                "logprobs": None,
                "finish_reason": None,
            },
            {
                "delta": {"content": None, "reasoning_content": "Compare"},
                "logprobs": None,
                "finish_reason": None,
            },
            {
                "delta": {"content": "9.8", "reasoning_content": None},
                "logprobs": None,
                "finish_reason": None,
            },
        ),
        # The last choice and the usage are in one chunk.
        *_chunks(
            _DEEPSEEK_HEAD | {"usage": _DEEPSEEK_USAGE},
            {
                "delta": {"content": "", "reasoning_content": None},
                "logprobs": None,
                "finish_reason": "insufficient_system_resource",
            },
        ),
    ],
    off_schema=frozenset({("choices", "finish_reason")}),
    padding=(b"\n\n\n", b": keep-alive\n\n"),
    attributes={
        "gen_ai.provider.name": "deepseek",
        "gen_ai.request.model": "deepseek-reasoner",
        "gen_ai.response.id": "930c60df-bf64-41c9-a88e-3ec75f81e00e",
        "gen_ai.response.model": "deepseek-reasoner",
        "gen_ai.response.finish_reasons": ("insufficient_system_resource",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 24,
        "gen_ai.usage.cache_read.input_tokens": 14,
        "gen_ai.usage.reasoning.output_tokens": 20,
        "server.address": "api.deepseek.com",
        "server.port": 443,
    },
    refusal=(
        402,
        {
            "error": {
                "message": "Insufficient Balance",
                "type": "unknown_error",
                "param": None,
                "code": "invalid_request_error",
            }
        },
    ),
    error_type="invalid_request_error",
)

SHAPES = (OPENAI, AZURE, VLLM, OLLAMA, DEEPSEEK)
