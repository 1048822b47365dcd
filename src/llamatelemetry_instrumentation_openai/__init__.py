"""OpenTelemetry instrumentation of the `openai` client, for every server that it can talk to.

    from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument()

`opentelemetry-instrument` does this by itself. Neither importing this package nor instrumenting
imports `openai`: the client is patched when the application imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

from llamatelemetry import __version__
from llamatelemetry.config import active_config, sdk_disabled
from llamatelemetry_instrumentation_openai._patches import (
    instrument_client,
    patches,
    uninstrument_client,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from llamatelemetry.genai import Instrumenter

__all__ = ["OpenAIInstrumentor", "__version__", "instrument_client", "uninstrument_client"]


class OpenAIInstrumentor(BaseInstrumentor):
    """Records one span and its metrics for each call of every `openai` client in this process."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the supported versions of `openai`."""
        return ("openai >= 1.26.0, < 4",)

    def _instrument(self, **kwargs: Any) -> None:
        """Patch the client now or on import. Accepts the arguments of `plugin_instrumenter`."""
        if sdk_disabled():
            return
        arguments = {**kwargs, "config": active_config(kwargs.get("config"))}

        def make_instrumenter() -> Instrumenter:
            from llamatelemetry.genai import plugin_instrumenter

            return plugin_instrumenter(__name__, __version__, arguments)

        patches.instrument_all(make_instrumenter)

    def _uninstrument(self, **_kwargs: Any) -> None:
        patches.uninstrument_all()
