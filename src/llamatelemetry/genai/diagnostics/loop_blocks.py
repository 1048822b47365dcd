"""Times in which an event loop of asyncio was blocked while asynchronous calls were open.

A timer of the loop is due every 10 ms. If it runs late, other code has kept the loop busy. It needs
neither a thread nor a task. The timer is not set again once no call is open, and a loop that closes
discards it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from contextvars import Context
from time import perf_counter_ns
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from llamatelemetry._limits import Limit

LATE_NS: Final = 15_000_000
"""Delay of the timer that is recorded, in nanoseconds."""

_TICK_S: Final = 0.01
_TICK_NS: Final = round(_TICK_S * 1e9)
_BLOCKS: Final = Limit("loop_blocks", 256, "Blocks of an event loop")
_MOST_BLOCKS_OF_A_CALL: Final = 16


class LoopMonitor:
    """The newest blocks of one loop.

    Attributes:
        calls: Open calls, which the timer is set for.
    """

    __slots__ = ("_blocks", "_context", "_due_ns", "calls")

    def __init__(self) -> None:
        self.calls: WeakSet[Any] = WeakSet()
        self._blocks: deque[tuple[int, int]] = deque(maxlen=_BLOCKS.most)
        self._due_ns: int | None = None
        # Not that of the call, which the timer would keep alive.
        self._context = Context()

    def watch(self, loop: asyncio.AbstractEventLoop, call: Any) -> None:
        """Measure until the call ends. Call this in the thread of the loop."""
        self.calls.add(call)
        if self._due_ns is None:
            self._set_timer(loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_ns = perf_counter_ns() + _TICK_NS
        loop.call_later(_TICK_S, self._on_timer, context=self._context)

    def _on_timer(self) -> None:
        for block in self._current_block():
            _BLOCKS.append(self._blocks, block)
        self._due_ns = None
        if self.calls:
            self._set_timer(asyncio.get_running_loop())

    def _current_block(self) -> list[tuple[int, int]]:
        due_ns, now_ns = self._due_ns, perf_counter_ns()
        is_late = due_ns is not None and now_ns - due_ns > LATE_NS
        return [(due_ns, now_ns)] if due_ns is not None and is_late else []

    def blocks_between(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """Return the longest blocks in this time, in order of time, cut to it."""
        found = [*_BLOCKS.copy(self._blocks), *self._current_block()]
        cut = [(max(start, start_ns), min(end, end_ns)) for start, end in found]
        blocks = [block for block in cut if block[1] > block[0]]
        return sorted(heapq.nlargest(_MOST_BLOCKS_OF_A_CALL, blocks, key=_length))


def _length(block: tuple[int, int]) -> int:
    return block[1] - block[0]


_monitors: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMonitor]] = WeakKeyDictionary()


def watch_loop(call: Any) -> LoopMonitor | None:
    """Measure the running loop until the call ends. Return `None` outside a loop of asyncio."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    monitor = _monitors.get(loop)
    if monitor is None:
        monitor = _monitors[loop] = LoopMonitor()
    monitor.watch(loop, call)
    return monitor
