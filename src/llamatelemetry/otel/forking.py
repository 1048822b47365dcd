"""What the SDK leaves undone in a forked child: its metrics, and the end of pool workers.

The SDK starts its threads anew and empties its queues. But the child goes on counting from its
parent's numbers, under locks that another thread of the parent may have held; and workers of
`multiprocessing` and of Celery end in `os._exit`, which runs no atexit handler.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any

_LAST = -100  # among the finalizers of a worker: those of the application may record something


def start_metrics_anew(provider: Any) -> None:
    """Lets an SDK meter provider count from zero, in a child process that was just forked.

    The SDK's own parts are replaced as `add_metric_reader` makes them. What is not found
    under these names, in another version, is left alone.
    """
    consumer = getattr(provider, "_measurement_consumer", None)
    readers = getattr(consumer, "_reader_storages", None)
    if consumer is None or readers is None:
        return
    consumer._lock = threading.Lock()
    for reader in tuple(readers):
        if hasattr(reader, "_export_lock"):
            reader._export_lock = threading.Lock()
        consumer.remove_metric_reader(reader)
        consumer.add_metric_reader(reader)


class WorkerEnd:
    """Calls a function when a worker of multiprocessing or of Celery's pool ends."""

    def __init__(self, at_end: Callable[[], object]) -> None:
        self._at_end = at_end
        self._told: set[str] = set()

    def expect(self) -> None:
        """Sees to it in this process, if it is such a worker, and in those forked from it.

        Nothing is imported for it: a worker has loaded what it is a worker of.
        """
        for name, expect in (
            ("multiprocessing.util", self._expect_of_multiprocessing),
            ("celery.signals", self._expect_of_celery),
        ):
            module = sys.modules.get(name)
            if module is not None and name not in self._told:
                self._told.add(name)
                expect(module)

    def _expect_of_multiprocessing(self, util: Any) -> None:
        # A worker throws away the finalizers it was forked with, and then asks these.
        util.register_after_fork(self, functools.partial(_add_finalizer, util))
        process = sys.modules.get("multiprocessing.process")
        if getattr(process, "_parent_process", None) is not None:
            _add_finalizer(util, self)

    def _expect_of_celery(self, signals: Any) -> None:
        signals.worker_process_shutdown.connect(self, weak=False)

    def __call__(self, **_: object) -> None:
        """A worker ends."""
        self._at_end()


def _add_finalizer(util: Any, at_end: WorkerEnd) -> None:
    util.Finalize(None, at_end, exitpriority=_LAST)
