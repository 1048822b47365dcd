"""The delegating meter provider and its meters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry import metrics as metrics_api
from opentelemetry.sdk import metrics as metrics_sdk
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from llamatelemetry.otel.providers import _instruments as instruments
from llamatelemetry.otel.providers._delegation import (
    Delegate,
    DelegateRegistry,
    DelegatingProvider,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackT
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.util.types import Attributes

I = TypeVar("I", bound=instruments.DelegatingInstrument)  # noqa: E741 - an instrument


class DelegatingMeter(Delegate, metrics_api.Meter):
    """A meter that outlives the SDK provider that created the underlying meter."""

    def __init__(
        self,
        provider: metrics_api.MeterProvider,
        name: str,
        version: str | None,
        schema_url: str | None,
        attributes: Attributes,
    ) -> None:
        super().__init__(name, version=version, schema_url=schema_url)
        self._attributes = attributes
        self._real = self._create_real(provider)
        self._registry = DelegateRegistry[metrics_api.Meter, instruments.DelegatingInstrument](
            self._real
        )

    def set_delegate(self, source: metrics_api.MeterProvider) -> None:
        """Recreate the instruments of this meter on a meter of this provider."""
        self._real = self._create_real(source)
        self._registry.set_delegate(self._real)

    def _create_real(self, provider: metrics_api.MeterProvider) -> metrics_api.Meter:
        return provider.get_meter(self.name, self.version, self.schema_url, self._attributes)

    def create_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> metrics_api.Counter:
        """Return a counter that keeps working when the SDK is replaced."""
        return self._synchronous(instruments.DelegatingCounter, name, unit, description)

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> metrics_api.UpDownCounter:
        """Return an up-down counter that keeps working when the SDK is replaced."""
        return self._synchronous(instruments.DelegatingUpDownCounter, name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> metrics_api.Histogram:
        """Return a histogram that keeps working, with its buckets, when the SDK is replaced."""
        return self._synchronous(
            instruments.DelegatingHistogram,
            name,
            unit,
            description,
            explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
        )

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Any:
        """Return a gauge that keeps working when the SDK is replaced."""
        return self._synchronous(instruments.DelegatingGauge, name, unit, description)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> metrics_api.ObservableCounter:
        """Return an observable counter that every later SDK observes."""
        return self._observable(
            instruments.DelegatingObservableCounter, name, callbacks, unit, description
        )

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> metrics_api.ObservableUpDownCounter:
        """Return an observable up-down counter that every later SDK observes."""
        return self._observable(
            instruments.DelegatingObservableUpDownCounter, name, callbacks, unit, description
        )

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> metrics_api.ObservableGauge:
        """Return an observable gauge that every later SDK observes."""
        return self._observable(
            instruments.DelegatingObservableGauge, name, callbacks, unit, description
        )

    def _synchronous(self, kind: type[I], name: str, *rest: str, **options: Any) -> I:
        # The SDK warns about a second instrument with other buckets, so the key has the options.
        return self._instrument(
            (kind, _case_insensitive(name), *rest, repr(options)),
            lambda meter: kind(meter, name, *rest, **options),
            keep=False,
        )

    def _observable(
        self, kind: type[I], name: str, callbacks: Sequence[CallbackT] | None, *rest: str
    ) -> I:
        # Kept, because the application may hold no reference to anything but its callback.
        return self._instrument(
            (kind, _case_insensitive(name), *rest),
            lambda meter: kind(meter, name, instruments.reusable_callbacks(callbacks), *rest),
            keep=True,
        )

    def _instrument(
        self, key: Hashable, create: Callable[[metrics_api.Meter], I], *, keep: bool
    ) -> I:
        # The class is part of the key.
        return cast("I", self._registry.get(key, create, keep=keep))


def _case_insensitive(name: str) -> str:
    # The SDK treats instrument names that differ only in case as one instrument.
    return name.strip().lower()


class DelegatingMeterProvider(
    DelegatingProvider[metrics_sdk.MeterProvider, DelegatingMeter], metrics_sdk.MeterProvider
):
    """The meter provider that OpenTelemetry's global is set to, once per process."""

    def __init__(self) -> None:
        super().__init__(metrics_api.NoOpMeterProvider())

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> metrics_api.Meter:
        """Return a meter that keeps working when the SDK is replaced."""
        scope = (name, version, schema_url, attributes)
        # Kept, because only the meter has references to its observable instruments.
        return self._registry.get(
            InstrumentationScope(*scope), lambda source: DelegatingMeter(source, *scope), keep=True
        )

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Add the reader to the underlying SDK provider. It is removed with that provider."""
        if real := self._sdk_for(metric_reader):
            real.add_metric_reader(metric_reader)

    def remove_metric_reader(self, metric_reader: MetricReader) -> None:
        """Remove the reader from the underlying SDK provider."""
        if real := self._real:
            real.remove_metric_reader(metric_reader)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush the underlying SDK provider. Return `True` if there is none."""
        real = self._real
        return real.force_flush(timeout_millis) if real else True

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Shut the underlying SDK provider down. `init()` can attach another one."""
        if real := self.detach():
            real.shutdown(timeout_millis)
