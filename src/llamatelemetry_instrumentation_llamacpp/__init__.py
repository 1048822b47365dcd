"""OpenTelemetry instrumentation of inference servers over HTTP, and of llama.cpp in process.

    from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor

    LlamaCppInstrumentor().instrument()

Requests through httpx, httpx2, requests, aiohttp and urllib3 are recorded if they go to llama.cpp,
Ollama, vLLM, SGLang or another known server, independent of the library that builds them. All other
requests are passed on unchanged.
`opentelemetry-instrument` instruments by itself. Neither importing this package nor instrumenting
imports any of the libraries: they are patched when the application imports them.
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
from llamatelemetry_instrumentation_llamacpp import (
    _aiohttp,
    _httpx,
    _llama_cpp,
    _requests,
    _urllib3,
    _xllamacpp,
)
from llamatelemetry_instrumentation_llamacpp._origins import Origins

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["LlamaCppInstrumentor", "__version__"]

# Keep equal to the `instruments-any` extra, which OpenTelemetry's loader reads.
_INSTRUMENTS_ANY = (
    "httpx >= 0.24",
    "httpx2 >= 2",
    "requests >= 2.28",
    "aiohttp >= 3.8",
    "urllib3 >= 2",
    "llama-cpp-python >= 0.2.80",
    "xllamacpp >= 2026",
)


class LlamaCppInstrumentor(BaseInstrumentor):
    """Records one span and its metrics for each call to an inference server, or to llama.cpp here."""

    _table: PatchTable | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the supported libraries. Any one of them is sufficient."""
        return _INSTRUMENTS_ANY

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        # The base class requires all of them.
        return get_dependency_conflicts((), self.instrumentation_dependencies())

    def _instrument(self, **kwargs: Any) -> None:
        """Patch the libraries now or on import. Accepts the arguments of `plugin_instrumenter`."""
        if sdk_disabled():
            return
        self.instrumenter = plugin_instrumenter(__name__, __version__, kwargs)
        options = self.instrumenter.config
        self.origins = Origins(options.llamacpp_allow, options.llamacpp_deny)
        if self._table is None:
            libraries = (_httpx, _requests, _aiohttp, _urllib3, _llama_cpp, _xllamacpp)
            self._table = PatchTable(
                point for library in libraries for point in library.patch_points(self)
            )
        self._table.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        if self._table is not None:
            self._table.revert()
