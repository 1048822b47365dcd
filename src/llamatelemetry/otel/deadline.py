"""Doing things within a time limit that the SDK itself does not keep."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

_logger = logging.getLogger("llamatelemetry.otel")


class Deadline:
    """A point in time, as what remains until then."""

    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

    @property
    def remaining_ms(self) -> int:
        """Milliseconds left."""
        return int(self.remaining_s * 1000)


def run_side_by_side(steps: Mapping[str, Callable[[], object]], deadline: Deadline) -> bool:
    """Runs the steps in threads of their own. True when all were done in time and none failed.

    The SDK's `force_flush` and `shutdown` go on for as long as an exporter retries, whatever
    timeout they are given. What is still running at the deadline is left to end by itself.

    Args:
        steps: by name; False and an exception are failures.
        deadline: when to stop waiting.
    """
    succeeded: dict[str, bool] = {}

    def run(name: str, step: Callable[[], object]) -> None:
        try:
            succeeded[name] = step() is not False
        except Exception:
            _logger.debug("%s failed", name, exc_info=True)

    threads = [
        threading.Thread(target=run, args=item, name=f"llamatelemetry-{item[0]}", daemon=True)
        for item in steps.items()
    ]
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:  # the interpreter is going down: no new threads
            thread.run()
    for thread in threads:
        if thread.ident is not None:
            thread.join(deadline.remaining_s)
    return all(succeeded.get(name, False) for name in steps)
