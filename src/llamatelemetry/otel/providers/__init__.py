"""The providers that OpenTelemetry's globals are set to, once per process.

OpenTelemetry lets its global providers be set a single time, while `init()` and `shutdown()`
may follow each other many times. These providers stay; the SDK's come and go behind them, and
tracers, meters, instruments and loggers that were obtained from them go on working.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs._internal import ProxyLoggerProvider
from opentelemetry.metrics._internal import (
    _ProxyMeterProvider,  # pyright: ignore[reportPrivateUsage] - metrics keep theirs private
)

from ._logging import StableLoggerProvider
from ._metrics import StableMeterProvider
from ._tracing import StableTracerProvider

__all__ = [
    "SIGNALS",
    "Signal",
    "StableLoggerProvider",
    "StableMeterProvider",
    "StableTracerProvider",
]


@dataclass(frozen=True)
class Signal:
    """One signal: its stable provider, and how OpenTelemetry's global is read and set."""

    name: str
    stable: StableTracerProvider | StableMeterProvider | StableLoggerProvider
    get_global: Callable[[], Any]
    set_global: Callable[[Any], None]
    unset: type[object]
    """What `get_global` returns an instance of as long as nobody has set a provider."""

    @property
    def foreign(self) -> Any | None:
        """The provider that somebody else has made the global one, if any."""
        provider = self.get_global()
        return None if provider is self.stable or isinstance(provider, self.unset) else provider

    def attach(self, provider: Any) -> None:
        """Puts an SDK provider behind the stable one, and that one into OpenTelemetry's global.

        In this order, so that whoever waits for the global finds it working.
        """
        self.stable.attach(provider)
        if isinstance(self.get_global(), self.unset):
            self.set_global(self.stable)


SIGNALS = {
    signal.name: signal
    for signal in (
        Signal(
            "traces",
            StableTracerProvider(),
            trace.get_tracer_provider,
            trace.set_tracer_provider,
            trace.ProxyTracerProvider,
        ),
        Signal(
            "metrics",
            StableMeterProvider(),
            metrics.get_meter_provider,
            metrics.set_meter_provider,
            _ProxyMeterProvider,
        ),
        Signal(
            "logs",
            StableLoggerProvider(),
            _logs.get_logger_provider,
            _logs.set_logger_provider,
            ProxyLoggerProvider,
        ),
    )
}
