"""Waiting for a condition that another thread or process fulfills."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until the condition is true. Fail the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"condition not true within {timeout_s} s"
        time.sleep(0.05)


async def wait_for_async(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until the condition is true, while the event loop runs. Fail the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"condition not true within {timeout_s} s"
        await asyncio.sleep(0.005)
