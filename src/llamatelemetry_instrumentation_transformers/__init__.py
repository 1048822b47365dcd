"""OpenTelemetry instrumentation of Hugging Face Transformers: pipelines, and ``generate`` of any model.

    from llamatelemetry_instrumentation_transformers import TransformersInstrumentor

    TransformersInstrumentor().instrument()

Under ``opentelemetry-instrument`` nothing has to be called. Neither importing this package nor
instrumenting imports transformers or torch: they are patched when the program imports them.
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
    """Records every pipeline call and every ``generate`` of this process: one span, and metrics.

    There is one instrumentor in a process, as of every OpenTelemetry instrumentation. Options that
    are given explicitly count for it even when it is active already; uninstrumenting forgets them.

    Args:
        record_events: one event on the span for each step of a generation.
        emit_metrics: record the GenAI metrics.
        strict_operation_names: record only well-known operation names.
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
        )  # `choose` gets those that were given

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of transformers that this package instruments."""
        return ("transformers >= 4.46, < 6",)

    def instrument(self, **kwargs: Any) -> None:
        """Instrument; where that has happened already, explicit options are in force by now."""
        if not (self.is_instrumented_by_opentelemetry and self._chosen and not kwargs):
            super().instrument(**kwargs)

    def _instrument(self, **kwargs: Any) -> None:
        """Patch the library, now or when it is imported; takes what `plugin_instrumenter` takes."""
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
        """Let these options count from now on; the constructor does this with its arguments."""
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
