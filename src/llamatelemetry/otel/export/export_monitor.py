"""Detection of failed exports: the SDK discards the results of its exporters.

`force_flush` of the SDK's batch processors returns `True` even if the collector rejected
everything. `flush()` promises more, so it monitors the exporters of the providers that the
distro creates. When the process ends, exporters that cannot reach their collector give up early.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final

from llamatelemetry._limits import Count
from llamatelemetry.otel._sdk_private import exporters_of, http_session_of
from llamatelemetry.otel.export.encoding_repair import with_repair
from llamatelemetry.otel.export.exit_limits import ExitLimits
from llamatelemetry.otel.export.http_sessions import follow_forks
from llamatelemetry.otel.export.unread_output import discard_buffer

_logger = logging.getLogger("llamatelemetry.otel")
# OTLP/HTTP: https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes
_RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
# Longer than the handlers of a fork take. Not all forks run them.
_FORK_LIMIT_S: Final = 5.0
_ITEMS: Final = {"traces": "spans", "logs": "log records", "metrics": "exports of metrics"}


class ExportMonitor:
    """Remembers failed exports, and shuts exporters down early if nothing can be sent."""

    def __init__(self) -> None:
        self._limits = ExitLimits()
        self._exporters: list[_MonitoredExporter] = []
        self._failures: list[None] = []  # appending and popping are atomic
        self._lost = {signal: Count() for signal in _ITEMS}
        self._pid = os.getpid()
        self._forked_at: float | None = None

    @property
    def is_failing(self) -> bool:
        """Whether something was exported, and the last export of each exporter failed."""
        results = [each.succeeded for each in self._exporters if each.succeeded is not None]
        return bool(results) and not any(results)

    def monitor(self, provider: object, signal: str) -> None:
        """Monitor every exporter of an SDK provider.

        The wrappers are set on the exporter objects, so that their classes stay the same.

        Args:
            provider: The SDK provider.
            signal: "traces", "metrics" or "logs".
        """
        for exporter in exporters_of(provider):
            each = _MonitoredExporter(
                exporter, signal, self._limits, self._on_failure, self._is_own_process
            )
            self._exporters.append(each)

    def reset_after_fork(self) -> None:
        """Forget the parent's failures, in a forked child, which may export from now on."""
        self._failures = []
        self._lost = {signal: Count() for signal in _ITEMS}
        for each in self._exporters:
            # The parent's export does not run in this process.
            each.succeeded, each.is_retrying = None, False
        self._pid, self._forked_at = os.getpid(), None

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
        for each in self._exporters:
            each.exporter.shutdown()

    def begin_exit(self) -> None:
        """Start the time limits of the exporters, because the process ends."""
        self._limits.begin(self._exporters)

    def report_losses(self) -> None:
        """Log in one line how much telemetry the receivers have not accepted, if any."""
        counts = {signal: count.take() for signal, count in sorted(self._lost.items())}
        lost = {signal: count for signal, count in counts.items() if count}
        if lost:
            _logger.warning(
                "Lost telemetry (%s): the receiver did not accept it. Check it with `llamatelemetry "
                "doctor`",
                ", ".join(f"{_ITEMS[signal]}: {count}" for signal, count in lost.items()),
            )

    def _is_own_process(self) -> bool:
        """Return whether the providers describe this process, not the one it was forked from."""
        if self._pid == os.getpid():
            return True
        if self._forked_at is None:
            self._forked_at = time.monotonic()
        return time.monotonic() - self._forked_at > _FORK_LIMIT_S

    def _on_failure(self, signal: str, count: int) -> None:
        if not self._failures:  # One is enough: it stays until the next `flush()`.
            self._failures.append(None)
        self._lost[signal].add(count)


class _MonitoredExporter:
    """An exporter with wrappers that note whether its receiver accepts what is sent.

    Attributes:
        succeeded: Whether the last export succeeded; `None` before the first one ends.
        is_retrying: Whether an export is running, and its last HTTP request failed.
        is_observable: Whether requests are seen. Those of an exporter over gRPC are not.
    """

    def __init__(
        self,
        exporter: Any,
        signal: str,
        limits: ExitLimits,
        on_failure: Callable[[str, int], None],
        is_own_process: Callable[[], bool],
    ) -> None:
        self.exporter = exporter
        self.succeeded: bool | None = None
        self.is_retrying = False
        self._signal = signal
        self._limits = limits
        self._on_failure = on_failure
        self._is_own_process = is_own_process
        # Those that a declarative file or a credential provider created are among them.
        session = http_session_of(exporter)
        self.is_observable = session is not None
        if session is not None:
            follow_forks(session)
            session.request = self._noting_attempts(session.request)
        exporter.export = self._noting_results(with_repair(exporter.export))
        # `shutdown_exporters` can come before the provider's own shutdown. The OTLP exporters
        # log a warning about a second one.
        exporter.shutdown = _once(exporter.shutdown)

    def _noting_attempts(self, request: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(request)
        def noting(*args: Any, **kwargs: Any) -> Any:
            failed = True
            try:
                response = request(*args, **self._limits.limited(kwargs))
                failed = response.status_code in _RETRIED_STATUSES
                return response
            finally:
                self.is_retrying = failed
                if failed:
                    self._limits.give_up(self.exporter)

        return noting

    def _noting_results(self, export: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(export)
        def noting(*args: Any, **kwargs: Any) -> Any:
            if not self._is_own_process():
                # The parent sends this itself. Here it would have the identity of both processes.
                return None
            succeeded, lost = False, _count(args)
            out, is_exporting = getattr(self.exporter, "out", None), False
            try:
                if out is not None:
                    out.flush()  # Then the rest after an error is not of the application.
                is_exporting = True
                result = export(*args, **kwargs)
                # Each signal has an enum of its own, with this member name in common. An exporter
                # that returns nothing has not reported a failure.
                succeeded = getattr(result, "name", "SUCCESS") == "SUCCESS"
                return result
            except Exception as error:
                if not self._has_no_reader(error):
                    raise
                lost = 0
                if is_exporting:
                    discard_buffer(out)
                return None
            finally:
                self.is_retrying = False
                self.succeeded = succeeded
                if not succeeded:
                    self._on_failure(self._signal, lost)

        return noting

    def _has_no_reader(self, error: Exception) -> bool:
        """Return whether a console exporter failed because its output cannot be read any more.

        The SDK's write to `out`. Its reader may have ended, as `head` does, or it may be closed, as in
        a daemon or at the end of tests.
        """
        if not hasattr(self.exporter, "out"):
            return False
        out = self.exporter.out
        return isinstance(error, BrokenPipeError) or out is None or getattr(out, "closed", False)


def _count(arguments: tuple[Any, ...]) -> int:
    """Return the number of exported spans or log records; 1 for an export of metrics."""
    try:
        return len(arguments[0])
    except (IndexError, TypeError):
        return 1


def _once(shutdown: Callable[..., Any]) -> Callable[..., Any]:
    permit: list[None] = [None]  # Popping from a list is atomic.

    @functools.wraps(shutdown)
    def first_only(*args: Any, **kwargs: Any) -> Any:
        try:
            permit.pop()
        except IndexError:
            return None
        return shutdown(*args, **kwargs)

    return first_only
