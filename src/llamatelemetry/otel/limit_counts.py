"""The metric that counts the drops of this process at its limits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import Observation

from llamatelemetry._limits import LIMITS
from llamatelemetry.semconv.attributes import LIMIT_NAME
from llamatelemetry.semconv.metrics import LIMIT_DROPPED

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider


class LimitCounts:
    """Number of entries that each limit has dropped, since the metric or the process was created."""

    def __init__(self) -> None:
        self._before: Counter[str] = Counter()

    def reset_after_fork(self) -> None:
        """Start from zero in a forked child."""
        self._before = _dropped()

    def export_to(self, meter_provider: MeterProvider) -> None:
        """Create the metric on a provider. It counts from now on."""
        self._before = _dropped()
        spec = LIMIT_DROPPED
        meter_provider.get_meter("llamatelemetry").create_observable_counter(
            spec.name, [self._observe], spec.unit, spec.description
        )

    def _observe(self, _: CallbackOptions) -> list[Observation]:
        # A subtraction of counters keeps positive counts only.
        dropped = _dropped() - self._before
        return [Observation(count, {LIMIT_NAME: name}) for name, count in dropped.items()]


def _dropped() -> Counter[str]:
    return Counter({name: limit.dropped for name, limit in list(LIMITS.items())})


LIMIT_COUNTS: Final = LimitCounts()
