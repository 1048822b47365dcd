"""Responses in the formats of servers, and clients with a transport that returns them."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import openai

OPENAI = tuple(int(part) for part in openai.__version__.split(".")[:2])
# openai 3 uses httpx2, earlier versions use httpx. Both have the same classes.
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


def json_response(body: Any, status: int = 200, **headers: str) -> Any:
    return http.Response(status, json=body, headers=headers)


def stream_response(body: bytes, **headers: str) -> Any:
    return http.Response(
        200, content=body, headers={"content-type": "text/event-stream", **headers}
    )


def error_response(status: int, **error: Any) -> Any:
    return json_response({"error": {"message": "the prompt was: TOP SECRET", **error}}, status)


def known_to(method: Callable[..., Any], **parameters: Any) -> dict[str, Any]:
    """Return keyword arguments. Parameters that this version of `method` lacks go into `extra_body`."""
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


RESPONSES_USAGE = {
    "input_tokens": 21,
    "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 3},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 26,
}


def response(**more: Any) -> dict[str, Any]:
    """Return a response of the Responses API."""
    text = {"type": "output_text", "text": '{"greeting": "Hi"}', "annotations": []}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "smol-v1",
        "status": "completed",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "service_tier": "default",
        "usage": RESPONSES_USAGE,
        **more,
    }


def response_events(**last: Any) -> list[dict[str, Any]]:
    """Return the events of a streamed response. `last` is merged into the last event's response."""
    begun = response(status="in_progress", output=[], usage=None)
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    delta = {"type": "response.output_text.delta", **where, "logprobs": []}
    item_added = {"output_index": 0, "item": {**item, "status": "in_progress"}}
    return [
        {**event, "sequence_number": number}
        for number, event in enumerate(
            [
                {"type": "response.created", "response": begun},
                {"type": "response.in_progress", "response": begun},
                {"type": "response.output_item.added", **item_added},
                {"type": "response.content_part.added", **where, "part": part},
                {**delta, "delta": '{"greeting"'},
                {**delta, "delta": ': "Hi"}'},
                {"type": "response.completed", "response": response(**last)},
            ]
        )
    ]


IMAGE_USAGE = {
    "input_tokens": 50,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
    "output_tokens": 30,
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 30},
    "total_tokens": 80,
}


def images(**more: Any) -> dict[str, Any]:
    return {"created": 1, "data": [{"b64_json": "aGk="}], "usage": IMAGE_USAGE, **more}


def image_events(kind: str) -> list[dict[str, Any]]:
    """Return the events of a streamed image. `kind` is `image_generation` or `image_edit`."""
    image = {
        "b64_json": "aGk=",
        "background": "opaque",
        "created_at": 1,
        "output_format": "png",
        "quality": "low",
        "size": "1024x1024",
    }
    return [
        {"type": f"{kind}.partial_image", "partial_image_index": 0, **image},
        {"type": f"{kind}.completed", "usage": IMAGE_USAGE, **image},
    ]


TRANSCRIPT_USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 2, "audio_tokens": 12},
    "output_tokens": 9,
    "total_tokens": 23,
}


def transcript(**more: Any) -> dict[str, Any]:
    return {"text": "Hi there", "usage": TRANSCRIPT_USAGE, **more}


def transcript_events() -> list[dict[str, Any]]:
    return [
        {"type": "transcript.text.delta", "delta": "Hi"},
        {"type": "transcript.text.delta", "delta": " there"},
        {"type": "transcript.text.done", **transcript()},
    ]


def moderation(**more: Any) -> dict[str, Any]:
    verdict = {"flagged": False, "categories": {}, "category_scores": {}}
    return {"id": "modr-1", "model": "mod-v1", "results": [verdict], **more}


class Parts(http.SyncByteStream, http.AsyncByteStream):
    """A body that arrives in parts, as over a network. A response with it is unread.

    An exception among the parts is raised at its position.
    """

    def __init__(self, *parts: bytes | BaseException) -> None:
        self.parts = parts
        self.closed = 0

    def __iter__(self) -> Any:
        for part in self.parts:
            if isinstance(part, BaseException):
                raise part
            yield part

    async def __aiter__(self) -> Any:
        for part in self.parts:
            if isinstance(part, BaseException):
                raise part
            yield part

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1


def split(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


def chunked_response(
    *parts: bytes | BaseException, media: str = "application/json", **headers: str
) -> Any:
    """Return a response with an unread body."""
    return http.Response(200, stream=Parts(*parts), headers={"content-type": media, **headers})
