"""OpenTelemetry instrumentation of llama.cpp: its server over HTTP, and the bindings in this process.

    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

    LlamaCppInstrumentor().instrument()

Requests through httpx, httpx2 and requests are recorded when they go to a llama.cpp server, by
whatever client they are made; all others are left alone. Under ``opentelemetry-instrument``
nothing has to be called. Neither importing this package nor instrumenting imports any of these
libraries: they are patched when the program imports them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import (
    DependencyConflict,
    get_dependency_conflicts,
)
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

from llamatelemetry import __version__
from llamatelemetry.config import LlamaTelemetryConfig, effective_config, sdk_disabled
from llamatelemetry.genai import Instrumenter, PatchTable
from llamatelemetry_instrumentation_llamacpp import _httpx, _llama_cpp, _requests, _xllamacpp
from llamatelemetry_instrumentation_llamacpp._origins import Origins

if TYPE_CHECKING:
    from collections.abc import Collection

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.genai.completion_hook import CompletionHook

__all__ = ["LlamaCppInstrumentor", "__version__"]

# The same as the `instruments-any` extra, which is what OpenTelemetry's loader reads.
_INSTRUMENTS_ANY = (
    "httpx >= 0.24",
    "httpx2 >= 2",
    "requests >= 2.28",
    "llama-cpp-python >= 0.2.80",
    "xllamacpp >= 2026",
)


class LlamaCppInstrumentor(BaseInstrumentor):
    """Records every call to llama.cpp that this process makes: one span, and metrics."""

    _table: PatchTable | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The libraries of which any one suffices."""
        return _INSTRUMENTS_ANY

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        # The base class would demand all of them.
        return get_dependency_conflicts((), self.instrumentation_dependencies())

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
        """Patch the libraries, now or when they are imported.

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
        options = effective_config(config)
        self.instrumenter = Instrumenter(
            __name__,
            __version__,
            config=options,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
            completion_hook=completion_hook,
        )
        self.origins = Origins(options.llamacpp_allow, options.llamacpp_deny)
        if self._table is None:
            libraries = (_httpx, _requests, _llama_cpp, _xllamacpp)
            self._table = PatchTable(
                point for library in libraries for point in library.patch_points(self)
            )
        self._table.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        if self._table is not None:
            self._table.revert()
