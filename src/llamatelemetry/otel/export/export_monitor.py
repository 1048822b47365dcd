"""Detection of failed exports: the SDK discards the results of its exporters.

`force_flush` of the SDK's batch processors returns `True` even if the collector rejected
everything. `flush()` promises more, so it monitors the exporters of the providers that the
distro creates.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from llamatelemetry.otel._sdk_private import exporters_of, http_session_of
from llamatelemetry.otel.export.encoding_repair import with_repair
from llamatelemetry.otel.export.http_sessions import follow_forks

_logger = logging.getLogger("llamatelemetry.otel")
_POLL_S: Final = 0.1
# An export over gRPC gets at least this long, even after another one has used up the time.
_SHORTEST_EXPORT_S: Final = 0.3


class ExportMonitor:
    """Remembers failed exports, and shuts exporters down early if nothing can be sent."""

    def __init__(self) -> None:
        self._exporters: list[_MonitoredExporter] = []
        self._failures: list[None] = []  # appending and popping are atomic
        self._lost: dict[str, int] = {}
        self._ending = threading.Event()

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
            self._exporters.append(_MonitoredExporter(exporter, signal, self._on_failure))

    def reset_after_fork(self) -> None:
        """Forget the parent's failures, in a forked child."""
        self._failures = []
        self._lost = {}
        self._ending = threading.Event()

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

    def limit_exit(self, failing_limit_s: float, limit_s: float) -> None:
        """Start the thread that ends the exporters' retries once the process ends.

        A thread cannot be started any more when the process ends, so it waits from now on.

        Args:
            failing_limit_s: Seconds for an exporter that cannot reach its receiver.
            limit_s: Seconds for every exporter.
        """
        limits = (self._ending, failing_limit_s, limit_s)
        thread = threading.Thread(
            target=self._end_exporters, args=limits, name="llamatelemetry-exit", daemon=True
        )
        # Without the thread, exporters retry until their own timeout.
        with contextlib.suppress(RuntimeError):
            thread.start()

    def begin_exit(self) -> None:
        """Start the time limits, because the process ends."""
        self._ending.set()

    def close(self) -> None:
        """End the thread; the exporters are shut down."""
        self._exporters.clear()
        self._ending.set()

    def report_losses(self) -> None:
        """Log in one line what the receivers have not accepted, if anything."""
        lost, self._lost = self._lost, {}
        if lost:
            _logger.warning(
                "Lost telemetry (%s): the receiver did not accept it. Check it with `llamatelemetry "
                "doctor`",
                ", ".join(f"{_ITEMS[signal]}: {count}" for signal, count in sorted(lost.items())),
            )

    def _on_failure(self, signal: str, count: int) -> None:
        self._failures.append(None)
        self._lost[signal] = self._lost.get(signal, 0) + count

    def _end_exporters(
        self, ending: threading.Event, failing_limit_s: float, limit_s: float
    ) -> None:
        ending.wait()
        began = time.monotonic()
        left = list(self._exporters)
        while left and (passed_s := time.monotonic() - began) < limit_s:
            if passed_s >= failing_limit_s:
                for each in [each for each in left if each.is_failing]:
                    left.remove(each)
                    each.exporter.shutdown()
            time.sleep(_POLL_S)
        for each in left:
            each.exporter.shutdown()


_ITEMS: Final = {"traces": "spans", "logs": "log records", "metrics": "exports of metrics"}


class _MonitoredExporter:
    """An exporter with wrappers that note whether its receiver accepts what is sent.

    Attributes:
        succeeded: Whether the last export succeeded; `None` before the first one ends.
    """

    def __init__(self, exporter: Any, signal: str, on_failure: Callable[[str, int], None]) -> None:
        self.exporter = exporter
        self.succeeded: bool | None = None
        self._signal = signal
        self._on_failure = on_failure
        self._attempt_failed = False
        self._running_since: float | None = None
        # Those that a declarative file or a credential provider created are among them.
        session = http_session_of(exporter)
        self._has_session = session is not None
        if session is not None:
            follow_forks(session)
            session.request = self._noting_attempts(session.request)
        exporter.export = self._noting_results(with_repair(exporter.export))
        # `shutdown_exporters` can come before the provider's own shutdown. The OTLP exporters
        # log a warning about a second one.
        exporter.shutdown = _once(exporter.shutdown)

    @property
    def is_failing(self) -> bool:
        """Whether the receiver seems out of reach.

        The attempts of an exporter over gRPC cannot be observed. It seems out of reach if no export
        has succeeded yet, and one is running.
        """
        if self._has_session:
            return self._attempt_failed
        since = self._running_since
        is_running = since is not None and time.monotonic() - since >= _SHORTEST_EXPORT_S
        return is_running and not self.succeeded

    def _noting_attempts(self, request: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(request)
        def noting(*args: Any, **kwargs: Any) -> Any:
            try:
                response = request(*args, **kwargs)
            except BaseException:
                self._attempt_failed = True
                raise
            self._attempt_failed = not response.ok
            return response

        return noting

    def _noting_results(self, export: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(export)
        def noting(*args: Any, **kwargs: Any) -> Any:
            succeeded = False
            self._running_since = time.monotonic()
            try:
                result = export(*args, **kwargs)
                # Each signal has an enum of its own, with this member name in common. An exporter
                # that returns nothing has not reported a failure.
                succeeded = getattr(result, "name", "SUCCESS") == "SUCCESS"
                return result
            finally:
                self._running_since = None
                self.succeeded = succeeded
                if not succeeded:
                    self._on_failure(self._signal, _count(args))

        return noting


def _count(arguments: tuple[Any, ...]) -> int:
    """Return the number of exported spans or log records; 1 for an export of metrics."""
    try:
        return len(arguments[0])
    except (IndexError, TypeError):
        return 1


def _once(shutdown: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter((True,))  # `next` is atomic

    @functools.wraps(shutdown)
    def first_only(*args: Any, **kwargs: Any) -> Any:
        return shutdown(*args, **kwargs) if next(calls, False) else None

    return first_only
