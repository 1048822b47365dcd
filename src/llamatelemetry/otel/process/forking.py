"""Forked processes: threads that start in them, and workers that do not run `atexit` handlers.

Workers of `multiprocessing` and of Celery end in `os._exit`, so the SDK does not flush.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, Final
from weakref import WeakSet

# Lowest priority among the finalizers of a worker: those of the application may record telemetry.
_LAST = -100


class WorkerExitHook:
    """Calls a function when a worker of `multiprocessing` or of Celery's pool ends."""

    def __init__(self, on_exit: Callable[[], object]) -> None:
        self._on_exit = on_exit
        self._registered: set[str] = set()

    def register(self) -> None:
        """Register the function in this process, if it is a worker, and in its forked workers.

        It imports nothing: a worker has already loaded the library that runs it.
        """
        for name, register in (
            ("multiprocessing.util", self._register_with_multiprocessing),
            ("celery.signals", self._register_with_celery),
        ):
            module = sys.modules.get(name)
            if module is not None and name not in self._registered:
                self._registered.add(name)
                register(module)

    def _register_with_multiprocessing(self, util: Any) -> None:
        # A worker discards the finalizers that it inherited, then runs its after-fork functions.
        util.register_after_fork(self, functools.partial(_add_finalizer, util))
        process: Any = sys.modules.get("multiprocessing.process")
        if process is not None and process.parent_process() is not None:
            _add_finalizer(util, self)

    def _register_with_celery(self, signals: Any) -> None:
        signals.worker_process_shutdown.connect(self, weak=False)

    def __call__(self, **_: object) -> None:
        """Handle the end of a worker."""
        self._on_exit()


def _add_finalizer(util: Any, hook: WorkerExitHook) -> None:
    util.Finalize(None, hook, exitpriority=_LAST)


class ForkSafeLock:
    """A reentrant lock that is free in a forked child, even if a thread of the parent held it.

    Reentrant, because a signal handler or a finalizer may need it within a critical section of
    the same thread.
    """

    def __init__(self) -> None:
        self._renew()
        _locks.add(self)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def held(self) -> threading.RLock:
        """Return the lock, for a `with` statement."""
        return self._lock

    @staticmethod
    def renew_all() -> None:
        """Renew all locks, in a forked child."""
        for lock in list(_locks):
            lock._renew()


_locks: Final[WeakSet[ForkSafeLock]] = WeakSet()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ForkSafeLock.renew_all)


def has_green_threads() -> bool:
    """Return whether gevent or eventlet has replaced the threads of this process."""
    return type(threading.Lock()).__module__ != "_thread"


def without_waiting(handler: Callable[[], object]) -> Callable[[], object]:
    """Return a handler for `os.register_at_fork` that may start threads, also under gevent.

    With greenlets, starting a thread switches to others that the parent has started. In a forked
    child they would run a second time: requests are sent twice, and a child of `subprocess` never
    starts its program. There the handler runs in a greenlet, as soon as the child runs any.
    """

    @functools.wraps(handler)
    def run() -> None:
        if has_green_threads():
            # Unlike `Thread.start`, this function does not wait.
            _thread.start_new_thread(handler, ())
        else:
            handler()

    return run


@contextlib.contextmanager
def fork_handlers_without_waiting() -> Generator[None]:
    """Apply `without_waiting` to the handlers that OpenTelemetry registers in the block.

    They start the SDK's threads, and detect the resource of the process in threads.
    """
    original: Any = getattr(os, "register_at_fork", None)
    if original is None:
        yield
        return

    def register(**handlers: Callable[[], object]) -> None:
        after_in_child = handlers.get("after_in_child")
        module = str(getattr(after_in_child, "__module__", ""))
        if after_in_child is not None and module.startswith("opentelemetry."):
            handlers["after_in_child"] = without_waiting(after_in_child)
        original(**handlers)

    os.register_at_fork = register  # type: ignore[assignment]
    try:
        yield
    finally:
        os.register_at_fork = original
