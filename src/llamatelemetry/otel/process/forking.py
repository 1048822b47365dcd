"""The end of worker processes that do not run `atexit` handlers.

Workers of `multiprocessing` and of Celery end in `os._exit`, so the SDK does not flush.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

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
