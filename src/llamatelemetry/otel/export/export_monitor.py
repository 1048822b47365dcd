"""Detection of failed exports: the SDK discards the results of its exporters.

`force_flush` of the SDK's batch processors returns `True` even if the collector rejected
everything. `flush()` promises more, so it monitors the exporters of the providers that the
distro creates.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from llamatelemetry.otel._sdk_private import exporters_of, http_session_of
from llamatelemetry.otel.export.encoding_repair import with_repair
from llamatelemetry.otel.export.http_sessions import follow_forks


class ExportMonitor:
    """Remembers failed exports, and shuts exporters down early if nothing can be sent.

    Attributes:
        is_failing: Whether the last export failed.
    """

    def __init__(self) -> None:
        self.is_failing = False
        self._exporters: list[Any] = []
        self._failures: list[None] = []  # appending and popping are atomic

    def monitor(self, provider: object) -> None:
        """Monitor every exporter of an SDK provider.

        The wrappers are set on the exporter objects, so that their classes stay the same.
        """
        for exporter in exporters_of(provider):
            # Those that a declarative file or a credential provider created.
            session = http_session_of(exporter)
            if session is not None:
                follow_forks(session)
            exporter.export = self._monitored(with_repair(exporter.export))
            # `shutdown_exporters` can come before the provider's own shutdown. The OTLP exporters
            # log a warning about a second one.
            exporter.shutdown = _once(exporter.shutdown)
            self._exporters.append(exporter)

    def reset_after_fork(self) -> None:
        """Forget the parent's failures, in a forked child."""
        self._failures = []

    def take_failure(self) -> bool:
        """Return whether an export has failed since the last call."""
        failed = False
        with contextlib.suppress(IndexError):
            while True:
                self._failures.pop()
                failed = True
        return failed

    def shutdown_exporters(self) -> None:
        """Shut the exporters down. This ends running retries; nothing more is sent."""
        for exporter in self._exporters:
            exporter.shutdown()

    def _monitored(self, export: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(export)
        def monitored(*args: Any, **kwargs: Any) -> Any:
            succeeded = False
            try:
                result = export(*args, **kwargs)
                # Each signal has an enum of its own, with this member name in common. An exporter
                # that returns nothing has not reported a failure.
                succeeded = getattr(result, "name", "SUCCESS") == "SUCCESS"
                return result
            finally:
                self.is_failing = not succeeded
                if not succeeded:
                    self._failures.append(None)

        return monitored


def _once(shutdown: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter((True,))  # `next` is atomic

    @functools.wraps(shutdown)
    def first_only(*args: Any, **kwargs: Any) -> Any:
        return shutdown(*args, **kwargs) if next(calls, False) else None

    return first_only
