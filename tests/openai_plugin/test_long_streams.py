"""The memory and CPU time that the plugin adds to a stream of 10,000 chunks."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Any

import pytest

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import StreamWrapper
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder

CHUNKS = 10_000
CHUNK = payloads.sse([payloads.chunk({"content": "a word or two"})], done=False)
END = payloads.sse([payloads.chunk({}, "stop", usage=payloads.USAGE)])


class Endless(payloads.http.SyncByteStream):
    """A body that is generated while it is read."""

    def __iter__(self) -> Any:
        for _ in range(CHUNKS - 1):
            yield CHUNK
        yield END


def open_stream() -> Any:
    client = payloads.client(
        lambda _: payloads.http.Response(
            200, stream=Endless(), headers={"content-type": "text/event-stream"}
        )
    )
    return client.chat.completions.create(model="smol", messages=payloads.MESSAGES, stream=True)


def memory_of_reading() -> tuple[int, int]:
    """Return the bytes allocated since the 100th item: before the last item, and at the peak."""
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
def test_memory_is_independent_of_stream_length(
    recorder: Recorder, capture: str, of_content: int
) -> None:
    """The library alone holds about 6 kB at the end and at most 40 kB."""
    config = LlamaTelemetryConfig(capture_content=capture)
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        # The best of three runs, because tracemalloc also counts what other threads allocate.
        held, most = map(min, zip(*(memory_of_reading() for _ in range(3)), strict=True))
    finally:
        OpenAIInstrumentor().uninstrument()
    assert len(recorder.calls()) == 3
    assert held < of_content + 50_000  # 5 bytes per chunk.
    assert most < of_content + 500_000  # The span, the metrics and their export.


def own_cpu_of_each_item() -> list[float]:
    """Return the CPU milliseconds of this thread that each `next` adds to the library's own."""
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
    wrapper = stream._iterator
    assert type(wrapper) is StreamWrapper
    wrapper._next = timed(wrapper._next)
    own: list[float] = []
    for _ in range(CHUNKS + 1):  # One more for the end of the stream.
        started = time.thread_time_ns()
        next(stream, None)
        own.append((time.thread_time_ns() - started - inner_ns) / 1e6)
    return own


def test_instrumentation_does_not_stall_stream_items(recorder: Recorder) -> None:
    """`benchmarks/` has the measured costs. This bound is far above them."""
    OpenAIInstrumentor().instrument(**recorder.providers)
    gc.disable()
    try:
        # The better of two runs, because other processes may slow one of them down.
        stalls = [max(own_cpu_of_each_item()[-100:]) for _ in range(2)]
    finally:
        gc.enable()
        OpenAIInstrumentor().uninstrument()
    assert min(stalls) < 5
