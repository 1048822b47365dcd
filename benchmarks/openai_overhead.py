"""CPU time that the OpenAI plugin adds to a plain call and to a streamed chunk.

The client uses an in-process mock transport, so only Python code is measured. Bare and
instrumented calls alternate in small blocks. The results are medians of the differences between
blocks, in microseconds of CPU time of this thread. Spans and metrics are on, and exports are
dropped. Metrics that another thread records later are not included. Run it on an idle machine:
`make bench`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import httpx2
import openai

from _added_cpu import block, compare
from _dropping import providers
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

BLOCKS = 60
CALLS_PER_BLOCK = 20
CHUNKS = 1000

_USAGE = {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}
_TIMINGS = {"cache_n": 16, "prompt_n": 5, "prompt_ms": 2.0, "predicted_n": 5, "predicted_ms": 4.0}
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "smol", "system_fingerprint": "b1"}


def plain_body(timings: dict[str, Any] | None) -> bytes:
    """Return a chat completion, with the timings of llama.cpp if they are given."""
    message = {"role": "assistant", "content": "Hi"}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    reply: dict[str, Any] = {
        **_HEAD,
        "object": "chat.completion",
        "choices": choices,
        "usage": _USAGE,
    }
    return json.dumps(reply | ({"timings": timings} if timings else {})).encode()


def stream_body(chunks: int = CHUNKS) -> bytes:
    """Return a chat stream."""
    chunk = {
        **_HEAD,
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
    }
    line = f"data: {json.dumps(chunk)}\n\n".encode()
    return line * chunks + b"data: [DONE]\n\n"


def client(body: bytes, content_type: str) -> openai.OpenAI:
    """Return a client with a mock transport."""

    def handler(_: Any) -> Any:
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    http_client = httpx2.Client(transport=httpx2.MockTransport(handler))
    return openai.OpenAI(base_url="http://llm.test/v1", api_key="none", http_client=http_client)


def main() -> int:
    """Print the table."""
    sdk = providers()

    def plain(target: openai.OpenAI) -> Callable[[], None]:
        def work() -> None:
            target.chat.completions.create(
                model="smol", messages=[{"role": "user", "content": "Hi"}]
            )

        return work

    def read(target: openai.OpenAI) -> Callable[[], None]:
        def work() -> None:
            messages: list[Any] = [{"role": "user", "content": "Hi"}]
            for _ in target.chat.completions.create(model="smol", messages=messages, stream=True):
                pass

        return work

    cases = [
        ("plain call", plain(client(plain_body(None), "application/json")), CALLS_PER_BLOCK, 1),
        (
            "plain call, llama.cpp timings",
            plain(client(plain_body(_TIMINGS), "application/json")),
            CALLS_PER_BLOCK,
            1,
        ),
        (
            f"streamed chunk ({CHUNKS} a call)",
            read(client(stream_body(), "text/event-stream")),
            1,
            CHUNKS,
        ),
    ]
    print(f"{'':<34}{'bare us':>10}{'added us':>10}{'ratio':>8}")
    for name, work, times, parts in cases:
        block(work, 3)
        bare, added = compare(OpenAIInstrumentor(), sdk, work, times=times, blocks=BLOCKS)
        print(f"{name:<34}{bare / parts:>10.1f}{added / parts:>10.1f}{(bare + added) / bare:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
