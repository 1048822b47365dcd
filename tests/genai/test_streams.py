"""Streams that pass through a tap: however they end, their call ends once, with what came."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from llamatelemetry.genai import (
    AsyncStreamWrapper,
    Call,
    StreamObserver,
    StreamWrapper,
    internal_errors,
)
from tests.support.recorder import Recorder

ROLE: dict[str, Any] = {
    "id": "c-1",
    "model": "/models/smol.gguf",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}],
}
WORD: dict[str, Any] = {**ROLE, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
END: dict[str, Any] = {
    **ROLE,
    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
}
CHUNKS = [ROLE, WORD, WORD, END]
GAPS = "gen_ai.client.operation.time_per_output_chunk"
FIRST = "gen_ai.client.operation.time_to_first_chunk"


class BreakingError(Exception):
    """What the library raises in the middle of a stream."""


def chunks_then(error: BaseException | None = None, chunks: Any = CHUNKS) -> Iterator[Any]:
    yield from chunks
    if error is not None:
        raise error


async def async_chunks_then(
    error: BaseException | None = None, chunks: Any = CHUNKS
) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


class Harness:
    """A stream under test: a tap over a generator, plain or asynchronous, driven alike."""

    def __init__(self, call: Call, runner: asyncio.Runner | None) -> None:
        self.call = call
        self.runner = runner
        self.cleaned_up: list[str] = []
        self.watch = StreamObserver(call, on_end=lambda: self.cleaned_up.append("once"))

    def tap(self, error: BaseException | None = None, chunks: Any = CHUNKS) -> Any:
        if self.runner is not None:
            return AsyncStreamWrapper(async_chunks_then(error, chunks), self.watch)
        return StreamWrapper(chunks_then(error, chunks), self.watch)

    def take(self, tap: Any, number: int) -> list[Any]:
        """Read some chunks, to the end with a number that is large enough."""
        if self.runner is None:
            return list(itertools.islice(tap, number))

        async def read() -> list[Any]:
            found: list[Any] = []
            while len(found) < number:
                try:
                    found.append(await anext(tap))
                except StopAsyncIteration:
                    break
            return found

        return self.runner.run(read())


@pytest.fixture(params=["sync", "async"])
def harness(request, start) -> Iterator[Harness]:
    if request.param == "sync":
        yield Harness(start(stream=True), None)
    else:
        with asyncio.Runner() as runner:
            yield Harness(start(stream=True), runner)


def point_count(recorder: Recorder, name: str) -> int:
    return sum(point.count for point in recorder.points(name))


def read_whole(recorder: Recorder) -> dict[str, Any]:
    """The attributes of the call, less the measured ones."""
    found = dict(recorder.call().attributes)
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    return found


STARTED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "smol",
    "gen_ai.request.stream": True,
    "gen_ai.response.id": "c-1",
    "gen_ai.response.model": "smol.gguf",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
WHOLE = {
    **STARTED,
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 12,
    "gen_ai.usage.output_tokens": 3,
}


# --- how it may end ------------------------------------------------------------------------


def test_a_stream_that_is_read_to_its_end_gives_the_whole_reply(harness, recorder):
    tap = harness.tap()
    assert harness.take(tap, 99) == CHUNKS
    assert harness.watch.ended
    assert harness.cleaned_up == ["once"]
    assert read_whole(recorder) == WHOLE
    assert recorder.call().status.status_code is StatusCode.UNSET
    assert point_count(recorder, GAPS) == 3
    assert point_count(recorder, FIRST) == 1
    assert (recorder.tokens("input"), recorder.tokens("output")) == (12, 3)


def test_the_very_chunks_pass_through(harness):
    chunks = [object(), *CHUNKS]
    taken = harness.take(harness.tap(chunks=chunks), 99)
    assert all(passed is chunk for passed, chunk in zip(taken, chunks, strict=True))


def test_the_error_of_a_stream_passes_unchanged_and_ends_the_call(harness, recorder):
    error = BreakingError("secret")
    tap = harness.tap(error, CHUNKS[:2])
    with pytest.raises(BreakingError) as raised:
        harness.take(tap, 99)
    assert raised.value is error
    assert harness.cleaned_up == ["once"]
    assert read_whole(recorder) == {**STARTED, "error.type": f"{__name__}.BreakingError"}
    assert recorder.call().status.status_code is StatusCode.ERROR
    assert "secret" not in (recorder.call().status.description or "")
    assert point_count(recorder, GAPS) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_passes_and_ends_the_call(start, recorder, error):
    tap = Harness(start(stream=True), None).tap(error, CHUNKS[:1])
    with pytest.raises(type(error)):
        list(tap)
    assert recorder.call().attributes["error.type"] == type(error).__name__


def test_a_stream_that_ends_at_once_has_no_first_chunk(harness, recorder):
    assert harness.take(harness.tap(chunks=[]), 99) == []
    assert "gen_ai.response.time_to_first_chunk" not in recorder.call().attributes
    assert "gen_ai.ttft_ms" not in recorder.call().attributes
    assert set(recorder.metrics()) == {"gen_ai.client.operation.duration"}


def test_a_stream_that_is_closed_early_is_a_normal_end_with_what_had_come(harness, recorder):
    tap = harness.tap()
    harness.take(tap, 2)
    harness.watch.on_close()
    assert harness.cleaned_up == ["once"]
    assert read_whole(recorder) == STARTED
    assert recorder.call().status.status_code is StatusCode.UNSET
    del tap
    gc.collect()
    assert len(recorder.calls()) == 1


def test_a_stream_that_is_dropped_ends_at_the_time_of_its_last_chunk(harness, recorder):
    tap = harness.tap()
    harness.take(tap, 2)
    last_chunk_ns = time.time_ns()
    time.sleep(0.05)
    del tap
    gc.collect()
    span = recorder.call()
    assert read_whole(recorder) == STARTED
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time <= last_chunk_ns
    assert harness.cleaned_up == ["once"]
    assert point_count(recorder, "gen_ai.client.operation.duration") == 1


def test_a_stream_that_is_dropped_unread_ends_when_it_was_dropped(harness, recorder):
    tap = harness.tap()
    time.sleep(0.01)
    del tap
    gc.collect()
    dropped_ns = time.time_ns()
    time.sleep(0.02)
    span = recorder.call()
    assert span.start_time + 10_000_000 <= span.end_time <= dropped_ns


def test_a_stream_that_is_told_of_several_endings_ends_once(harness, recorder):
    tap = harness.tap()
    harness.take(tap, 99)
    harness.watch.on_error(BreakingError())
    harness.watch.on_close()
    harness.watch.on_abandon()
    harness.watch.finalize()
    assert harness.take(tap, 1) == []  # an exhausted iterator stays exhausted
    assert read_whole(recorder) == WHOLE
    assert harness.cleaned_up == ["once"]
    assert point_count(recorder, "gen_ai.client.operation.duration") == 1


def test_breaking_out_of_a_loop_and_reading_on_is_one_call(harness, recorder):
    tap = harness.tap()
    assert harness.take(tap, 1) == [ROLE]
    assert recorder.calls() == []
    assert harness.take(tap, 99) == CHUNKS[1:]
    assert read_whole(recorder) == WHOLE
    assert point_count(recorder, GAPS) == 3


# --- asynchronous endings ------------------------------------------------------------------


async def slow_chunks(first: list[Any]) -> AsyncIterator[Any]:
    for chunk in first:
        yield chunk
    await asyncio.sleep(60)


def test_a_cancelled_task_ends_the_call_with_what_had_come(start, recorder):
    async def read(tap: AsyncStreamWrapper) -> None:
        async for _ in tap:
            pass

    async def run() -> None:
        tap = AsyncStreamWrapper(slow_chunks([ROLE, WORD]), StreamObserver(start(stream=True)))
        task = asyncio.create_task(read(tap))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(run())
    assert read_whole(recorder) == {**STARTED, "error.type": "asyncio.exceptions.CancelledError"}


def test_a_timeout_while_waiting_for_a_chunk_is_the_applications_timeout(start, recorder):
    async def run() -> None:
        tap = AsyncStreamWrapper(slow_chunks([WORD]), StreamObserver(start(stream=True)))
        async with asyncio.timeout(0.02):
            async for _ in tap:
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert recorder.call().status.status_code is StatusCode.ERROR


class WaitsForever:
    """An asynchronous iterator that never has anything."""

    async def __anext__(self) -> Any:
        await _Suspend()


class _Suspend:
    def __await__(self) -> Iterator[None]:
        yield


def test_a_coroutine_that_is_destroyed_while_it_waits_is_an_abandoned_stream(
    start, recorder, caplog
):
    tap = AsyncStreamWrapper(WaitsForever(), StreamObserver(start(stream=True)))
    waiting = tap.__anext__()
    waiting.send(None)  # it waits now
    waiting.close()  # GeneratorExit, as from the garbage collector
    assert tap is not None  # it is the coroutine that was dropped
    assert recorder.call().status.status_code is StatusCode.UNSET
    assert caplog.records == []


# --- times ---------------------------------------------------------------------------------


def test_the_first_chunk_is_not_the_first_token(start, recorder):
    timings = {"prompt_n": 1, "prompt_ms": 1.0, "predicted_n": 2, "predicted_ms": 1.0}

    def chunks() -> Iterator[Any]:
        yield ROLE
        time.sleep(0.03)
        yield {**ROLE, "choices": [{"index": 0, "delta": {"reasoning_content": "Well"}}]}
        time.sleep(0.03)
        yield {**END, "timings": timings}

    list(StreamWrapper(chunks(), StreamObserver(start(stream=True))))
    attributes = recorder.call().attributes
    first_chunk_s = attributes["gen_ai.response.time_to_first_chunk"]
    first_token_s = attributes["gen_ai.ttft_ms"] / 1000
    duration_s = recorder.points("gen_ai.client.operation.duration")[0].sum
    assert first_chunk_s + 0.03 <= first_token_s <= duration_s - 0.03
    assert recorder.points(FIRST)[0].sum == first_chunk_s


def test_one_gap_is_recorded_per_chunk_after_the_first(start, recorder):
    def chunks() -> Iterator[Any]:
        for _ in range(4):
            time.sleep(0.01)
            yield WORD

    list(StreamWrapper(chunks(), StreamObserver(start(stream=True))))
    (point,) = recorder.points(GAPS)
    assert point.count == 3
    assert point.min >= 0.01
    assert dict(point.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "smol",
        "gen_ai.response.model": "smol.gguf",
        "server.address": "127.0.0.1",
        "server.port": 8080,
    }


def test_the_gaps_of_a_stream_whose_first_chunk_is_empty_still_name_the_model(start, recorder):
    chunks = [{"id": "", "model": "", "choices": []}, WORD, END]
    list(StreamWrapper(iter(chunks), StreamObserver(start(stream=True))))
    (point,) = recorder.points(GAPS)
    assert point.attributes["gen_ai.response.model"] == "smol.gguf"


# --- failures of ours ----------------------------------------------------------------------


def test_a_chunk_that_cannot_be_read_reaches_the_application_all_the_same(
    harness, recorder, monkeypatch, caplog
):
    internal_errors.set_strict(False)
    caplog.set_level(logging.DEBUG, logger="llamatelemetry")

    def broken(_self: Any, _chunk: Any) -> bool:
        raise ValueError("ours")

    monkeypatch.setattr("llamatelemetry.genai.streams.accumulators.ChatAccumulator.add", broken)
    assert harness.take(harness.tap(), 99) == CHUNKS
    assert recorder.call().status.status_code is StatusCode.UNSET
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING] + [logging.DEBUG] * (len(CHUNKS) - 1)


def test_a_clean_up_that_fails_does_not_reach_the_application(harness, recorder, caplog):
    internal_errors.set_strict(False)

    def broken() -> None:
        raise ValueError("ours")

    harness.watch = StreamObserver(harness.call, on_end=broken)
    assert harness.take(harness.tap(), 99) == CHUNKS
    assert len(recorder.calls()) == 1
    assert len(caplog.records) == 1
