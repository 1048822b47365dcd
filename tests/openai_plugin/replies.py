"""Replies in the shapes that servers give, and clients whose transport hands them out."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import openai

OPENAI = tuple(int(part) for part in openai.__version__.split(".")[:2])
# openai 3 runs on httpx2, earlier ones on httpx; the two have the same classes.
http: Any = importlib.import_module("httpx2" if OPENAI >= (3, 0) else "httpx")

BASE_URL = "http://llm.test:8080/v1"
MESSAGES: list[Any] = [{"role": "user", "content": "Say hi."}]

USAGE = {
    "prompt_tokens": 21,
    "completion_tokens": 5,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TIMINGS = {
    "cache_n": 16,
    "prompt_n": 5,
    "prompt_ms": 2.0,
    "predicted_n": 5,
    "predicted_ms": 4.0,
    "draft_n": 4,
    "draft_n_accepted": 3,
}


def chat(**more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "smol-v1",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
        ],
        "usage": USAGE,
        **more,
    }


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "smol-v1",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **more,
    }


def chat_chunks(**last: Any) -> list[dict[str, Any]]:
    return [
        chunk({"role": "assistant", "content": None}),
        chunk({"content": "H"}),
        chunk({"content": "i"}),
        chunk({}, "stop", **last),
    ]


def completion(**more: Any) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "smol-v1",
        "choices": [{"index": 0, "finish_reason": "length", "text": " there", "logprobs": None}],
        "usage": USAGE,
        **more,
    }


def completion_chunks(**last: Any) -> list[dict[str, Any]]:
    def part(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": reason, "text": text, "logprobs": None}
        return completion(choices=[choice], usage=None) | more

    return [part(" the"), part("re"), part("", "length", **last)]


def embeddings(**more: Any) -> dict[str, Any]:
    return {
        "object": "list",
        "model": "embed-v1",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
        **more,
    }


def sse(chunks: Iterable[dict[str, Any]], *, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def json_reply(body: Any, status: int = 200, **headers: str) -> Any:
    return http.Response(status, json=body, headers=headers)


def stream_reply(body: bytes, **headers: str) -> Any:
    return http.Response(
        200, content=body, headers={"content-type": "text/event-stream", **headers}
    )


def error_reply(status: int, **error: Any) -> Any:
    return json_reply({"error": {"message": "the prompt was: TOP SECRET", **error}}, status)


def known_to(method: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    """Parameters for a call of `method`: those that this version of it has not got, as extra body."""
    known = inspect.signature(method).parameters
    extra = {name: value for name, value in parameters.items() if name not in known}
    given = {name: value for name, value in parameters.items() if name in known}
    return {**given, "extra_body": {**extra, **given.get("extra_body", {})}}


Handler = Callable[[Any], Any]


def client(handler: Handler, **options: Any) -> openai.OpenAI:
    options = {"base_url": BASE_URL, "api_key": "sk-secret", "max_retries": 0, **options}
    return openai.OpenAI(http_client=http.Client(transport=http.MockTransport(handler)), **options)


def async_client(handler: Handler, **options: Any) -> openai.AsyncOpenAI:
    options = {"base_url": BASE_URL, "api_key": "sk-secret", "max_retries": 0, **options}
    transport = http.MockTransport(handler)
    return openai.AsyncOpenAI(http_client=http.AsyncClient(transport=transport), **options)
