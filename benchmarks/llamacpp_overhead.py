"""CPU time that the llama.cpp plugin adds to calls of llama.cpp and to other HTTP requests.

The clients use an in-process mock transport, so only Python code is measured. Bare and
instrumented requests alternate in small blocks in one run. The results are medians of the
differences between blocks, in microseconds of CPU time of this thread. Spans and metrics are on,
and exports are dropped. Run it on an idle machine: `make bench`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai

from _added_cpu import block, compare
from _dropping import providers
from llamatelemetry.genai import known_servers
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

BLOCKS = 15
REQUESTS_PER_BLOCK = 200
CHUNKS = 1000

_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "smol", "system_fingerprint": "b1"}
_TIMINGS = {"cache_n": 16, "prompt_n": 5, "prompt_ms": 2.0, "predicted_n": 5, "predicted_ms": 4.0}
_MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
_BODY = {"model": "smol", "messages": _MESSAGES, "temperature": 0.5, "max_tokens": 100}
_LLAMA = {"server": "llama.cpp"}


def plain_body(**more: Any) -> bytes:
    """Return a chat completion."""
    message = {"role": "assistant", "content": "Hi"}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}
    return json.dumps({**_HEAD, "choices": choices, "usage": usage, **more}).encode()


class Chunks(httpx2.SyncByteStream):
    """A chat stream of `CHUNKS` chunks, which arrive one by one."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks."""
        chunk = {
            **_HEAD,
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
        }
        line = f"data: {json.dumps(chunk)}\n\n".encode()
        for _ in range(CHUNKS):
            yield line
        yield b"data: [DONE]\n\n"


def client(respond: Callable[[], Any]) -> httpx2.Client:
    """Return a client with a mock transport that calls `respond`."""
    return httpx2.Client(transport=httpx2.MockTransport(lambda _: respond()))


def plain_request(host: str, path: str, headers: dict[str, str], **more: Any) -> Callable[[], None]:
    """Return a function that sends a plain request."""
    body = plain_body(**more)
    kind = {"content-type": "application/json"}
    target = client(lambda: httpx2.Response(200, content=body, headers={**kind, **headers}))
    return lambda: target.post(f"http://{host}{path}", json=_BODY) and None


def streamed_request(host: str, headers: dict[str, str]) -> Callable[[], None]:
    """Return a function that sends a streamed request and reads its raw bytes."""
    kind = {"content-type": "text/event-stream"}
    target = client(lambda: httpx2.Response(200, stream=Chunks(), headers={**kind, **headers}))

    def work() -> None:
        url = f"http://{host}/v1/chat/completions"
        with target.stream("POST", url, json={**_BODY, "stream": True}) as reply:
            for _ in reply.iter_raw():
                pass

    return work


def openai_call(headers: dict[str, str], *, stream: bool = False) -> Callable[[], None]:
    """Return a function that calls the openai client."""
    if stream:
        kind = {"content-type": "text/event-stream"}
        http = client(lambda: httpx2.Response(200, stream=Chunks(), headers={**kind, **headers}))
    else:
        body = plain_body(timings=_TIMINGS)
        kind = {"content-type": "application/json"}
        http = client(lambda: httpx2.Response(200, content=body, headers={**kind, **headers}))
    target = openai.OpenAI(base_url="http://llama.test/v1", api_key="none", http_client=http)

    def work() -> None:
        reply: Any = target.chat.completions.create(model="smol", messages=_MESSAGES, stream=stream)
        for _ in reply if stream else ():
            pass

    return work


def main() -> int:
    """Print the table."""
    sdk = providers()
    chat, many = "/v1/chat/completions", REQUESTS_PER_BLOCK
    others = [
        ("other path", plain_request("other.test", "/v1/things", {}), many, 1),
        ("same path, other host", plain_request("other.test", chat, {}), many, 1),
        ("same path, known vendor", plain_request("api.openai.com", chat, {}), many, 1),
        ("same path, other host, a chunk", streamed_request("other.test", {}), 1, CHUNKS),
    ]
    ours = [
        ("plain call", plain_request("llama.test", chat, _LLAMA, timings=_TIMINGS), many, 1),
        (f"streamed chunk ({CHUNKS} a call)", streamed_request("llama.test", _LLAMA), 1, CHUNKS),
    ]
    inside = [
        ("inside the openai plugin's call", openai_call(_LLAMA), many, 1),
        ("inside its stream, a chunk", openai_call(_LLAMA, stream=True), 1, CHUNKS),
    ]
    print(f"{'':<34}{'bare us':>10}{'added us':>10}")
    for name, work, times, parts in (*others, *ours, *inside):
        known_servers.forget()
        if (name, work, times, parts) in inside:
            OpenAIInstrumentor().instrument(**sdk)
        block(work, 3)
        bare, added = compare(LlamaCppInstrumentor(), sdk, work, times=times, blocks=BLOCKS)
        print(f"{name:<34}{bare / parts:>10.1f}{added / parts:>10.2f}")
    OpenAIInstrumentor().uninstrument()
    return 0


if __name__ == "__main__":
    sys.exit(main())
