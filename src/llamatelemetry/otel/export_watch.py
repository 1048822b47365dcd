"""Whether exports succeed: the SDK throws the answer of its exporters away.

`force_flush` of the SDK's batch processors is True also when the collector refused everything.
`flush()` promises more, so the exporters of the providers that we make are watched.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast


class ExportWatch:
    """Counts failed exports, and shuts exporters down early when nothing can leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exporters: list[Any] = []
        self._failed = False

    def watch(self, provider: object) -> None:
        """Watches every exporter of an SDK provider.

        The wrappers are set on the exporter objects, so that the exporters stay what they are.
        """
        for exporter in _exporters_of(provider):
            exporter.export = self._watched(exporter.export)
            # Stopped early by us, an exporter is stopped again by its provider, which the
            # OTLP exporters complain of.
            exporter.shutdown = _once(exporter.shutdown)
            self._exporters.append(exporter)

    def start_anew(self) -> None:
        """In a forked child: nothing has failed yet, and no other thread holds the lock."""
        self._lock = threading.Lock()
        self._failed = False

    def take_failure(self) -> bool:
        """Whether an export has failed since this was asked last."""
        with self._lock:
            failed, self._failed = self._failed, False
        return failed

    def shutdown_exporters(self) -> None:
        """Ends retries that are under way: the exporters send nothing more."""
        for exporter in self._exporters:
            exporter.shutdown()

    def _watched(self, export: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(export)
        def watched(*args: Any, **kwargs: Any) -> Any:
            succeeded = False
            try:
                result = export(*args, **kwargs)
                # Three enums, one for each signal, with this one name in common. An exporter
                # that returns nothing has not complained.
                succeeded = getattr(result, "name", "SUCCESS") == "SUCCESS"
                return result
            finally:
                if not succeeded:
                    with self._lock:
                        self._failed = True

        return watched


def _once(shutdown: Callable[..., Any]) -> Callable[..., Any]:
    lock, calls = threading.Lock(), iter((True,))

    @functools.wraps(shutdown)
    def first_only(*args: Any, **kwargs: Any) -> Any:
        with lock:
            first = next(calls, False)
        return shutdown(*args, **kwargs) if first else None

    return first_only


def _exporters_of(provider: object) -> Iterator[Any]:
    # The SDK has no public way from a provider to its exporters. What is not found under
    # these names is not watched: flush() then knows only what the SDK says.
    for holder in _holders(provider):
        for name in ("_exporter", "span_exporter"):
            exporter = getattr(holder, name, None)
            if exporter is not None:
                yield exporter
                break


def _holders(provider: object) -> Iterable[object]:
    readers = getattr(provider, "_metric_readers", ())
    chain = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    spans = [held for each in chain for held in getattr(each, "downstream", (each,))]
    logs = getattr(
        getattr(provider, "_multi_log_record_processor", None), "_log_record_processors", ()
    )
    for holder in cast("tuple[object, ...]", (*readers, *spans, *logs)):
        yield getattr(holder, "_batch_processor", holder)
