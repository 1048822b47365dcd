"""CPU time that an instrumentor adds to a function, on the thread that calls it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def block(work: Callable[[], object], times: int) -> float:
    """Return the CPU time of this thread per call of `work`, in microseconds."""
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
    """Return the bare CPU time and the added one, as medians over alternating blocks."""
    bare: list[float] = []
    added: list[float] = []
    for _ in range(blocks):
        without = block(work, times)
        instrumentor.instrument(**providers)
        instrumented = block(work, times)
        instrumentor.uninstrument()
        bare.append(without)
        added.append(instrumented - without)
    return statistics.median(bare), statistics.median(added)
