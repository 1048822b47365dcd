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
from llamatelemetry.config import sdk_disabled
from llamatelemetry.genai import PatchTable, plugin_instrumenter
from llamatelemetry_instrumentation_openai._one_client import (
    instrument_client,
    uninstrument_client,
)
from llamatelemetry_instrumentation_openai._patches import patch_points

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["OpenAIInstrumentor", "__version__", "instrument_client", "uninstrument_client"]


class OpenAIInstrumentor(BaseInstrumentor):
    """Records every call that an openai client of this process makes: one span, and metrics."""

    _table: PatchTable | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of openai that this package instruments."""
        return ("openai >= 1.26.0, < 4",)

    def _instrument(self, **kwargs: Any) -> None:
        """Patch the client, now or when it is imported; takes what `plugin_instrumenter` takes."""
        if sdk_disabled():
            return
        self.instrumenter = plugin_instrumenter(__name__, __version__, kwargs)
        if self._table is None:
            self._table = PatchTable(patch_points(self))
        self._table.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        if self._table is not None:
            self._table.revert()
