"""A stream of 10,000 chunks: what the plugin adds to its memory, and to the time of its last items."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import StreamWrapper
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.openai_plugin import replies
from tests.recorder import Recorder

CHUNKS = 10_000
CHUNK = replies.sse([replies.chunk({"content": "a word or two"})], done=False)
END = replies.sse([replies.chunk({}, "stop", usage=replies.USAGE)])


class Endless(replies.http.SyncByteStream):
    """A body that is never in memory as a whole."""

    def __iter__(self) -> Any:
        for _ in range(CHUNKS - 1):
            yield CHUNK
        yield END


def open_stream() -> Any:
    client = replies.client(
        lambda _: replies.http.Response(
            200, stream=Endless(), headers={"content-type": "text/event-stream"}
        )
    )
    return client.chat.completions.create(model="smol", messages=replies.MESSAGES, stream=True)


def memory_of_reading() -> tuple[int, int]:
    """Bytes that are still held before the last item, and the most there ever were, since the 100th."""
    stream = open_stream()
    for _ in range(100):
        next(stream)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(CHUNKS - 101):
            next(stream)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        assert len(list(stream)) == 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held, most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capture", "of_content"),
    [("no_content", 0), ("span_only", 150_000)],
)
def test_memory_does_not_grow_with_the_stream(
    recorder: Recorder, capture: str, of_content: int
) -> None:
    """The library by itself holds some 6 kB at the end, and never more than 40."""
    config = LlamaTelemetryConfig(capture_content=capture)
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        held, most = memory_of_reading()
    finally:
        OpenAIInstrumentor().uninstrument()
    recorder.call()
    assert held < of_content + 50_000  # 5 bytes a chunk
    assert most < of_content + 500_000  # span, metrics and their export


def own_cpu_of_each_item() -> list[float]:
    """Milliseconds of this thread's CPU that each `next` takes beyond the library's own."""
    inner_ns = 0

    def timed(original: Any) -> Any:
        def measure() -> Any:
            nonlocal inner_ns
            started = time.thread_time_ns()
            try:
                return original()
            finally:
                inner_ns = time.thread_time_ns() - started

        return measure

    stream = open_stream()
    tap = stream._iterator
    assert type(tap) is StreamWrapper
    tap._next = timed(tap._next)
    own: list[float] = []
    for _ in range(CHUNKS + 1):  # and the end
        started = time.thread_time_ns()
        next(stream, None)
        own.append((time.thread_time_ns() - started - inner_ns) / 1e6)
    return own


def test_no_item_stalls_because_of_us(recorder: Recorder) -> None:
    """The figures are in `benchmarks/`; this is the bound that no machine should come near."""
    OpenAIInstrumentor().instrument(**recorder.providers)
    gc.disable()
    try:
        # The better of two: what the machine does beside it is not ours.
        stalls = [max(own_cpu_of_each_item()[-100:]) for _ in range(2)]
    finally:
        gc.enable()
        OpenAIInstrumentor().uninstrument()
    assert min(stalls) < 5
