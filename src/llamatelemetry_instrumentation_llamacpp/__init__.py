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
from llamatelemetry.config import sdk_disabled
from llamatelemetry.genai import PatchTable, plugin_instrumenter
from llamatelemetry_instrumentation_llamacpp import _httpx, _llama_cpp, _requests, _xllamacpp
from llamatelemetry_instrumentation_llamacpp._origins import Origins

if TYPE_CHECKING:
    from collections.abc import Collection

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

    def _instrument(self, **kwargs: Any) -> None:
        """Patch the libraries, now or when they are imported; takes what `plugin_instrumenter` takes."""
        if sdk_disabled():
            return
        self.instrumenter = plugin_instrumenter(__name__, __version__, kwargs)
        options = self.instrumenter.config
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
