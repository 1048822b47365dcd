"""Spans and log records that are dropped because the queue of a batch processor is full.

They are counted in the metrics that the conventions define for the SDK. The SDK itself records
these only with OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.metrics import Observation

from llamatelemetry._limits import Count
from llamatelemetry.otel._sdk_private import observe_dropped_items
from llamatelemetry.semconv.metrics import SDK_LOGS_PROCESSED, SDK_SPANS_PROCESSED, CounterSpec

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider

_logger = logging.getLogger("llamatelemetry.otel")
_INTERVAL_S: Final = 60.0


class _Signal(NamedTuple):
    metric: CounterSpec
    items: str
    component: str
    variable: str


_SIGNALS: Final = {
    "traces": _Signal(
        SDK_SPANS_PROCESSED,
        "spans",
        "batching_span_processor",
        "OTEL_BSP_MAX_QUEUE_SIZE",
    ),
    "logs": _Signal(
        SDK_LOGS_PROCESSED,
        "log records",
        "batching_log_processor",
        "OTEL_BLRP_MAX_QUEUE_SIZE",
    ),
}


class DroppedItems:
    """Counts the dropped spans, or log records, of a provider, and warns once a minute.

    Args:
        signal: "traces" or "logs".
        provider: SDK provider whose batch processors are observed.
    """

    def __init__(self, signal: str, provider: object) -> None:
        self._signal = _SIGNALS[signal]
        self._count, self._unreported = Count(), Count()
        self._next_warning = 0.0
        observe_dropped_items(provider, self._add)

    def export_to(self, meter_provider: MeterProvider) -> None:
        """Export the count as a metric, unless the SDK does so."""
        if _sdk_records_dropped_items():
            return
        spec = self._signal.metric
        meter_provider.get_meter("llamatelemetry").create_observable_counter(
            spec.name, [self._observe], spec.unit, spec.description
        )

    def reset_after_fork(self) -> None:
        """Start from zero in a forked child."""
        self._count, self._unreported = Count(), Count()

    def report(self) -> None:
        """Log how many items were dropped since the last report, if any."""
        dropped = self._unreported.take()
        if dropped:
            _logger.warning(
                "Dropped %d %s because the export queue is full: the receiver is slow or does not "
                "respond. Check it with `llamatelemetry doctor`, or set %s to a higher value",
                dropped,
                self._signal.items,
                self._signal.variable,
            )

    def _add(self, count: int) -> None:
        self._count.add(count)
        self._unreported.add(count)
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _INTERVAL_S
            self.report()

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._count.value:
            attributes: dict[str, Any] = {
                "otel.component.type": self._signal.component,
                "otel.component.name": f"{self._signal.component}/0",
                "error.type": "queue_full",
            }
            yield Observation(self._count.value, attributes)


def _sdk_records_dropped_items() -> bool:
    return os.environ.get("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "").strip().lower() == "true"
