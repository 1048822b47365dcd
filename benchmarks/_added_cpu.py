"""The CPU that an instrumentor adds to a piece of work, on the thread that does it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def block(work: Callable[[], object], times: int) -> float:
    """Microseconds of this thread's CPU per run of `work`."""
    started = time.thread_time_ns()
    for _ in range(times):
        work()
    return (time.thread_time_ns() - started) / times / 1000


def compare(
    instrumentor: Any,
    providers: dict[str, Any],
    work: Callable[[], object],
    *,
    times: int,
    blocks: int,
) -> tuple[float, float]:
    """The bare cost and what instrumentation adds, as medians over alternating blocks."""
    bare: list[float] = []
    added: list[float] = []
    for _ in range(blocks):
        without = block(work, times)
        instrumentor.instrument(**providers)
        with_us = block(work, times)
        instrumentor.uninstrument()
        bare.append(without)
        added.append(with_us - without)
    return statistics.median(bare), statistics.median(added)
