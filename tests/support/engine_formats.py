"""Requests and responses of inference servers with formats of their own, by the servers' sources."""

from __future__ import annotations

import json
from typing import Any

MESSAGES = [{"role": "user", "content": "SECRET question"}]
OLLAMA_COUNTS = {
    "total_duration": 1_400_000_000,
    "load_duration": 5_000_000,
    "prompt_eval_count": 20,
    "prompt_eval_cached_count": 8,
    "prompt_eval_duration": 250_000_000,
    "eval_count": 5,
    "eval_duration": 1_000_000_000,
}
OLLAMA_DONE = {"done": True, "done_reason": "stop", **OLLAMA_COUNTS}
OLLAMA_HEAD = {"model": "smol", "created_at": "2026-11-01T12:00:00.0Z"}
OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def ollama_chat(**message: Any) -> dict[str, Any]:
    """Return a plain response of `/api/chat`."""
    said = {"role": "assistant", "content": "SECRET answer", **message}
    return {**OLLAMA_HEAD, "message": said, **OLLAMA_DONE}


def ollama_chat_objects() -> list[dict[str, Any]]:
    """Return the objects of a stream of `/api/chat`: a thought, a text and a tool call."""
    said = [
        {"content": "", "thinking": "SECRET "},
        {"content": "", "thinking": "thought"},
        {"content": "SECRET "},
        {"content": "answer"},
        {"content": "", "tool_calls": [OLLAMA_CALL]},
    ]
    messages = [{"role": "assistant", **each} for each in said]
    last = {**OLLAMA_HEAD, "message": {"role": "assistant", "content": ""}, **OLLAMA_DONE}
    return [*({**OLLAMA_HEAD, "message": each, "done": False} for each in messages), last]


def ollama_generate_objects() -> list[dict[str, Any]]:
    """Return the objects of a stream of `/api/generate`."""
    texts = [{**OLLAMA_HEAD, "response": text, "done": False} for text in ("SECRET ", "answer")]
    return [*texts, {**OLLAMA_HEAD, "response": "", "context": [1, 2], **OLLAMA_DONE}]


OLLAMA_EMBED = {
    "model": "smol",
    "embeddings": [[0.1] * 4000, [0.2] * 4000],
    "total_duration": 14_000_000,
    "load_duration": 1_000_000,
    "prompt_eval_count": 8,
}
SGLANG_META = {
    "id": "rid-1",
    "finish_reason": {"type": "stop", "matched": 2},
    "prompt_tokens": 20,
    "completion_tokens": 5,
    "cached_tokens": 8,
    "weight_version": "default",
    "e2e_latency": 1.9,
    "queue_time": 0.5,
    "forward_entry_time": 1000.0,
    "prefill_finished_time": 1000.25,
    "request_finished_ts": 1001.25,
    "first_token_latency": 0.8,
    "spec_num_proposed_drafts": 9,
    "spec_num_correct_drafts": 4,
}
SGLANG_REPLY = {"text": "SECRET answer", "output_ids": [5, 6, 7, 8, 9], "meta_info": SGLANG_META}


def sglang_events(*, is_incremental: bool = False) -> list[dict[str, Any]]:
    """Return the events of a stream of `/generate`."""
    pieces = ["SECRET", " ans", "wer"]
    events: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces, 1):
        is_last = number == len(pieces)
        meta = {**SGLANG_META, "completion_tokens": number}
        tokens = list(range(number))
        if not is_last:
            meta = {name: meta[name] for name in ("id", "prompt_tokens", "completion_tokens")}
            meta |= {"finish_reason": None, "cached_tokens": 8, "weight_version": "default"}
        text = piece if is_incremental else "".join(pieces[:number])
        ids = tokens[-1:] if is_incremental else tokens
        events.append({"text": text, "output_ids": ids, "meta_info": meta})
    return events


def as_lines(objects: list[dict[str, Any]]) -> list[bytes]:
    """Return one JSON object a line."""
    return [f"{json.dumps(each)}\n".encode() for each in objects]


def as_events(objects: list[dict[str, Any]]) -> list[bytes]:
    """Return server-sent events."""
    return [f"data: {json.dumps(each)}\n\n".encode() for each in objects] + [b"data: [DONE]\n\n"]
