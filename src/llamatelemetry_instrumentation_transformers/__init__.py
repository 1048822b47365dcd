"""OpenTelemetry instrumentation of Hugging Face Transformers: patches nothing yet.

In this version the package reserves its place: OpenTelemetry finds, loads and reports
`TransformersInstrumentor` like any other instrumentor, but its patch table is empty, so no
pipeline and no `generate` call is traced by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["TransformersInstrumentor"]

# The same as the `instruments` extra, which is what OpenTelemetry's loader reads.
_INSTRUMENTS = ("transformers >= 4.46, < 6",)


class TransformersInstrumentor(BaseInstrumentor):
    """Loads, unloads and reports like any instrumentor; instruments nothing yet."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """The library this plugin is for."""
        return _INSTRUMENTS

    def _instrument(self, **kwargs: Any) -> None:
        """Apply an empty patch table, with or without OTEL_SDK_DISABLED.

        The arguments (`tracer_provider`, `meter_provider`, `logger_provider`, `config`) are
        accepted so that a caller can treat all plugins alike; nothing is recorded with them.
        """

    def _uninstrument(self, **kwargs: Any) -> None:
        """Revert an empty patch table."""
