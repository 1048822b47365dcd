"""OpenTelemetry instrumentation of Hugging Face Transformers: pipelines, and `generate` of any model.

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    TransformersInstrumentor().instrument()

No call is needed under `opentelemetry-instrument`. Neither importing this package nor instrumenting
imports transformers or torch: they are patched when the application imports them.
"""

from __future__ import annotations

from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)
from opentelemetry.metrics import NoOpMeterProvider

from llamatelemetry import __version__
from llamatelemetry.config import active_config, sdk_disabled
from llamatelemetry.genai import PatchTable
from llamatelemetry_instrumentation_transformers._patches import (
    own_generate_patches,
    patch_points,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from llamatelemetry.genai import Instrumenter
    from llamatelemetry_instrumentation_transformers._own_generate import OwnGeneratePatches

__all__ = ["TransformersInstrumentor", "__version__"]

InitT = TypeVar("InitT", bound="Callable[..., None]")

_OPTIONS = ("record_events", "emit_metrics", "strict_operation_names")


def _apply_explicit_options(init: InitT) -> InitT:
    """Pass only explicit options to `set_explicit_options`.

    The instrumentor is a singleton, so the default of an option must not reset an active one.
    """

    @wraps(init)
    def apply_explicit(self: TransformersInstrumentor, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        given = dict(zip(_OPTIONS, args, strict=False)) | kwargs
        if given:
            self.set_explicit_options(given)

    return cast("InitT", apply_explicit)


class TransformersInstrumentor(BaseInstrumentor):
    """Instrumentor that records every pipeline call and every `generate`: one span, and metrics.

    As every OpenTelemetry instrumentor, it is a singleton. Explicit options reconfigure an active
    instrumentor; uninstrumenting resets them.

    Args:
        record_events: Whether to record one span event per step of a generation.
        emit_metrics: Whether to record the GenAI metrics.
        strict_operation_names: Whether to record only well-known operation names.

    Examples:
        >>> from llamatelemetry.transformers import TransformersInstrumentor
        >>> TransformersInstrumentor().instrument()
        >>> TransformersInstrumentor(record_events=True).instrument()  # Now with an event per step.
        >>> TransformersInstrumentor().uninstrument()
    """

    _table: PatchTable | None = None
    _own_generate: OwnGeneratePatches | None = None
    _explicit: Mapping[str, bool] = {}
    _arguments: Mapping[str, Any] | None = None
    _instrumenter_options: Mapping[str, Any] = {}

    @_apply_explicit_options
    def __init__(
        self,
        record_events: bool = False,
        emit_metrics: bool = True,
        strict_operation_names: bool = True,
    ) -> None:
        super().__init__()
        # `set_explicit_options` receives the explicit ones.
        del record_events, emit_metrics, strict_operation_names

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the supported versions of transformers."""
        return ("transformers >= 4.46, < 6",)

    def instrument(self, **kwargs: Any) -> None:
        """Instrument transformers. Does nothing if it is active and explicit options were applied."""
        if not (self.is_instrumented_by_opentelemetry and self._explicit and not kwargs):
            super().instrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        """Patch transformers now or on import. Accepts the arguments of `plugin_instrumenter`."""
        if sdk_disabled():
            return
        self._arguments = kwargs
        self._configure(kwargs)
        if self._table is None or self._own_generate is None:
            self._own_generate = own_generate_patches(self)
            self._table = PatchTable(patch_points(self, self._own_generate))
        self._table.apply()
        self._own_generate.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        self._explicit, self._arguments = {}, None
        if self._table is not None and self._own_generate is not None:
            self._table.revert()
            self._own_generate.revert()

    def set_explicit_options(self, given: Mapping[str, bool]) -> None:
        """Set options, from now on. The constructor calls this with its explicit arguments."""
        self._explicit = {**self._explicit, **given}
        if self._arguments is not None:
            self._configure(self._arguments)

    def _configure(self, arguments: Mapping[str, Any]) -> None:
        strict = self._explicit.get("strict_operation_names")
        config = active_config(arguments.get("config"), strict_operation_names=strict)
        options: dict[str, Any] = {**arguments, "config": config}
        if not self._explicit.get("emit_metrics", True):
            options["meter_provider"] = NoOpMeterProvider()
        self.record_events = self._explicit.get("record_events", False)
        self._instrumenter_options = options
        vars(self).pop("instrumenter", None)

    @cached_property
    def instrumenter(self) -> Instrumenter:
        """Creates the calls, with the present options. The first call creates it."""
        from llamatelemetry.genai import plugin_instrumenter

        return plugin_instrumenter(__name__, __version__, self._instrumenter_options)
