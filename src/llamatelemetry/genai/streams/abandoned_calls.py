"""Ends abandoned calls in a daemon thread.

The garbage collector finds a stream that the application has abandoned. It may run at any point
of any thread, even during the SDK's collection of metrics. Recording there could wait for a lock
that the same thread holds. A finalizer (`__del__`) therefore only queues the call, and this
thread ends it.

gevent and eventlet replace threads and locks while a program runs. A greenlet that waits for a
lock from before would block all others, so the thread and its lock are created together.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable

_FULL_AT: Final = 64  # queued calls at which a new stream ends some of them itself
_POLL_S: Final = 0.001

_logger = logging.getLogger("llamatelemetry.genai")


class Finalizable(Protocol):
    """A call that the finalizer thread can end."""

    def finalize(self) -> None:
        """End the call with the part of its response that arrived."""


class AbandonedCallFinalizer:
    """A queue of abandoned calls and the daemon thread that ends them."""

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # The parent ends its own calls. The child has no thread and must not end them again.
        # Appending to these and popping from them are atomic: nothing here takes a lock, which
        # the code that a signal handler or the garbage collector interrupts could hold.
        self._calls: deque[Finalizable] = deque()
        self._ending: list[None] = []  # one entry for each call that a thread is ending
        self._permit: list[None] = [None]  # of several callers, one starts the thread
        self._worker: _Worker | None = None

    def start(self) -> None:
        """Start the thread unless it runs. Call this before a call can be abandoned, not in `__del__`.

        If no thread can be started, the calls queued so far are ended here.
        """
        # A greenlet does not run if the thread that started it does something else.
        if len(self._calls) >= _FULL_AT:
            self._end_calls(2)  # More than a caller adds: the queue stays bounded.
        self._start_thread()

    def _start_thread(self) -> None:
        if self._is_running():
            return
        try:
            self._permit.pop()
        except IndexError:
            return
        try:
            if not self._is_running():
                self._worker = _Worker(self._end_calls)
        except RuntimeError as error:  # Out of threads, or the interpreter is shutting down.
            _logger.debug("Cannot start the thread that ends abandoned calls: %s", error)
            self._end_calls()
        finally:
            self._permit.append(None)

    def _is_running(self) -> bool:
        worker = self._worker
        return worker is not None and worker.thread.is_alive()

    def put(self, call: Finalizable) -> None:
        """Queue a call. This is safe in `__del__` and in a signal handler."""
        self._calls.append(call)
        worker = self._worker
        if worker is not None:
            worker.wake()

    def _end_calls(self, at_most: int | None = None) -> None:
        calls, ending = self._calls, self._ending
        for _ in range(len(calls) if at_most is None else at_most):
            # Marked first, so that `flush` sees a call in one of the two at any time.
            ending.append(None)
            try:
                call = calls.popleft()
            except IndexError:  # Another thread has ended it.
                ending.pop()
                return
            try:
                call.finalize()
            except Exception as error:
                internal_errors.log_once("ending an abandoned call", error)
            finally:
                ending.pop()
                del call  # Nothing must keep it alive until the next one arrives.

    def flush(self, timeout_s: float) -> bool:
        """End all calls queued so far. Return whether that took no longer than `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        if self._calls:
            self._start_thread()
        while self._calls or self._ending:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def stop(self, timeout_s: float) -> bool:
        """End the queued calls and stop the thread. Return whether it stopped within the time."""
        worker, self._worker = self._worker, None
        return worker is None or worker.stop(timeout_s)


class _Worker:
    """The running thread, and the lock that it waits for."""

    def __init__(self, end_calls: Callable[[], None]) -> None:
        self._end_calls = end_calls
        self._is_stopping = False
        self._woken = threading.Lock()  # free if there is work to do
        self.thread = threading.Thread(
            target=self._run, name="llamatelemetry-finalizer", daemon=True
        )
        self.thread.start()

    def _run(self) -> None:
        while not self._is_stopping:
            self._woken.acquire()
            self._end_calls()

    def wake(self) -> None:
        """Make the thread look at the queue."""
        with contextlib.suppress(RuntimeError):  # It is awake.
            self._woken.release()

    def stop(self, timeout_s: float) -> bool:
        """Make the thread end, and wait for it. Return whether it ended within the time."""
        self._is_stopping = True
        self.wake()
        self.thread.join(timeout_s)
        return not self.thread.is_alive()


finalizer = AbandonedCallFinalizer()
