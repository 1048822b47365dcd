"""Ending calls that cannot end where they are: a daemon thread does it a moment later.

A stream that the application drops is found by the garbage collector, which may run at any
point of any thread, the SDK's own metric collection included. Recording a metric there can
wait for a lock that the same thread holds. So a finaliser only puts the call into a queue
(`queue.SimpleQueue.put` is safe to call from one) and this thread ends it.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import Protocol, TypeGuard

from llamatelemetry.genai import internal_errors


class Finalizable(Protocol):
    """A call that can be ended by the reaper."""

    def finalize(self) -> None:
        """End with what is known."""
        ...


_STOP = object()


class AbandonedCallFinalizer:
    """A queue and the daemon thread that empties it; the thread starts on first need."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # The parent ends its own calls; the child has no thread and must not end them again.
        self._queue = queue.SimpleQueue()
        self._thread = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread unless it runs: before a call can be abandoned, never in a finaliser."""
        if _runs(self._thread):
            return
        with self._lock:
            if not _runs(self._thread):
                self._thread = threading.Thread(
                    target=self._run, name="llamatelemetry-finalizer", daemon=True
                )
                self._thread.start()

    def put(self, call: Finalizable) -> None:
        """Hand over a call. Safe in a finaliser and in a signal handler."""
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
            del item  # not kept alive until the next one comes

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything handed over so far has ended. False when the time ran out."""
        if self._thread is None and self._queue.empty():
            return True
        self.start()
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """End what was handed over and stop the thread. `start` works again afterwards."""
        # The lock is held to the end: a thread started meanwhile could take this one's signal.
        with self._lock:
            thread, self._thread = self._thread, None
            if not _runs(thread):
                return True
            self._queue.put(_STOP)
            thread.join(timeout_s)
            return not thread.is_alive()


def _runs(thread: threading.Thread | None) -> TypeGuard[threading.Thread]:
    return thread is not None and thread.is_alive()


finalizer = AbandonedCallFinalizer()
