"""The stable meter provider and its meters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry import metrics as metrics_api
from opentelemetry.sdk import metrics as metrics_sdk
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from . import _instruments as stable
from ._followers import Delegate, Followers
from ._provider import StableProvider

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackT
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.util.types import Attributes

I = TypeVar("I", bound=stable.StableInstrument)  # noqa: E741 - an instrument


class StableMeter(Delegate, metrics_api.Meter):
    """A meter that outlives the SDK provider which made the real one."""

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
        self._real = self._made_by(provider)
        self._followers = Followers[metrics_api.Meter, stable.StableInstrument](self._real)

    def follow(self, source: metrics_api.MeterProvider) -> None:
        """Makes the instruments of this meter again on a meter of this provider."""
        self._real = self._made_by(source)
        self._followers.follow(self._real)

    def _made_by(self, provider: metrics_api.MeterProvider) -> metrics_api.Meter:
        return provider.get_meter(self.name, self.version, self.schema_url, self._attributes)

    def create_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> metrics_api.Counter:
        """A counter that goes on working when the SDK is replaced."""
        return self._synchronous(stable.StableCounter, name, unit, description)

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> metrics_api.UpDownCounter:
        """An up-down counter that goes on working when the SDK is replaced."""
        return self._synchronous(stable.StableUpDownCounter, name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> metrics_api.Histogram:
        """A histogram that goes on working, with its buckets, when the SDK is replaced."""
        return self._synchronous(
            stable.StableHistogram,
            name,
            unit,
            description,
            explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
        )

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> metrics_api._Gauge:
        """A gauge that goes on working when the SDK is replaced."""
        return self._synchronous(stable.StableGauge, name, unit, description)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> metrics_api.ObservableCounter:
        """An observable counter that is observed by whichever SDK is there."""
        return self._observable(stable.StableObservableCounter, name, callbacks, unit, description)

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> metrics_api.ObservableUpDownCounter:
        """An observable up-down counter that is observed by whichever SDK is there."""
        return self._observable(
            stable.StableObservableUpDownCounter, name, callbacks, unit, description
        )

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> metrics_api.ObservableGauge:
        """An observable gauge that is observed by whichever SDK is there."""
        return self._observable(stable.StableObservableGauge, name, callbacks, unit, description)

    def _synchronous(self, kind: type[I], name: str, *rest: str, **options: Any) -> I:
        # Whoever asks again with other buckets gets the SDK's warning, so they are in the key.
        return self._instrument(
            (kind, _folded(name), *rest, repr(options)),
            lambda meter: kind(meter, name, *rest, **options),
            keep=False,
        )

    def _observable(
        self, kind: type[I], name: str, callbacks: Sequence[CallbackT] | None, *rest: str
    ) -> I:
        # Kept: the application may hold on to nothing but its callback.
        return self._instrument(
            (kind, _folded(name), *rest),
            lambda meter: kind(meter, name, stable.reusable_callbacks(callbacks), *rest),
            keep=True,
        )

    def _instrument(
        self, key: Hashable, make: Callable[[metrics_api.Meter], I], *, keep: bool
    ) -> I:
        # The key holds the kind.
        return cast("I", self._followers.get(key, make, keep=keep))


def _folded(name: str) -> str:
    # Instrument names that differ in case only are one instrument to the SDK.
    return name.strip().lower()


class StableMeterProvider(
    StableProvider[metrics_sdk.MeterProvider, StableMeter], metrics_sdk.MeterProvider
):
    """The meter provider that OpenTelemetry's global is set to, once."""

    def __init__(self) -> None:
        super().__init__(metrics_api.NoOpMeterProvider())

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> metrics_api.Meter:
        """A meter that goes on working when the SDK is replaced."""
        scope = (name, version, schema_url, attributes)
        # Kept, because the meter alone knows its observable instruments.
        return self._followers.get(
            InstrumentationScope(*scope), lambda source: StableMeter(source, *scope), keep=True
        )

    def add_metric_reader(self, metric_reader: MetricReader) -> None:
        """Adds the reader to the SDK behind; it goes when that SDK goes."""
        if real := self._sdk_for(metric_reader):
            real.add_metric_reader(metric_reader)

    def remove_metric_reader(self, metric_reader: MetricReader) -> None:
        """Removes the reader from the SDK behind."""
        if real := self._real:
            real.remove_metric_reader(metric_reader)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flushes the SDK behind; nothing behind, nothing to flush."""
        real = self._real
        return real.force_flush(timeout_millis) if real else True

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Shuts the SDK behind down; `init()` can put another one here."""
        if real := self.detach():
            real.shutdown(timeout_millis)

    def _set_meter_configurator(self, *, meter_configurator: Any) -> None:
        if real := self._real:
            real._set_meter_configurator(meter_configurator=meter_configurator)
