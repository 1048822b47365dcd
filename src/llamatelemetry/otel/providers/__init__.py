"""The providers that OpenTelemetry's globals are set to, once per process.

OpenTelemetry's global providers can be set only once, but `init()` and `shutdown()` may be
called many times. These providers stay and delegate to a replaceable SDK provider. Tracers,
meters, instruments and loggers obtained from them keep working.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from opentelemetry import _logs, metrics, trace

from llamatelemetry.otel.providers._metrics import DelegatingMeterProvider
from llamatelemetry.otel.providers._traces_and_logs import (
    DelegatingLoggerProvider,
    DelegatingTracerProvider,
)

__all__ = [
    "SIGNALS",
    "DelegatingLoggerProvider",
    "DelegatingMeterProvider",
    "DelegatingTracerProvider",
    "Signal",
]


class Signal(NamedTuple):
    """One signal: its delegating provider, and access to OpenTelemetry's global provider.

    Attributes:
        name: Name of the signal: "traces", "metrics" or "logs".
        delegating: The delegating provider of this process.
        get_global: Returns the global provider.
        set_global: Sets the global provider.
        api: Module of the API of this signal.
        no_op: The API's no-op provider class, which an application may set as the global one.
    """

    name: str
    delegating: DelegatingTracerProvider | DelegatingMeterProvider | DelegatingLoggerProvider
    get_global: Callable[[], Any]
    set_global: Callable[[Any], None]
    api: ModuleType
    no_op: type[object]

    @property
    def is_unset(self) -> bool:
        """Whether no global provider is set. The API then returns a proxy of its own."""
        # The proxy classes of metrics and logs have no public name. They are the only classes
        # of the API, beside the no-op ones, that a global provider can be an instance of.
        provider: object = self.get_global()
        module = type(provider).__module__
        return not isinstance(provider, self.no_op) and module.startswith(self.api.__name__)

    @property
    def application_provider(self) -> Any | None:
        """The global provider, if the application set it."""
        provider = self.get_global()
        own = (self.delegating, self.delegating.sdk)
        return None if self.is_unset or any(provider is each for each in own) else provider

    def attach(self, provider: Any) -> None:
        """Delegate to an SDK provider, and make the delegating provider the global one.

        The order lets another thread that waits for the global find it working.
        """
        self.delegating.attach(provider)
        if self.is_unset:
            self.set_global(self.delegating)


SIGNALS = {
    signal.name: signal
    for signal in (
        Signal(
            "traces",
            DelegatingTracerProvider(),
            trace.get_tracer_provider,
            trace.set_tracer_provider,
            trace,
            trace.NoOpTracerProvider,
        ),
        Signal(
            "metrics",
            DelegatingMeterProvider(),
            metrics.get_meter_provider,
            metrics.set_meter_provider,
            metrics,
            metrics.NoOpMeterProvider,
        ),
        Signal(
            "logs",
            DelegatingLoggerProvider(),
            _logs.get_logger_provider,
            _logs.set_logger_provider,
            _logs,
            _logs.NoOpLoggerProvider,
        ),
    )
}
