"""Requests and responses of a llama.cpp server: with and without content, plain and streamed."""

from __future__ import annotations

import json
from typing import Any

from tests.support import replies

SAID = "SECRET"
COUNTS = {"tokens_predicted": 3, "tokens_evaluated": 10, "timings": replies.TIMINGS}
NATIVE = {"content": f"{SAID} answer", "stop": True, "stop_type": "eos", "model": "smol", **COUNTS}
NATIVE |= {"prompt": SAID, "__verbose": {"prompt": SAID}}
PIECES = [{"content": part, "stop": False, "index": 0} for part in (SAID, " ans", "wer")]
MESSAGES = [{"role": "user", "content": f"{SAID} question"}]


def events(*bodies: dict[str, Any]) -> list[bytes]:
    return [f"data: {json.dumps(body)}\n\n".encode() for body in bodies]


ROUTES: dict[str, tuple[dict[str, Any], dict[str, Any], list[bytes]]] = {
    "/v1/chat/completions": (
        {"messages": MESSAGES},
        replies.chat(
            choices=[
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"{SAID} answer"},
                }
            ]
        ),
        events(
            replies.chunk({"role": "assistant", "content": None}),
            *(replies.chunk({"content": part}) for part in (SAID, " ans", "wer")),
            replies.chunk({}, "stop", timings=replies.TIMINGS),
        ),
    ),
    "/completion": (
        {"prompt": f"{SAID} question"},
        NATIVE,
        events(*PIECES, {**NATIVE, "content": "", "index": 0}),
    ),
}
BODY = {"model": "smol", "messages": replies.MESSAGES, "stream": True}
CHAT = json.dumps(replies.chat(timings=replies.TIMINGS)).encode()
EVENTS = [
    f"data: {json.dumps(event)}\n\n".encode()
    for event in replies.chat_chunks(timings=replies.TIMINGS)
]
