"""CPU time and memory that the OpenAI plugin adds to each chunk of a 10,000-chunk stream.

The CPU time of a chunk is that of this thread in `next()`, without the library's own iterator. The
table shows the median, the 99th percentile, the slowest chunk, and the end of the stream, where the
span is recorded; a mean would hide a stall. Spans and metrics are on, and exports are dropped. The
memory is that before the last chunk, and the peak, with and without the plugin. Run it on an idle
machine: `make bench`.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx2
import openai

from _dropping import providers
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

CHUNKS = 10_000
RUNS = 5
BOUND_US = 5_000


class Body(httpx2.SyncByteStream):
    """A stream that is generated chunk by chunk."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks."""
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        line = f"data: {json.dumps(head | {'choices': [choice]})}\n\n".encode()
        for _ in range(CHUNKS):
            yield line
        yield b"data: [DONE]\n\n"


def open_stream() -> Any:
    """Open a stream of an in-process mock transport."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Body(), headers=headers))
    http = httpx2.Client(transport=transport)
    client = openai.OpenAI(base_url="http://llm.test/v1", api_key="none", http_client=http)
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    return client.chat.completions.create(model="m", messages=messages, stream=True)


def own_us() -> list[float]:
    """Return the added CPU time of each chunk and of the end, in microseconds."""
    stream, inner_ns, own = open_stream(), 0, []
    original = stream._iterator._next  # The plugin calls the library here.

    def timed() -> Any:
        nonlocal inner_ns
        started = time.thread_time_ns()
        try:
            return original()
        finally:
            inner_ns = time.thread_time_ns() - started

    stream._iterator._next = timed
    for _ in range(CHUNKS + 1):
        started = time.thread_time_ns()
        next(stream, None)
        own.append((time.thread_time_ns() - started - inner_ns) / 1000)
    return own


def memory() -> tuple[int, int]:
    """Return the memory before the last chunk and the peak since the 100th chunk, in bytes."""
    stream = open_stream()
    for _ in range(100):
        next(stream)
    gc.collect()
    tracemalloc.start()
    for _ in range(CHUNKS - 101):
        next(stream)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    list(stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, peak


def main() -> int:
    """Print the results. Return 1 if a chunk near the end takes more than 5 ms."""
    bare_held, bare_peak = memory()
    OpenAIInstrumentor().instrument(**providers())
    own_us()
    gc.disable()  # A garbage collection would count for the chunk during which it runs.
    runs = [own_us() for _ in range(RUNS)]
    gc.enable()
    held, peak = memory()
    OpenAIInstrumentor().uninstrument()

    last = [max(run[-100:]) for run in runs]
    figures = {
        "median chunk": [statistics.median(run) for run in runs],
        "99th percentile": [statistics.quantiles(run, n=100)[-1] for run in runs],
        "slowest chunk": [max(run) for run in runs],
        "slowest of the last 100": last,
        "end of the stream": [run[-1] for run in runs],
    }
    print(f"{'added CPU, us':<28}{'median of runs':>15}{'best':>10}{'worst':>10}")
    for name, values in figures.items():
        shown = (statistics.median(values), min(values), max(values))
        print(f"{name:<28}{shown[0]:>15.1f}{shown[1]:>10.1f}{shown[2]:>10.1f}")
    print(f"\n{'memory, kB':<28}{'without':>15}{'with':>10}")
    print(f"{'before the last chunk':<28}{bare_held / 1000:>15.1f}{held / 1000:>10.1f}")
    print(f"{'peak':<28}{bare_peak / 1000:>15.1f}{peak / 1000:>10.1f}")
    return 0 if min(last) < BOUND_US else 1


if __name__ == "__main__":
    sys.exit(main())
