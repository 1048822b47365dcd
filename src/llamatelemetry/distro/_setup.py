"""The set-up of this process: its SDK providers, and additions to the application's providers."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llamatelemetry import genai
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.distro._gpu import GpuTelemetry
from llamatelemetry.distro._processors import LogAndMetricRedaction, redaction_processors
from llamatelemetry.distro._sampling import sample_at_end
from llamatelemetry.distro._server_exit import server_exit_patches
from llamatelemetry.genai import internal_errors
from llamatelemetry.otel._sdk_private import (
    meter_provider_resource,
    reset_metrics_after_fork,
    update_resource,
    warn_of_missing_names,
)
from llamatelemetry.otel.export.dropped_items import DroppedItems
from llamatelemetry.otel.export.export_monitor import ExportMonitor
from llamatelemetry.otel.limit_counts import LIMIT_COUNTS
from llamatelemetry.otel.process.deadline import Deadline, flush_global_providers, run_side_by_side
from llamatelemetry.otel.process.forking import WorkerExitHook
from llamatelemetry.otel.process.termination import TerminationHook
from llamatelemetry.otel.processor_chains import (
    prepend_processors,
    remove_processors,
    remove_tail_sampler,
)
from llamatelemetry.otel.providers import SIGNALS
from llamatelemetry.otel.redaction.fail_closed import FAILURES
from llamatelemetry.otel.redaction.options import REDACTION_OPTIONS, weakened_options
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.otel.sampling.tail_sampler import TailSampler
    from llamatelemetry.server_metrics import ServerMetrics

_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_EXIT_LIMIT_S = 5.0
# If the collector did not accept the last export.
_FAILING_EXIT_LIMIT_S = 1.0


class Setup:
    """The SDK providers that llamatelemetry created, and its additions to other providers.

    Args:
        config: Effective options.
        created: The SDK providers by signal. The others are the application's.
        gpus: GPU telemetry, not started yet.
        logging_handlers: Handlers that the SDK added to the root logger.
    """

    def __init__(
        self,
        config: LlamaTelemetryConfig,
        created: Mapping[str, Any],
        gpus: GpuTelemetry,
        logging_handlers: Sequence[logging.Handler] = (),
    ) -> None:
        self.config = config
        self.gpus = gpus
        self.monitor = ExportMonitor()
        self._created = dict(created)
        self._logging_handlers = logging_handlers
        self._processors: list[SpanProcessor] = []
        self._server_metrics: ServerMetrics | None = None
        self._tail_sampler: TailSampler | None = None
        self._redaction = LogAndMetricRedaction(self._created)
        for signal, provider in created.items():
            self.monitor.monitor(provider, signal)
        self._dropped = [
            DroppedItems(name, created[name]) for name in ("traces", "logs") if name in created
        ]
        if "metrics" in created:
            for each in (*self._dropped, FAILURES, LIMIT_COUNTS):
                each.export_to(created["metrics"])

    @property
    def is_alive(self) -> bool:
        """Whether the application has not shut down one of these providers itself."""
        return all(SIGNALS[name].delegating.sdk is each for name, each in self._created.items())

    def add(
        self, processors: Sequence[SpanProcessor], *, present: bool = False, logs_done: bool = False
    ) -> None:
        """Prepend the span processors that are not present yet, in the order in which they run.

        `present` and `logs_done` are `True` if the tracer provider and the logger provider already
        have their processors.
        """
        new = [each for each in processors if not any(each is p for p in self._processors)]
        if "traces" not in self._created:
            # Secrets are removed from an application's own spans only if it asks for redaction.
            new = [each for each in new if not isinstance(each, SecretsSpanProcessor)]
        self._processors += new
        if new and not present:
            prepend_processors(self._tracer_provider, new)
        self._redaction.add(new, logs_done=logs_done)

    def redact(self, wanted: LlamaTelemetryConfig, changed: set[str]) -> set[str]:
        """Apply changed options `redact_*`, unless they weaken the redaction. Return those applied.

        Another thread may rely on the present redaction, so it stays.
        """
        asked = changed & {*REDACTION_OPTIONS}
        applied = asked - weakened_options(self.config, wanted)
        if applied:
            kept = {name: getattr(self.config, name) for name in asked - applied}
            self.add(redaction_processors(wanted.replace(**kept)))
        return applied

    @property
    def processors(self) -> tuple[SpanProcessor, ...]:
        """The span processors that were added, llamatelemetry's and the application's."""
        return tuple(self._processors)

    @property
    def service_name(self) -> str:
        """The `service.name` of the resource of metrics."""
        provider = self._created.get("metrics") or SIGNALS["metrics"].get_global()
        resource = meter_provider_resource(provider)
        name = resource.attributes.get("service.name") if resource is not None else None
        return str(name or self.config.service_name or "unknown_service")

    def start(self, processors: Sequence[SpanProcessor], *, present: bool, logs_done: bool) -> None:
        """Start everything that this set-up needs beside the SDK; arguments as for `add`."""
        self.add(processors, present=present, logs_done=logs_done)
        self._scrape_servers()
        self._tail_sampler = sample_at_end(
            self.config,
            self._tracer_provider,
            self._processors,
            is_created="traces" in self._created,
        )
        _follow_forks(self)
        has_provider = self._created or any(each.application_provider for each in SIGNALS.values())
        if has_provider and self.config.flush_on_signal is not False:
            _termination.install()
        _server_exit.apply()
        self.gpus.start(self.service_name)
        warn_of_missing_names(self._created)
        # The handler registered last runs first: calls end before the SDK's own handlers run.
        atexit.unregister(_end_pending_calls)
        atexit.register(_end_pending_calls)

    def _scrape_servers(self) -> None:
        """Start scraping the metrics of the servers that the options name."""
        urls = self.config.scraped_urls()
        if not urls:
            return
        from llamatelemetry.server_metrics import ServerMetrics

        try:
            server_metrics = ServerMetrics(
                urls,
                self.service_name,
                is_delta=os.environ.get(_TEMPORALITY, "").strip().lower() == "delta",
            )
            server_metrics.start()
            self._server_metrics = server_metrics
        except Exception as error:
            internal_errors.log_once("starting to read servers' metrics", error)

    def reinitialize_after_fork(self) -> None:
        """Reset a forked child: its own process id, and metrics that start from zero."""
        for each in (*self._dropped, FAILURES, LIMIT_COUNTS):
            each.reset_after_fork()
        for name, provider in self._created.items():
            if name == "metrics":
                reset_metrics_after_fork(provider)
            update_resource(provider, process_attributes())
        self.monitor.reset_after_fork()

    def flush_at_exit(self, *, ends: bool) -> None:
        """Flush pending telemetry in a process that exits without running `atexit` handlers.

        `ends` is `False` if the process may continue, so that open streams stay open.
        """
        is_failing = self.monitor.is_failing
        deadline = Deadline(_FAILING_EXIT_LIMIT_S if is_failing else _EXIT_LIMIT_S)
        if ends:
            # In a thread: a thread that a signal interrupted may hold a lock of the SDK.
            step = {"end-streams": genai.end_open_streams}
            run_side_by_side(step, Deadline(_FAILING_EXIT_LIMIT_S))
        genai.flush_pending(deadline.remaining_s)
        flush_global_providers(deadline)

    def stop(self, deadline: Deadline, *, at_once: bool) -> bool:
        """Shut the created providers and all threads down. Return whether that was in time.

        `at_once` makes exporters give up running retries.
        """
        _termination.remove()
        _server_exit.revert()
        # Detached first, so that nothing is recorded on providers that shut down.
        for name in self._created:
            SIGNALS[name].delegating.detach()
        if at_once:
            self.monitor.shutdown_exporters()
        steps: dict[str, Callable[[], object]] = {
            f"shutdown-{name}": each.shutdown for name, each in self._created.items()
        }
        if "metrics" in self._created:
            shutdown = self._created["metrics"].shutdown
            steps["shutdown-metrics"] = partial(shutdown, deadline.remaining_ms)
        if self._server_metrics is not None:
            stop = self._server_metrics.stop
            steps["stop-server-metrics"] = partial(stop, deadline.remaining_s)
        steps["stop-gpus"] = partial(self.gpus.stop, deadline.remaining_s)
        for handler in self._logging_handlers:
            logging.getLogger().removeHandler(handler)
        if "traces" not in self._created:
            if self._tail_sampler is not None:
                remove_tail_sampler(self._tracer_provider, self._tail_sampler)
            remove_processors(self._tracer_provider, self._processors)
            steps |= {f"shutdown-{n}": each.shutdown for n, each in enumerate(self._processors)}
        self._redaction.remove()
        stopped = run_side_by_side(steps, deadline)
        self.report_losses()
        return stopped

    def report_losses(self) -> None:
        """Log dropped items and failed exports that have not been logged yet."""
        for each in self._dropped:
            each.report()
        self.monitor.report_losses()

    @property
    def _tracer_provider(self) -> Any:
        return self._created.get("traces") or SIGNALS["traces"].get_global()


def process_attributes() -> dict[str, int]:
    """Return the resource attributes that differ between a process and its forked children."""
    return {"process.pid": os.getpid()}


def _end_pending_calls() -> None:
    setup = _current_setup()
    if setup is not None:
        setup.monitor.begin_exit()
    genai.end_open_streams()
    genai.flush_pending(1.0)


def report_losses_at_exit() -> None:
    """Log what could not be exported, once the providers that are created next have shut down."""
    # The handler registered first runs last, and the SDK's providers register theirs.
    atexit.unregister(_report_losses)
    atexit.register(_report_losses)


def _report_losses() -> None:
    setup = _current_setup()
    if setup is not None:
        setup.report_losses()


class _Current:
    setup: weakref.ref[Setup] | None = None


def _current_setup() -> Setup | None:
    return _Current.setup() if _Current.setup is not None else None


def _follow_forks(setup: Setup) -> None:
    """Register the set-up for forked children, and for a flush when pool workers end."""
    _Current.setup = weakref.ref(setup)
    _register_at_fork()
    _worker_exit.register()


@functools.cache
def _register_at_fork() -> None:
    # Once per process, because handlers cannot be unregistered.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reinitialize_after_fork)


def _reinitialize_after_fork() -> None:
    setup = _current_setup()
    if setup is not None:
        try:
            setup.reinitialize_after_fork()
            _worker_exit.register()
            _termination.reinitialize_after_fork()
        except Exception as error:
            internal_errors.log_once("setting up a forked process", error)


def _flush_at_exit(*, ends: bool = True) -> None:
    setup = _current_setup()
    if setup is not None:
        try:
            setup.flush_at_exit(ends=ends)
        except Exception as error:
            internal_errors.log_once("flushing the telemetry of a worker that ends", error)


_worker_exit = WorkerExitHook(_flush_at_exit)
_termination = TerminationHook(_flush_at_exit, _EXIT_LIMIT_S)
_server_exit = server_exit_patches(partial(_flush_at_exit, ends=False))
