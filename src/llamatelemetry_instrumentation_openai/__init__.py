"""OpenTelemetry instrumentation of the openai client, whatever server it talks to.

    from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument()

Under ``opentelemetry-instrument`` nothing has to be called. Importing this package does not
import openai, and neither does instrumenting: the client is patched when the program imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

from llamatelemetry import __version__
from llamatelemetry.config import LlamaTelemetryConfig, effective_config, sdk_disabled
from llamatelemetry.genai import Instrumenter, PatchTable
from llamatelemetry_instrumentation_openai._one_client import (
    instrument_client,
    uninstrument_client,
)
from llamatelemetry_instrumentation_openai._patches import patch_points

if TYPE_CHECKING:
    from collections.abc import Collection

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.genai.completion_hook import CompletionHook

__all__ = ["OpenAIInstrumentor", "__version__", "instrument_client", "uninstrument_client"]


class OpenAIInstrumentor(BaseInstrumentor):
    """Records every call that an openai client of this process makes: one span, and metrics."""

    _table: PatchTable | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of openai that this package instruments."""
        return ("openai >= 1.26.0, < 4",)

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
        """Patch the client, now or when it is imported.

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
        instrumenter = Instrumenter(
            __name__,
            __version__,
            config=effective_config(config),
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
            completion_hook=completion_hook,
        )
        if self._table is None:
            self._table = PatchTable(patch_points(self))
        self.instrumenter = instrumenter
        self._table.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        if self._table is not None:
            self._table.revert()
