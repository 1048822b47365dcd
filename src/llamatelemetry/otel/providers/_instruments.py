"""Instruments that outlive the SDK meter which made the real ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from opentelemetry import metrics as metrics_api
from opentelemetry.metrics import CallbackOptions, CallbackT, Observation

from ._followers import Delegate

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

_logger = logging.getLogger("llamatelemetry.otel.providers")
_Generator: TypeAlias = Generator[Iterable[Observation], CallbackOptions, None]
_NO_OP_METER = metrics_api.NoOpMeter("llamatelemetry")


class StableInstrument(Delegate):
    """The part common to all: the real instrument is made anew by each meter."""

    create: ClassVar[str]
    """Name of the meter's method that makes the real instrument."""
    record_methods: ClassVar[tuple[str, ...]] = ()
    """Methods taken over from the real instrument, so that a measurement costs nothing more."""

    def __init__(self, meter: metrics_api.Meter, *arguments: Any, **options: Any) -> None:
        # Not the base's, which only checks the arguments: the real instrument does.
        self._arguments = arguments
        self._options = options
        # Here a bad name is the caller's to see.
        self._use(self._made_by(meter))

    def follow(self, source: metrics_api.Meter) -> None:
        """Records with an instrument of this meter from now on."""
        try:
            real = self._made_by(source)
        except Exception:
            # Accepted while no SDK was there, which checks nothing.
            _logger.exception("Instrument %r cannot be created", self._arguments[0])
            real = self._made_by(_NO_OP_METER)
        self._use(real)

    def _made_by(self, meter: metrics_api.Meter) -> object:
        return getattr(meter, self.create)(*self._arguments, **self._options)

    def _use(self, real: object) -> None:
        self._real = real
        for name in self.record_methods:
            setattr(self, name, getattr(real, name))


class StableCounter(StableInstrument, metrics_api.Counter):
    """A counter; see StableInstrument."""

    create = "create_counter"
    record_methods = ("add",)

    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Replaced on each instance by the real counter's method."""


class StableUpDownCounter(StableInstrument, metrics_api.UpDownCounter):
    """An up-down counter; see StableInstrument."""

    create = "create_up_down_counter"
    record_methods = ("add",)

    def add(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Replaced on each instance by the real counter's method."""


class StableHistogram(StableInstrument, metrics_api.Histogram):
    """A histogram; see StableInstrument."""

    create = "create_histogram"
    record_methods = ("record",)

    def record(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Replaced on each instance by the real histogram's method."""


class StableGauge(StableInstrument, metrics_api._Gauge):
    """A gauge; see StableInstrument."""

    create = "create_gauge"
    record_methods = ("set",)

    def set(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Replaced on each instance by the real gauge's method."""


class StableObservableCounter(StableInstrument, metrics_api.ObservableCounter):
    """An observable counter; see StableInstrument."""

    create = "create_observable_counter"


class StableObservableUpDownCounter(StableInstrument, metrics_api.ObservableUpDownCounter):
    """An observable up-down counter; see StableInstrument."""

    create = "create_observable_up_down_counter"


class StableObservableGauge(StableInstrument, metrics_api.ObservableGauge):
    """An observable gauge; see StableInstrument."""

    create = "create_observable_gauge"


def reusable_callbacks(callbacks: Sequence[CallbackT] | None) -> list[Callable[..., Any]]:
    """The callbacks as functions, which more than one SDK can be given.

    The SDK starts a callback that is a generator when it creates the instrument; a second SDK
    could not start it again.
    """
    return [
        _function(cast("_Generator", callback)) if isinstance(callback, Generator) else callback
        for callback in callbacks or ()
    ]


def _function(generator: _Generator) -> Callable[[CallbackOptions], Iterable[Observation]]:
    next(generator, None)  # to its first yield, where it waits for the options

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        try:
            return generator.send(options)
        except StopIteration:
            return ()

    return observe
