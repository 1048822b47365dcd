"""`streams_without_threads.py WAY`: a stream in a process that cannot start threads."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import openai

from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.model_server import CHUNK
from tests.support.recorder import Recorder


def run(way: str) -> None:
    """Make a call whose stream ends in a way, without threads. Print what the application sees."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    class Stream(payloads.http.SyncByteStream):
        closed = 0

        def __iter__(self) -> Any:
            for _ in range(3):
                yield b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"

        def close(self) -> None:
            self.closed += 1

    recorder = Recorder()
    OpenAIInstrumentor().instrument(**recorder.providers)
    LlamaCppInstrumentor().instrument(**recorder.providers)
    threading.Thread.start = start
    stream = Stream()
    headers = {"content-type": "text/event-stream", "server": "llama.cpp"}
    transport = payloads.http.MockTransport(
        lambda _: payloads.http.Response(200, headers=headers, stream=stream)
    )
    http = payloads.http.Client(transport=transport)
    request: dict[str, Any] = {"model": "smol", "messages": [], "stream": True}
    if way == "closed over HTTP":
        url = "http://127.0.0.1:1/v1/chat/completions"
        with http.stream("POST", url, json=request) as response:
            next(response.iter_bytes())
    else:
        client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:1/v1", http_client=http)
        chunks = client.chat.completions.create(**request)
        next(chunks)
        if way == "read":
            list(chunks)
        elif way == "closed":
            chunks.close()
        else:
            with chunks:
                pass
    names = [span.name for span in recorder.spans()]
    sys.stdout.write(json.dumps({"closed": stream.closed > 0, "spans": names}))


if __name__ == "__main__":
    run(sys.argv[1])
