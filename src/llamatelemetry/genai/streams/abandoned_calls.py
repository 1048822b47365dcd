"""Ends abandoned calls in a daemon thread.

The garbage collector finds a stream that the application has abandoned. It may run at any point
of any thread, even during the SDK's collection of metrics. Recording there could wait for a lock
that the same thread holds. A finalizer (`__del__`) therefore only queues the call, and this
thread ends it. `queue.SimpleQueue.put` is safe to call in a finalizer.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import Protocol, TypeGuard

from llamatelemetry.genai import internal_errors


class Finalizable(Protocol):
    """A call that the finalizer thread can end."""

    def finalize(self) -> None:
        """End the call with the part of its response that arrived."""


_STOP = object()


class AbandonedCallFinalizer:
    """A queue of abandoned calls and the daemon thread that ends them."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # The parent ends its own calls. The child has no thread and must not end them again.
        self._queue = queue.SimpleQueue()
        self._thread = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread unless it runs. Call this before a call can be abandoned, not in `__del__`."""
        if _is_running(self._thread):
            return
        with self._lock:
            if not _is_running(self._thread):
                self._thread = threading.Thread(
                    target=self._run, name="llamatelemetry-finalizer", daemon=True
                )
                self._thread.start()

    def put(self, call: Finalizable) -> None:
        """Queue a call. This is safe in `__del__` and in a signal handler."""
        self._queue.put(call)

    def _run(self) -> None:
        pending = self._queue
        while True:
            item = pending.get()
            if item is _STOP:
                return
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                item.finalize()  # type: ignore[attr-defined]
            except Exception as error:
                internal_errors.log_once("ending an abandoned call", error)
            del item  # The thread must not keep it alive until the next one arrives.

    def flush(self, timeout_s: float) -> bool:
        """End all calls queued so far. Return whether that took no longer than `timeout_s`."""
        if self._thread is None and self._queue.empty():
            return True
        self.start()
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End the queued calls and stop the thread. Return whether it stopped within the time."""
        # Hold the lock to the end: a thread started meanwhile could take this one's signal.
        with self._lock:
            thread, self._thread = self._thread, None
            if not _is_running(thread):
                return True
            self._queue.put(_STOP)
            thread.join(timeout_s)
            return not thread.is_alive()


def _is_running(thread: threading.Thread | None) -> TypeGuard[threading.Thread]:
    return thread is not None and thread.is_alive()


finalizer = AbandonedCallFinalizer()
