"""What the OpenAI plugin adds to each item of a 10,000-chunk stream, and to its memory.

Per ``next`` the CPU time of this thread less what the library's own iterator takes: the median,
the 99th percentile, the slowest, and the end, where the span and the last metric points are
recorded. A mean would hide a stall. Spans and metrics are on, the batch processor drops what it
gets. Memory is what is held before the last item, and the most there was on the way, with the
plugin and without. ``make bench`` runs it; on a busy machine the slowest item says little.
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
    """The stream, which is never in memory as a whole."""

    def __iter__(self) -> Iterator[bytes]:
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        line = f"data: {json.dumps(head | {'choices': [choice]})}\n\n".encode()
        for _ in range(CHUNKS):
            yield line
        yield b"data: [DONE]\n\n"


def open_stream() -> Any:
    """Ask for a stream of an in-process server."""
    headers = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=Body(), headers=headers))
    http = httpx2.Client(transport=transport)
    client = openai.OpenAI(base_url="http://llm.test/v1", api_key="none", http_client=http)
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    return client.chat.completions.create(model="m", messages=messages, stream=True)


def own_us() -> list[float]:
    """Microseconds that each item, and the end, take beyond the library's own iterator."""
    stream, inner_ns, own = open_stream(), 0, []
    original = stream._iterator._next  # where the plugin calls the library

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
    """Bytes held before the last item, and the most there was, since the 100th."""
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
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, most


def main() -> int:
    """Print the figures; 1 when an item near the end stalls for more than 5 ms."""
    bare_held, bare_most = memory()
    OpenAIInstrumentor().instrument(**providers())
    own_us()
    gc.disable()  # a collection is paid by whoever is there when it is due
    runs = [own_us() for _ in range(RUNS)]
    gc.enable()
    held, most = memory()
    OpenAIInstrumentor().uninstrument()

    last = [max(run[-100:]) for run in runs]
    figures = {
        "median item": [statistics.median(run) for run in runs],
        "99th percentile": [statistics.quantiles(run, n=100)[-1] for run in runs],
        "slowest item": [max(run) for run in runs],
        "slowest of the last 100": last,
        "the end": [run[-1] for run in runs],
    }
    print(f"{'added CPU, us':<28}{'median of runs':>15}{'best':>10}{'worst':>10}")
    for name, values in figures.items():
        shown = (statistics.median(values), min(values), max(values))
        print(f"{name:<28}{shown[0]:>15.1f}{shown[1]:>10.1f}{shown[2]:>10.1f}")
    print(f"\n{'memory, kB':<28}{'without':>15}{'with':>10}")
    print(f"{'held before the last item':<28}{bare_held / 1000:>15.1f}{held / 1000:>10.1f}")
    print(f"{'most on the way':<28}{bare_most / 1000:>15.1f}{most / 1000:>10.1f}")
    return 0 if min(last) < BOUND_US else 1


if __name__ == "__main__":
    sys.exit(main())
