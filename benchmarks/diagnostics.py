"""Cost of the option `diagnostics`: CPU time on the thread of the call, and bytes on its span.

An openai client calls a server in another process over loopback, with some prompts without the
plugin, and with the same ones with the option off and on. Times are medians in microseconds of CPU
time of this thread, and exclude the server. What the option adds is the median difference for the
same prompt, so that it depends little on the load of the machine. Bytes are the median size of the
attributes in OTLP.

    python benchmarks/diagnostics.py [--blocks 40]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import openai
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from _added_cpu import block
from _dropping import providers
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai.diagnostics.server_process import Server
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

CHUNKS = 500
# The first call after instrumenting does not count: it fills caches, and begins a conversation.
WARM_UP = 1
_SERVER = f"""
import http.server
CHOICE = b'{{"index":0,"delta":{{"content":"x"}}}}'
CHUNK = b'data: {{"object":"chat.completion.chunk","choices":[%b]}}\\n\\n' % CHOICE
REPLY = b'{{"object":"chat.completion","choices":[]}}'
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    def log_message(self, *_): pass
    def do_POST(self):
        is_stream = b'"stream":true' in self.rfile.read(int(self.headers["content-length"]))
        body = CHUNK * {CHUNKS} + b"data: [DONE]\\n\\n" if is_stream else REPLY
        kind = "text/event-stream" if is_stream else "application/json"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""
_random = random.Random(0)  # noqa: S311 - texts
_WORDS = ["".join(_random.choices("abcdefghij", k=_random.randint(2, 9))) for _ in range(5000)]


def text(chars: int) -> str:
    """Return a new text of this length."""
    words = _random.choices(_WORDS, k=chars // 3)
    return " ".join(words)[:chars]


def conversations(chars: int, turns: int) -> Iterator[list[dict[str, str]]]:
    """Yield the prompts of conversations of 2 * `turns` turns, as an agent sends them.

    The first prompt of each has half of the turns and nearly all of the characters. The `turns`
    prompts after it add a short turn each, up to `chars` characters.
    """
    while True:
        messages = [{"role": "system", "content": text(chars // 4)}]
        for turn in range(2 * turns + 1):
            size = chars * 11 // 16 // 2 // turns if turn < turns else chars // 32 // turns
            if turn >= turns:  # As parsed from JSON: other objects than in the call before.
                yield json.loads(json.dumps(messages))
            messages += [
                {"role": "assistant", "content": text(size)},
                {"role": "user", "content": text(size)},
            ]


def new_prompts(chars: int) -> Iterator[list[dict[str, str]]]:
    """Yield prompts that share nothing."""
    while True:
        yield [{"role": "system", "content": text(chars)}]


@contextmanager
def server() -> Iterator[str]:
    """Run the server and yield its origin."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def compare(
    call: Callable[[Any], object], prompts: Iterator[Any], times: int, blocks: int
) -> tuple[float, float, float]:
    """Return the CPU time without the plugin and with it, and what diagnostics add to a call."""
    sdk = providers()
    found: list[list[float]] = [[], [], []]
    for _ in range(blocks):
        kept = list(islice(prompts, WARM_UP + times))
        for index, config in enumerate((None, False, True)):
            if config is not None:
                options = LlamaTelemetryConfig(diagnostics=config)
                OpenAIInstrumentor().instrument(**sdk, config=options)
            took_us = [block(partial(call, prompt), 1) for prompt in kept]
            found[index] += took_us[WARM_UP:]
            if config is not None:
                OpenAIInstrumentor().uninstrument()
    for provider in sdk.values():
        provider.shutdown()
    bare, off, on = found
    added = statistics.median(one - other for one, other in zip(on, off, strict=True))
    return statistics.median(bare), statistics.median(off), added


def span_bytes(call: Callable[[Any], object], prompts: list[Any]) -> float:
    """Return the median of the bytes that diagnostics add to a span."""
    sizes: list[list[int]] = [[], []]
    for config in (False, True):
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        options = LlamaTelemetryConfig(diagnostics=config)
        OpenAIInstrumentor().instrument(tracer_provider=provider, config=options)
        for prompt in prompts:
            call(prompt)
        OpenAIInstrumentor().uninstrument()
        sizes[config] = [encode_spans([each]).ByteSize() for each in exporter.get_finished_spans()]
    return statistics.median(sizes[1]) - statistics.median(sizes[0])


def sampling_share(origin: str) -> float:
    """Return the share of a core that sampling of the server's processes takes."""
    sampled = Server(origin)
    sampled.sample(may_search=True)
    started = time.thread_time()
    for _ in range(400):  # ten seconds
        sampled._read(is_quick=False)
    for _ in range(10):
        sampled._search()
    share = (time.thread_time() - started) / 10
    sampled.close()
    return share


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the cost of the option diagnostics.")
    parser.add_argument("--blocks", type=int, default=40, help="Blocks of each case")
    blocks = parser.parse_args().blocks
    cases: list[tuple[str, Iterator[list[dict[str, str]]], bool, int]] = [
        ("16,000 characters, growing", conversations(16_000, 6), False, 6),
        ("16,000 characters, all new", new_prompts(16_000), False, 6),
        ("650,000 characters, growing", conversations(650_000, 6), False, 6),
        ("650,000 characters, all new", new_prompts(650_000), False, 2),
        (f"streamed chunk ({CHUNKS} a call)", new_prompts(20), True, 2),
    ]
    with server() as origin, openai.OpenAI(base_url=f"{origin}/v1", api_key="none") as client:
        print(f"{'':<32}{'bare':>10}{'off':>10}{'added':>10}{'bytes':>8}")
        for name, prompts, is_stream, times in cases:

            def call(messages: Any, is_stream: bool = is_stream) -> None:
                reply = client.chat.completions.create(
                    model="m", messages=messages, stream=is_stream
                )
                if is_stream:
                    for _ in reply:
                        pass

            call(next(prompts))
            bare, off, added = (
                each / (CHUNKS if is_stream else 1)
                for each in compare(call, prompts, times, blocks)
            )
            size = span_bytes(call, list(islice(prompts, 14)))
            print(f"{name:<32}{bare:>10.1f}{off:>10.1f}{added:>10.1f}{size:>8.0f}")
        print(f"sampling of the server's processes: {sampling_share(origin):.2%} of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
