"""A daemon thread that runs a function repeatedly and restarts after a fork."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from llamatelemetry._setup_in_progress import wait_for_setup
from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("llamatelemetry.gpu")

# Longer than a driver call normally takes. A fork does not wait longer for a driver that hangs.
_FORK_WAITS_S: Final = 1.0
_AFTER_FAILURE_S: Final = 10.0


class BackgroundLoop:
    """Daemon thread that calls `run_pass`, which returns the seconds until the next call.

    It ends when that is `None`, and then calls `finish`. After a fork the child has no such thread;
    its next `ensure_running` starts one. A fork waits for the end of a running pass, so that the
    child does not inherit an incomplete state, which `after_fork` then resets.
    """

    def __init__(
        self,
        name: str,
        run_pass: Callable[[], float | None],
        finish: Callable[[], None],
        after_fork: Callable[[], None],
    ) -> None:
        self._name = name
        self._run_pass = run_pass
        self._finish = finish
        self._after_fork = after_fork
        self._wanted = False
        self._reset()
        _loops.add(self)

    def _reset(self) -> None:
        self._running = False
        self._retry_at_s = 0.0
        # Popping from a list is atomic: of several callers, one starts the thread. A lock could be
        # held by the code that a signal handler or a finalizer interrupts.
        self._permit: list[None] = [None]
        self.in_pass = threading.Lock()
        self._new_events()
        self._thread: threading.Thread | None = None

    def _new_events(self) -> None:
        self._woken = threading.Event()
        self._stopping = threading.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether the thread is being stopped, so that a long pass should end early."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._wanted = True
        self.ensure_running()

    def ensure_running(self) -> None:
        """Restart the thread if this process was forked. Returns at once if it is running."""
        if self._running or not self._wanted or time.monotonic() < self._retry_at_s:
            return
        try:
            self._permit.pop()
        except IndexError:
            return
        # Together with the thread: gevent and eventlet may have replaced both since the start.
        self._new_events()
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # Out of threads, or the interpreter is shutting down.
            _logger.info("Not reading GPUs for now: %s", error)
            self._retry_at_s = time.monotonic() + _AFTER_FAILURE_S
            self._permit.append(None)
        else:
            self._thread, self._running = thread, True

    def wake(self) -> None:
        """Run the next pass now."""
        self._woken.set()

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread. Return whether it ended within `timeout_s`."""
        self._wanted = False
        thread, self._thread = self._thread, None
        self._stopping.set()
        self._woken.set()
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self) -> None:
        stopping, woken = self._stopping, self._woken
        pause_s: float | None = 0.0
        try:
            while not stopping.is_set():
                woken.clear()
                with self.in_pass:
                    pause_s = self._guarded_pass()
                if pause_s is None:
                    return
                woken.wait(pause_s)
        finally:
            self._finish()

    def _guarded_pass(self) -> float | None:
        try:
            return self._run_pass()
        except Exception as error:
            internal_errors.log_once("reading the GPUs", error)
            return _AFTER_FAILURE_S

    def before_fork(self) -> bool:
        """Wait until no pass is running. Return whether that succeeded."""
        return self.in_pass.acquire(timeout=_FORK_WAITS_S)

    def after_in_child(self) -> None:
        """Reset the state: the thread does not exist in the child."""
        self._reset()
        self._after_fork()


_loops: Final[WeakSet[BackgroundLoop]] = WeakSet()
_waiting_for_fork: Final[list[BackgroundLoop]] = []


def _before_fork() -> None:
    wait_for_setup()  # It may wait for a pass.
    _waiting_for_fork[:] = [loop for loop in list(_loops) if loop.before_fork()]


def _after_fork_in_parent() -> None:
    while _waiting_for_fork:
        _waiting_for_fork.pop().in_pass.release()


def _after_fork_in_child() -> None:
    _waiting_for_fork.clear()
    for loop in list(_loops):
        loop.after_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
