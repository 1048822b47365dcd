"""Requests and responses of a llama.cpp server: with and without content, plain and streamed."""

from __future__ import annotations

import json
from typing import Any

from tests.support import payloads

SECRET = "SECRET"
COUNTS = {"tokens_predicted": 3, "tokens_evaluated": 10, "timings": payloads.TIMINGS}
NATIVE = {
    "content": f"{SECRET} answer",
    "stop": True,
    "stop_type": "eos",
    "model": "smol",
    **COUNTS,
}
NATIVE |= {"prompt": SECRET, "__verbose": {"prompt": SECRET}}
TEXT_EVENTS = [{"content": part, "stop": False, "index": 0} for part in (SECRET, " ans", "wer")]
MESSAGES = [{"role": "user", "content": f"{SECRET} question"}]


def events(*bodies: dict[str, Any]) -> list[bytes]:
    return [f"data: {json.dumps(body)}\n\n".encode() for body in bodies]


ROUTES: dict[str, tuple[dict[str, Any], dict[str, Any], list[bytes]]] = {
    "/v1/chat/completions": (
        {"messages": MESSAGES},
        payloads.chat(
            choices=[
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"{SECRET} answer"},
                }
            ]
        ),
        events(
            payloads.chunk({"role": "assistant", "content": None}),
            *(payloads.chunk({"content": part}) for part in (SECRET, " ans", "wer")),
            payloads.chunk({}, "stop", timings=payloads.TIMINGS),
        ),
    ),
    "/completion": (
        {"prompt": f"{SECRET} question"},
        NATIVE,
        events(*TEXT_EVENTS, {**NATIVE, "content": "", "index": 0}),
    ),
}
BODY = {"model": "smol", "messages": payloads.MESSAGES, "stream": True}
CHAT = json.dumps(payloads.chat(timings=payloads.TIMINGS)).encode()
EVENTS = [
    f"data: {json.dumps(event)}\n\n".encode()
    for event in payloads.chat_chunks(timings=payloads.TIMINGS)
]
