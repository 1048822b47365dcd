"""OpenTelemetry instrumentation of Hugging Face Transformers: pipelines, and `generate` of any model.

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    TransformersInstrumentor().instrument()

No call is needed under `opentelemetry-instrument`. Neither importing this package nor instrumenting
imports transformers or torch: they are patched when the application imports them.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)
from opentelemetry.metrics import NoOpMeterProvider

from llamatelemetry import __version__
from llamatelemetry.config import active_config, sdk_disabled
from llamatelemetry.genai import PatchTable, plugin_instrumenter
from llamatelemetry_instrumentation_transformers._patches import patch_points

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["TransformersInstrumentor", "__version__"]

InitT = TypeVar("InitT", bound="Callable[..., None]")

_OPTIONS = ("record_events", "emit_metrics", "strict_operation_names")


def _note_what_is_given(init: InitT) -> InitT:
    """Tell an option that was given from its default, which says nothing to an active instrumentor."""

    @wraps(init)
    def noting(self: TransformersInstrumentor, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        given = dict(zip(_OPTIONS, args, strict=False)) | kwargs
        if given:
            self.choose(given)

    return cast("InitT", noting)


class TransformersInstrumentor(BaseInstrumentor):
    """Instrumentor that records every pipeline call and every `generate`: one span, and metrics.

    As every OpenTelemetry instrumentor, it is a singleton. Explicit options reconfigure an active
    instrumentor; uninstrumenting resets them.

    Args:
        record_events: Whether to record one span event per step of a generation.
        emit_metrics: Whether to record the GenAI metrics.
        strict_operation_names: Whether to record only well-known operation names.
    """

    _table: PatchTable | None = None
    _chosen: Mapping[str, bool] = {}
    _arguments: Mapping[str, Any] | None = None

    @_note_what_is_given
    def __init__(
        self,
        record_events: bool = False,
        emit_metrics: bool = True,
        strict_operation_names: bool = True,
    ) -> None:
        super().__init__()
        del (
            record_events,
            emit_metrics,
            strict_operation_names,
        )  # `choose` receives the explicit ones

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the supported versions of transformers."""
        return ("transformers >= 4.46, < 6",)

    def instrument(self, **kwargs: Any) -> None:
        """Instrument transformers. If it is already active, only the explicit options take effect."""
        if not (self.is_instrumented_by_opentelemetry and self._chosen and not kwargs):
            super().instrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        """Patch transformers, now or when it is imported. Accepts the arguments of `plugin_instrumenter`."""
        if sdk_disabled():
            return
        self._arguments = kwargs
        self._configure(kwargs)
        if self._table is None:
            self._table = PatchTable(patch_points(self))
        self._table.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        self._chosen, self._arguments = {}, None
        if self._table is not None:
            self._table.revert()

    def choose(self, given: Mapping[str, bool]) -> None:
        """Set explicit options. The constructor calls this with its arguments."""
        self._chosen = {**self._chosen, **given}
        if self._arguments is not None:
            self._configure(self._arguments)

    def _configure(self, arguments: Mapping[str, Any]) -> None:
        strict = self._chosen.get("strict_operation_names")
        config = active_config(arguments.get("config"), strict_operation_names=strict)
        handed: dict[str, Any] = {**arguments, "config": config}
        if not self._chosen.get("emit_metrics", True):
            handed["meter_provider"] = NoOpMeterProvider()
        self.record_events = self._chosen.get("record_events", False)
        self.instrumenter = plugin_instrumenter(__name__, __version__, handed)
