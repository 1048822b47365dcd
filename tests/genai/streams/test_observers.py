"""Observation of streams: their call ends once for every way of ending, with the chunks so far."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from llamatelemetry.genai import (
    AsyncStreamWrapper,
    Call,
    Content,
    StreamObserver,
    StreamWrapper,
    internal_errors,
)
from llamatelemetry.semconv.operations import FETCH_RESPONSE
from tests.genai.conftest import DURATION, chat
from tests.support.recorder import Recorder

ROLE: dict[str, Any] = {
    "id": "c-1",
    "model": "/models/smol.gguf",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}],
}
TOKEN: dict[str, Any] = {**ROLE, "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
FINAL: dict[str, Any] = {
    **ROLE,
    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
}
CHUNKS = [ROLE, TOKEN, TOKEN, FINAL]
CHUNK_INTERVALS = "gen_ai.client.operation.time_per_output_chunk"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"


class StreamError(Exception):
    """An error that the client library raises while a stream is read."""


def chunks_then_error(error: BaseException | None = None, chunks: Any = CHUNKS) -> Iterator[Any]:
    yield from chunks
    if error is not None:
        raise error


async def async_chunks_then_error(
    error: BaseException | None = None, chunks: Any = CHUNKS
) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


class StreamHarness:
    """A wrapped synchronous or asynchronous stream, read through the same methods."""

    def __init__(self, call: Call, runner: asyncio.Runner | None) -> None:
        self.call = call
        self.runner = runner
        self.ended_callbacks: list[str] = []
        self.observer = StreamObserver(call, on_end=lambda: self.ended_callbacks.append("on_end"))

    def wrap(self, error: BaseException | None = None, chunks: Any = CHUNKS) -> Any:
        if self.runner is not None:
            return AsyncStreamWrapper(async_chunks_then_error(error, chunks), self.observer)
        return StreamWrapper(chunks_then_error(error, chunks), self.observer)

    def read_chunks(self, wrapper: Any, number: int) -> list[Any]:
        """Read at most `number` chunks."""
        if self.runner is None:
            return list(itertools.islice(wrapper, number))

        async def read() -> list[Any]:
            found: list[Any] = []
            while len(found) < number:
                try:
                    found.append(await anext(wrapper))
                except StopAsyncIteration:
                    break
            return found

        return self.runner.run(read())


@pytest.fixture(params=["sync", "async"])
def harness(request, start) -> Iterator[StreamHarness]:
    if request.param == "sync":
        yield StreamHarness(start(stream=True), None)
    else:
        with asyncio.Runner() as runner:
            yield StreamHarness(start(stream=True), runner)


def point_count(recorder: Recorder, name: str) -> int:
    return sum(point.count for point in recorder.points(name))


def attributes_without_times(recorder: Recorder) -> dict[str, Any]:
    """Return the attributes of the call without measured times."""
    found = dict(recorder.call().attributes)
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    return found


INCOMPLETE = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "smol",
    "gen_ai.request.stream": True,
    "gen_ai.response.id": "c-1",
    "gen_ai.response.model": "smol.gguf",
    "server.address": "127.0.0.1",
    "server.port": 8080,
}
COMPLETE = {
    **INCOMPLETE,
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 12,
    "gen_ai.usage.output_tokens": 3,
}


def test_exhausted_stream_records_complete_response(harness, recorder):
    wrapper = harness.wrap()
    assert harness.read_chunks(wrapper, 99) == CHUNKS
    assert harness.observer.ended
    assert harness.ended_callbacks == ["on_end"]
    assert attributes_without_times(recorder) == COMPLETE
    assert recorder.call().status.status_code is StatusCode.UNSET
    assert point_count(recorder, CHUNK_INTERVALS) == 3
    assert point_count(recorder, FIRST_CHUNK) == 1
    assert (recorder.tokens("input"), recorder.tokens("output")) == (12, 3)


def test_wrapper_returns_same_chunk_objects(harness):
    chunks = [object(), *CHUNKS]
    passed_chunks = harness.read_chunks(harness.wrap(chunks=chunks), 99)
    assert all(passed is chunk for passed, chunk in zip(passed_chunks, chunks, strict=True))


def test_error_of_stream_is_raised_unchanged_and_ends_call(harness, recorder):
    error = StreamError("secret")
    wrapper = harness.wrap(error, CHUNKS[:2])
    with pytest.raises(StreamError) as raised:
        harness.read_chunks(wrapper, 99)
    assert raised.value is error
    assert harness.ended_callbacks == ["on_end"]
    assert attributes_without_times(recorder) == {
        **INCOMPLETE,
        "error.type": f"{__name__}.StreamError",
    }
    assert recorder.call().status.status_code is StatusCode.ERROR
    assert "secret" not in (recorder.call().status.description or "")
    assert point_count(recorder, CHUNK_INTERVALS) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_interrupt_is_raised_and_ends_call(start, recorder, error):
    wrapper = StreamHarness(start(stream=True), None).wrap(error, CHUNKS[:1])
    with pytest.raises(type(error)):
        list(wrapper)
    assert recorder.call().attributes["error.type"] == type(error).__name__


def test_empty_stream_has_no_time_to_first_chunk(harness, recorder):
    assert harness.read_chunks(harness.wrap(chunks=[]), 99) == []
    assert "gen_ai.response.time_to_first_chunk" not in recorder.call().attributes
    assert "gen_ai.ttft_ms" not in recorder.call().attributes
    assert set(recorder.metrics()) == {DURATION}


def test_stream_closed_early_succeeds_with_partial_response(harness, recorder):
    wrapper = harness.wrap()
    harness.read_chunks(wrapper, 2)
    harness.observer.on_close()
    assert harness.ended_callbacks == ["on_end"]
    assert attributes_without_times(recorder) == INCOMPLETE
    assert recorder.call().status.status_code is StatusCode.UNSET
    del wrapper
    gc.collect()
    assert len(recorder.calls()) == 1


def test_abandoned_stream_ends_at_time_of_last_chunk(harness, recorder):
    wrapper = harness.wrap()
    harness.read_chunks(wrapper, 2)
    last_chunk_ns = time.time_ns()
    time.sleep(0.05)
    del wrapper
    gc.collect()
    span = recorder.call()
    assert attributes_without_times(recorder) == INCOMPLETE
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time <= last_chunk_ns
    assert harness.ended_callbacks == ["on_end"]
    assert point_count(recorder, DURATION) == 1


def test_stream_abandoned_before_first_chunk_ends_at_that_time(harness, recorder):
    wrapper = harness.wrap()
    time.sleep(0.01)
    del wrapper
    gc.collect()
    abandoned_ns = time.time_ns()
    time.sleep(0.02)
    span = recorder.call()
    assert span.start_time + 10_000_000 <= span.end_time <= abandoned_ns


def test_stream_ends_once_when_several_endings_are_reported(harness, recorder):
    wrapper = harness.wrap()
    harness.read_chunks(wrapper, 99)
    harness.observer.on_error(StreamError())
    harness.observer.on_close()
    harness.observer.on_abandon()
    harness.observer.finalize()
    assert harness.read_chunks(wrapper, 1) == []  # An exhausted iterator stays exhausted.
    assert attributes_without_times(recorder) == COMPLETE
    assert harness.ended_callbacks == ["on_end"]
    assert point_count(recorder, DURATION) == 1


def test_stream_read_in_two_loops_records_one_call(harness, recorder):
    wrapper = harness.wrap()
    assert harness.read_chunks(wrapper, 1) == [ROLE]
    assert recorder.calls() == []
    assert harness.read_chunks(wrapper, 99) == CHUNKS[1:]
    assert attributes_without_times(recorder) == COMPLETE
    assert point_count(recorder, CHUNK_INTERVALS) == 3


def test_cancelled_task_ends_call_with_partial_response(start, recorder):
    async def run() -> None:
        is_waiting = asyncio.Event()

        async def chunks_then_wait() -> AsyncIterator[Any]:
            yield ROLE
            yield TOKEN
            is_waiting.set()
            await asyncio.Event().wait()

        async def read() -> None:
            async for _ in AsyncStreamWrapper(
                chunks_then_wait(), StreamObserver(start(stream=True))
            ):
                pass

        task = asyncio.create_task(read())
        await is_waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(run())
    assert attributes_without_times(recorder) == {
        **INCOMPLETE,
        "error.type": "asyncio.exceptions.CancelledError",
    }


def test_timeout_of_application_is_raised_and_ends_call(start, recorder):
    async def token_then_wait() -> AsyncIterator[Any]:
        yield TOKEN
        await asyncio.Event().wait()

    async def run() -> None:
        wrapper = AsyncStreamWrapper(token_then_wait(), StreamObserver(start(stream=True)))
        async with asyncio.timeout(0.02):
            async for _ in wrapper:
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert recorder.call().status.status_code is StatusCode.ERROR


class NeverReturns:
    """An asynchronous iterator that never returns a chunk."""

    async def __anext__(self) -> Any:
        await _Suspend()


class _Suspend:
    def __await__(self) -> Iterator[None]:
        yield


def test_stream_is_abandoned_when_waiting_coroutine_is_closed(start, recorder, caplog):
    wrapper = AsyncStreamWrapper(NeverReturns(), StreamObserver(start(stream=True)))
    waiting = wrapper.__anext__()
    waiting.send(None)  # The coroutine waits for a chunk.
    waiting.close()  # Raises GeneratorExit in the coroutine, as garbage collection does.
    assert wrapper is not None  # Only the coroutine was closed.
    assert recorder.call().status.status_code is StatusCode.UNSET
    assert caplog.records == []


def test_time_to_first_chunk_and_to_first_token_are_measured_separately(start, recorder):
    timings = {"prompt_n": 1, "prompt_ms": 1.0, "predicted_n": 2, "predicted_ms": 1.0}

    def chunks() -> Iterator[Any]:
        yield ROLE
        time.sleep(0.03)
        yield {**ROLE, "choices": [{"index": 0, "delta": {"reasoning_content": "Well"}}]}
        time.sleep(0.03)
        yield {**FINAL, "timings": timings}

    list(StreamWrapper(chunks(), StreamObserver(start(stream=True))))
    attributes = recorder.call().attributes
    first_chunk_s = attributes["gen_ai.response.time_to_first_chunk"]
    first_token_s = attributes["gen_ai.ttft_ms"] / 1000
    duration_s = recorder.points(DURATION)[0].sum
    assert first_chunk_s + 0.03 <= first_token_s <= duration_s - 0.03
    assert recorder.points(FIRST_CHUNK)[0].sum == first_chunk_s


def test_each_chunk_after_first_records_one_interval(start, recorder):
    def chunks() -> Iterator[Any]:
        for _ in range(4):
            time.sleep(0.01)
            yield TOKEN

    list(StreamWrapper(chunks(), StreamObserver(start(stream=True))))
    (point,) = recorder.points(CHUNK_INTERVALS)
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


def test_intervals_have_response_model_when_first_chunk_has_none(start, recorder):
    chunks = [{"id": "", "model": "", "choices": []}, TOKEN, FINAL]
    list(StreamWrapper(iter(chunks), StreamObserver(start(stream=True))))
    (point,) = recorder.points(CHUNK_INTERVALS)
    assert point.attributes["gen_ai.response.model"] == "smol.gguf"


@pytest.mark.parametrize("operation", [None, FETCH_RESPONSE])
def test_stream_that_does_not_show_the_speed_of_a_model_has_no_times_of_chunks(
    start, recorder, operation
):
    call = start(stream=True, operation=operation)
    list(StreamWrapper(iter(CHUNKS), StreamObserver(call)))
    assert not {CHUNK_INTERVALS, FIRST_CHUNK} & set(recorder.metrics())
    assert "gen_ai.response.time_to_first_chunk" not in recorder.call().attributes


def test_stream_has_content_up_to_the_limit(make_instrumenter, recorder):
    instrumenter = make_instrumenter(capture_content="span_only", content_max_chars=3)
    call = instrumenter.start(chat(stream=True, read_content=Content))
    list(StreamWrapper(iter(CHUNKS), StreamObserver(call)))
    (message,) = json.loads(recorder.call().attributes["gen_ai.output.messages"])
    assert message["parts"] == [
        {"type": "text", "content": "Hi…", "truncated": True, "original_chars": 4}
    ]


class FailingAccumulator:
    model = None

    def add(self, _chunk: Any) -> bool:
        return False

    def response(self) -> Any:
        raise ValueError("internal")


def test_failing_accumulator_costs_only_the_response(harness, recorder, caplog):
    internal_errors.set_strict(False)
    harness.observer = StreamObserver(harness.call, FailingAccumulator())
    assert harness.read_chunks(harness.wrap(), 99) == CHUNKS
    assert "gen_ai.response.id" not in attributes_without_times(recorder)
    assert point_count(recorder, CHUNK_INTERVALS) == len(CHUNKS) - 1
    assert "failed while building the response of a stream (ValueError at" in caplog.text


def test_chunk_reaches_application_when_accumulator_fails(harness, recorder, monkeypatch, caplog):
    internal_errors.set_strict(False)
    caplog.set_level(logging.DEBUG, logger="llamatelemetry")

    def fail(_self: Any, _chunk: Any) -> bool:
        raise ValueError("internal")

    monkeypatch.setattr("llamatelemetry.genai.streams.accumulators.ChatAccumulator.add", fail)
    assert harness.read_chunks(harness.wrap(), 99) == CHUNKS
    assert recorder.call().status.status_code is StatusCode.UNSET
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.WARNING] + [logging.DEBUG] * (len(CHUNKS) - 1)


def test_error_of_end_callback_is_logged_and_not_raised(harness, recorder, caplog):
    internal_errors.set_strict(False)

    def fail() -> None:
        raise ValueError("internal")

    harness.observer = StreamObserver(harness.call, on_end=fail)
    assert harness.read_chunks(harness.wrap(), 99) == CHUNKS
    assert len(recorder.calls()) == 1
    assert len(caplog.records) == 1
