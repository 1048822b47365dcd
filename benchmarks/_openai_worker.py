"""One contender of `compare_openai.py`: an openai client over a mock transport, instrumented or bare.

A line on standard input names a piece of work and how often to do it; the answer is the CPU time
of this thread per piece, in nanoseconds. Nothing of llamatelemetry is imported unless asked for:
the other contenders run in environments that do not have it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import httpx2
import openai

CHUNKS = 1000
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "smol", "system_fingerprint": "fp"}
_USAGE = {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}


def instrument(name: str) -> None:
    """Switch a contender on."""
    if name == "bare":
        return  # in an environment that has no SDK
    from _dropping import global_providers

    providers = global_providers()
    if name == "llamatelemetry":
        from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(**providers)
    elif name == "official":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor as Official

        Official().instrument(**providers)
    elif name == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        OpenInference().instrument(tracer_provider=providers["tracer_provider"])


def _client(body: bytes, content_type: str) -> openai.OpenAI:
    def handler(_: Any) -> Any:
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    http_client = httpx2.Client(transport=httpx2.MockTransport(handler))
    return openai.OpenAI(base_url="http://llm.test/v1", api_key="none", http_client=http_client)


def _plain() -> bytes:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Hi"},
    }
    reply = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return json.dumps(reply).encode()


def _stream() -> bytes:
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode() * CHUNKS + b"data: [DONE]\n\n"


def main() -> None:
    """Answer until standard input ends."""
    instrument(sys.argv[1])
    plain, stream = _client(_plain(), "application/json"), _client(_stream(), "text/event-stream")
    messages: list[Any] = [{"role": "user", "content": "Hi"}]

    def call() -> None:
        plain.chat.completions.create(model="smol", messages=messages)

    def chunks() -> None:
        for _ in stream.chat.completions.create(model="smol", messages=messages, stream=True):
            pass

    work = {"call": (call, 1), "chunk": (chunks, CHUNKS)}
    for line in sys.stdin:
        name, times = line.split()
        piece, parts = work[name]
        piece()  # the caches are another contender's
        began = time.thread_time_ns()
        for _ in range(int(times)):
            piece()
        print((time.thread_time_ns() - began) / int(times) / parts, flush=True)


if __name__ == "__main__":
    main()
