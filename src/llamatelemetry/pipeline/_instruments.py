"""What work is recorded with: a tracer, the histograms of the conventions, the configuration."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.metrics import get_meter

from llamatelemetry import __version__
from llamatelemetry.config import config_in_use, effective_config
from llamatelemetry.otel.client_metrics import create_histogram
from llamatelemetry.semconv import metrics as specs

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.config import LlamaTelemetryConfig

_SCOPE: Final = "llamatelemetry.pipeline"


class Instruments:
    """A tracer and the histograms of `llamatelemetry.semconv.metrics.PIPELINE`.

    Args:
        tracer_provider: OpenTelemetry's global one when ``None``.
        meter_provider: likewise.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self.tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        meter = get_meter(_SCOPE, __version__, meter_provider)
        self._histograms = {spec: create_histogram(meter, spec) for spec in specs.PIPELINE}

    def record(self, spec: specs.HistogramSpec, value: float, attributes: dict[str, str]) -> None:
        """Record one point."""
        self._histograms[spec].record(value, attributes)


@cache
def global_instruments() -> Instruments:
    """Give those on OpenTelemetry's global providers."""
    return Instruments()


@cache
def _environments_config() -> LlamaTelemetryConfig:
    return effective_config()


def _config() -> LlamaTelemetryConfig:
    return config_in_use() or _environments_config()


def content_max_chars() -> int | None:
    """Up to where content goes on spans; ``None``, the default: none of it does."""
    config = _config()
    if config.capture_content not in {"span_only", "span_and_event"}:
        return None
    return config.content_max_chars
