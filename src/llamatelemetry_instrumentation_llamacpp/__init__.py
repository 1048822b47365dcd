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

import importlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import (
    DependencyConflict,
    get_dependency_conflicts,
)
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

from llamatelemetry import __version__
from llamatelemetry.config import active_config, sdk_disabled
from llamatelemetry.genai import LibraryPatches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from llamatelemetry.genai import Instrumenter, PatchPoint
    from llamatelemetry_instrumentation_llamacpp._origins import Origins

__all__ = ["LlamaCppInstrumentor", "__version__"]

# Keep equal to the `instruments-any` extra, which OpenTelemetry's loader reads.
_INSTRUMENTS_ANY = (
    "httpx >= 0.24",
    "httpx2 >= 2",
    "requests >= 2.28",
    "aiohttp >= 3.8.3",
    "urllib3 >= 2",
    "llama-cpp-python >= 0.2.80",
    "xllamacpp >= 2026",
)

# The module of this package that patches each library. It is loaded together with the library.
PATCHED_BY = {
    "httpx": "_httpx",
    "httpx2": "_httpx",
    "requests": "_requests",
    "aiohttp": "_aiohttp",
    "urllib3": "_urllib3",
    "llama_cpp": "_llama_cpp",
    "xllamacpp": "_xllamacpp",
}


class LlamaCppInstrumentor(BaseInstrumentor):
    """Records one span and its metrics for each call to an inference server, or to llama.cpp here."""

    _patches: LibraryPatches | None = None
    _arguments: Mapping[str, Any] = {}

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
        self._arguments = {**kwargs, "config": active_config(kwargs.get("config"))}
        for name in ("instrumenter", "origins"):
            vars(self).pop(name, None)
        if self._patches is None:
            self._patches = LibraryPatches(
                {library: self._patch_points_of(library) for library in PATCHED_BY}
            )
        self._patches.apply()

    def _uninstrument(self, **_kwargs: Any) -> None:
        if self._patches is not None:
            self._patches.revert()

    def _patch_points_of(self, library: str) -> Callable[[], Iterable[PatchPoint]]:
        def patch_points() -> Iterable[PatchPoint]:
            module = importlib.import_module(f"{__name__}.{PATCHED_BY[library]}")
            # An invalid argument prevents patching instead of failing each call.
            _ = self.instrumenter, self.origins
            return module.patch_points(self, library)

        return patch_points

    @cached_property
    def instrumenter(self) -> Instrumenter:
        """Creates the calls, with the arguments of the last `instrument()`."""
        from llamatelemetry.genai import plugin_instrumenter

        return plugin_instrumenter(__name__, __version__, self._arguments)

    @cached_property
    def origins(self) -> Origins:
        """Which servers are inference servers, by the same arguments."""
        from llamatelemetry_instrumentation_llamacpp._origins import Origins

        options = self.instrumenter.config
        return Origins(options.llamacpp_allow, options.llamacpp_deny)
