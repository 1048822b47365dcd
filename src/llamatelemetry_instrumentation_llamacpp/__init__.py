"""OpenTelemetry instrumentation of llama.cpp: the instrumentor, which patches nothing yet.

In this version the package reserves its place: OpenTelemetry finds, loads and reports
`LlamaCppInstrumentor` like any other instrumentor, but its patch table is empty, so no call is
traced by it. Calls to a llama.cpp server through the `openai` client are covered by
`llamatelemetry-instrumentation-openai`, engine timings included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import (
    DependencyConflict,
    get_dependency_conflicts,
)
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["LlamaCppInstrumentor"]

# The same as the `instruments-any` extra, which is what OpenTelemetry's loader reads.
_INSTRUMENTS_ANY = (
    "httpx >= 0.24",
    "httpx2 >= 2",
    "requests >= 2.28",
    "llama-cpp-python >= 0.2.80",
    "xllamacpp >= 2026",
)


class LlamaCppInstrumentor(BaseInstrumentor):
    """Loads, unloads and reports like any instrumentor; instruments nothing yet."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The libraries of which any one suffices."""
        return _INSTRUMENTS_ANY

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        # The base class would demand all of them.
        return get_dependency_conflicts((), self.instrumentation_dependencies())

    def _instrument(self, **kwargs: Any) -> None:
        """Apply an empty patch table, with or without OTEL_SDK_DISABLED.

        The arguments (`tracer_provider`, `meter_provider`, `logger_provider`, `config`) are
        accepted so that a caller can treat all plugins alike; nothing is recorded with them.
        """

    def _uninstrument(self, **kwargs: Any) -> None:
        """Revert an empty patch table."""
