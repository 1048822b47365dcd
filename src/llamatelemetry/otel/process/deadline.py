"""Time limits for calls of the SDK, which does not keep its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from opentelemetry import _logs, metrics, trace

_logger = logging.getLogger("llamatelemetry.otel")


class Deadline:
    """A point in time, read as the time that remains."""

    def __init__(self, timeout_s: float) -> None:
        # Waiting for longer, or without end, raises.
        self._end = time.monotonic() + min(timeout_s, threading.TIMEOUT_MAX)

    @property
    def remaining_s(self) -> float:
        """Remaining time in seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def remaining_ms(self) -> int:
        """Remaining time in milliseconds, at least 0."""
        return int(self.remaining_s * 1000)


def run_side_by_side(steps: Mapping[str, Callable[[], object]], deadline: Deadline) -> bool:
    """Run each step in its own thread. Return whether all succeeded before the deadline.

    The SDK's `force_flush` and `shutdown` continue as long as an exporter retries, even beyond
    their timeout. A step that is still running at the deadline is left to end by itself. `False`
    and an exception are failures of a step.
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
        except RuntimeError:
            # The interpreter is shutting down and starts no new threads.
            thread.run()
    for thread in threads:
        if thread.ident is not None:
            thread.join(deadline.remaining_s)
    return all(succeeded.get(name, False) for name in steps)


def flush_global_providers(deadline: Deadline) -> bool:
    """Flush the global providers. Return whether all succeeded before the deadline."""
    providers: dict[str, object] = {
        "traces": trace.get_tracer_provider(),
        "metrics": metrics.get_meter_provider(),
        "logs": _logs.get_logger_provider(),
    }
    steps: dict[str, Callable[[], object]] = {}
    for signal, provider in providers.items():
        force_flush = getattr(provider, "force_flush", None)
        if force_flush is not None:
            steps[f"flush-{signal}"] = partial(force_flush, deadline.remaining_ms)
    return run_side_by_side(steps, deadline)
