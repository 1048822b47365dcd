"""Blocks of the event loop during asynchronous calls."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import Any

import pytest

from llamatelemetry.genai.diagnostics import loop_blocks
from llamatelemetry.genai.diagnostics.loop_blocks import LoopMonitor, watch_loop
from tests.support.diagnostics import found
from tests.support.recorder import Recorder
from tests.support.scripted_stream import (
    Script,
    llama_call_async,
    openai_call,
    openai_call_async,
    scripted_server,
)

BLOCK_S = 0.1


@pytest.mark.parametrize("caller", [openai_call_async, llama_call_async])
def test_block_of_the_loop_is_recorded_with_its_place_in_the_call(diagnosed: Recorder, caller: Any):
    with scripted_server(Script()) as origin:
        caller(origin, lambda: time.sleep(BLOCK_S))
    span = diagnosed.call()
    (found_blocks,) = found(diagnosed, "loop")
    times_s = found_blocks["blocked"]
    assert list(times_s) == sorted(times_s)
    assert times_s[-1] <= (span.end_time - span.start_time) / 1e9 + 0.001
    longest_s = max(times_s[i + 1] - times_s[i] for i in range(0, len(times_s), 2))
    assert longest_s >= BLOCK_S - 0.011


def test_synchronous_call_has_no_blocks(diagnosed: Recorder):
    with scripted_server(Script()) as origin:
        openai_call(origin, lambda: time.sleep(BLOCK_S))
    assert found(diagnosed, "loop") == [{}]


def test_synchronous_call_inside_a_loop_does_not_watch_it(diagnosed: Recorder):
    async def run(origin: str) -> None:
        openai_call(origin)

    with scripted_server(Script()) as origin:
        asyncio.run(run(origin))
    assert found(diagnosed, "loop") == [{}]


class Call:
    """Anything that can be referred to weakly."""


def timers_of(loop: Any) -> list[Any]:
    return [handle for handle in loop._scheduled if not handle.cancelled()]


def test_timer_ends_with_the_last_call_and_leaves_no_task():
    async def run() -> None:
        loop, call = asyncio.get_running_loop(), Call()
        monitor = watch_loop(call)
        assert isinstance(monitor, LoopMonitor)
        assert watch_loop(Call()) is monitor
        assert len(asyncio.all_tasks()) == 1
        assert len(timers_of(loop)) == 1
        await asyncio.sleep(0.03)
        assert len(timers_of(loop)) == 1
        del call  # Like a call that was dropped without an end.
        gc.collect()
        while monitor._due_ns is not None:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
        assert timers_of(loop) == []

    asyncio.run(run())


def test_loop_that_closes_during_a_call_is_released():
    call = Call()
    loops: list[weakref.ref[Any]] = []

    async def run() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        watch_loop(call)

    asyncio.run(run())
    gc.collect()
    assert loops[0]() is None
    assert not [loop for loop in loop_blocks._monitors if loop.is_closed()]


def test_timer_does_not_keep_the_context_of_the_call_alive():
    async def run() -> None:
        monitor = watch_loop(call)
        assert monitor is not None
        assert len(monitor._context) == 0

    call = Call()
    asyncio.run(run())


def test_loops_of_several_threads_are_watched_independently():
    failures: list[BaseException] = []

    async def run(block_s: float) -> list[tuple[int, int]]:
        call, started_ns = Call(), time.perf_counter_ns()
        monitor = watch_loop(call)
        assert monitor is not None
        await asyncio.sleep(0.02)
        time.sleep(block_s)  # noqa: ASYNC251 - blocks the loop
        await asyncio.sleep(0.02)
        return monitor.blocks_between(started_ns, time.perf_counter_ns())

    def work(block_s: float) -> None:
        try:
            blocks = asyncio.run(run(block_s))
            assert (max((end - start for start, end in blocks), default=0) >= 80_000_000) or (
                block_s < 0.1
            )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(block_s,)) for block_s in (0.1, 0.0, 0.1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_blocks_are_cut_to_the_call_and_the_longest_are_kept():
    monitor = LoopMonitor()
    monitor._blocks.extend((number * 100, number * 100 + number) for number in range(1, 40))
    blocks = monitor.blocks_between(150, 3910)
    assert len(blocks) == 16
    assert blocks[0] == (2300, 2323)
    assert blocks[-1] == (3800, 3838)
    assert monitor.blocks_between(3910, 5000) == [(3910, 3939)]
