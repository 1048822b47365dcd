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
from llamatelemetry.config import LlamaTelemetryConfig, effective_config, sdk_disabled
from llamatelemetry.genai import Instrumenter, PatchTable
from llamatelemetry_instrumentation_transformers._patches import patch_points

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.genai.completion_hook import CompletionHook

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

    def _instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        completion_hook: CompletionHook | None = None,
        config: LlamaTelemetryConfig | None = None,
        **_kwargs: Any,
    ) -> None:
        """Patch the library, now or when it is imported.

        Args:
            tracer_provider: OpenTelemetry's global one when not given.
            meter_provider: likewise.
            logger_provider: likewise; for the events that hold content.
            completion_hook: run with the content of each call, whether or not content is
                captured; the one that OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK names when
                not given.
            config: options; read from the environment when not given.
        """
        if sdk_disabled():
            return
        self._arguments = {
            "tracer_provider": tracer_provider,
            "meter_provider": meter_provider,
            "logger_provider": logger_provider,
            "completion_hook": completion_hook,
            "config": config,
        }
        self._configure(self._arguments)
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
        own: dict[str, Any] = {} if strict is None else {"strict_operation_names": strict}
        handed: dict[str, Any] = {
            **arguments,
            "config": effective_config(arguments["config"], **own),
        }
        if not self._chosen.get("emit_metrics", True):
            handed["meter_provider"] = NoOpMeterProvider()
        self.record_events = self._chosen.get("record_events", False)
        self.instrumenter = Instrumenter(__name__, __version__, **handed)
