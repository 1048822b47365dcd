"""Instruments that outlive the SDK meter that created the underlying instruments."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from opentelemetry import metrics as metrics_api
from opentelemetry.metrics import CallbackOptions, CallbackT, Observation

from llamatelemetry.otel.providers._delegation import Delegate

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

_logger = logging.getLogger("llamatelemetry.otel.providers")
_Generator: TypeAlias = Generator[Iterable[Observation], CallbackOptions, None]
_NO_OP_METER = metrics_api.NoOpMeter("llamatelemetry")


class DelegatingInstrument(Delegate):
    """Base of all instruments: each meter creates a new underlying instrument."""

    create: ClassVar[str]
    """Name of the meter's method that creates the underlying instrument."""
    record_methods: ClassVar[tuple[str, ...]] = ()
    """Methods copied from the underlying instrument, so that a measurement costs nothing extra."""

    def __init__(self, meter: metrics_api.Meter, *arguments: Any, **options: Any) -> None:
        # Skips the API's constructor, which only checks the arguments, as the SDK's does.
        self._arguments = arguments
        self._options = options
        # An invalid name raises here, in the caller's thread.
        self._use(self._create_real(meter))

    def set_delegate(self, source: metrics_api.Meter) -> None:
        """Record with an instrument of this meter from now on."""
        try:
            real = self._create_real(source)
        except Exception:
            # The no-op meter, which checks nothing, accepted the arguments before the set-up.
            _logger.exception(
                "Cannot create instrument %r; its measurements are dropped", self._arguments[0]
            )
            real = self._create_real(_NO_OP_METER)
        self._use(real)

    def _create_real(self, meter: metrics_api.Meter) -> object:
        return getattr(meter, self.create)(*self._arguments, **self._options)

    def _use(self, real: object) -> None:
        self._real = real
        for name in self.record_methods:
            setattr(self, name, getattr(real, name))


class _AddingInstrument(DelegatingInstrument):
    record_methods = ("add",)

    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Record with the underlying counter. Each instance overrides this method."""


class DelegatingCounter(_AddingInstrument, metrics_api.Counter):
    """A counter that keeps working when the SDK is replaced."""

    create = "create_counter"


class DelegatingUpDownCounter(_AddingInstrument, metrics_api.UpDownCounter):
    """An up-down counter that keeps working when the SDK is replaced."""

    create = "create_up_down_counter"


class DelegatingHistogram(DelegatingInstrument, metrics_api.Histogram):
    """A histogram that keeps working when the SDK is replaced."""

    create = "create_histogram"
    record_methods = ("record",)

    def record(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Record with the underlying histogram. Each instance overrides this method."""


class DelegatingGauge(DelegatingInstrument, metrics_api.Synchronous):
    """A gauge that keeps working when the SDK is replaced."""

    create = "create_gauge"
    record_methods = ("set",)

    def set(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Record with the underlying gauge. Each instance overrides this method."""


class DelegatingObservableCounter(DelegatingInstrument, metrics_api.ObservableCounter):
    """An observable counter that keeps working when the SDK is replaced."""

    create = "create_observable_counter"


class DelegatingObservableUpDownCounter(DelegatingInstrument, metrics_api.ObservableUpDownCounter):
    """An observable up-down counter that keeps working when the SDK is replaced."""

    create = "create_observable_up_down_counter"


class DelegatingObservableGauge(DelegatingInstrument, metrics_api.ObservableGauge):
    """An observable gauge that keeps working when the SDK is replaced."""

    create = "create_observable_gauge"


def reusable_callbacks(callbacks: Sequence[CallbackT] | None) -> list[Callable[..., Any]]:
    """Return the callbacks as functions, which several SDKs in turn can call.

    The SDK starts a generator callback when it creates the instrument. A second SDK could not
    start it again.
    """
    return [
        _function(cast("_Generator", callback)) if isinstance(callback, Generator) else callback
        for callback in callbacks or ()
    ]


def _function(generator: _Generator) -> Callable[[CallbackOptions], Iterable[Observation]]:
    # Advances to the first `yield`, where the generator waits for the options.
    next(generator, None)

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        try:
            return generator.send(options)
        except StopIteration:
            return ()

    return observe
