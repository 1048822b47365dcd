"""Load instrumentors, and choose one if several instrument the same library.

OpenTelemetry loads every installed instrumentor. Two instrumentors of one library then create two
spans for each call and count its tokens twice.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from opentelemetry.instrumentation.dependencies import (
    DependencyConflictError,
    get_dist_dependency_conflicts,
)
from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS,
)

from llamatelemetry.config import LlamaTelemetryConfig, active_config
from llamatelemetry.genai import internal_errors

GROUP = "opentelemetry_instrumentor"
COMPETING_INSTRUMENTORS: Mapping[str, frozenset[str]] = {
    "llamatelemetry_openai": frozenset({"openai", "openai_v2", "genai_openai"}),
    "llamatelemetry_llamacpp": frozenset({"llama_cpp", "llama_cpp_python", "llamacpp"}),
    "llamatelemetry_transformers": frozenset({"transformers", "huggingface_transformers"}),
}
"""llamatelemetry's entry points, and names of other entry points for the same library."""

INSTRUMENTOR_OPTIONS = (
    "phase_spans",
    "engine_latency_names",
    "capture_content",
    "content_max_chars",
    "strict_operation_names",
    "metric_names",
    "provider_name",
    "propagate",
    "propagate_hosts",
    "response_headers",
    "stream_usage",
    "diagnostics",
    "prompt_sections",
    "llamacpp_allow",
    "llamacpp_deny",
    "llamacpp_props",
)
"""Options that llamatelemetry's instrumentors read when they are loaded."""

_PREFIX = "llamatelemetry_"
_logger = logging.getLogger("llamatelemetry.distro")


def is_llamatelemetry(entry_point: EntryPoint) -> bool:
    """Return whether the entry point belongs to a plugin of llamatelemetry."""
    return entry_point.name.startswith(_PREFIX)


def preferred_instrumentor(
    entry_point: EntryPoint,
    installed: Sequence[EntryPoint],
    mode: str,
    environ: Mapping[str, str],
    disabled: frozenset[str] = frozenset(),
) -> EntryPoint | None:
    """Return the instrumentor to load instead of this one, or `None` to load this one.

    `mode` is the value of the option `instrumentors`. Neither the names in `disabled` nor those in
    `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` are loaded.
    """
    if not _can_be_replaced(entry_point, mode):
        return None
    return next(
        (
            other
            for other in installed
            if _are_competing(entry_point, other) and _can_load(other, environ, disabled)
        ),
        None,
    )


def _can_be_replaced(entry_point: EntryPoint, mode: str) -> bool:
    return mode != "all" and is_llamatelemetry(entry_point) == (mode == "theirs")


def skip_message(entry_point: EntryPoint, preferred: EntryPoint) -> str:
    """Return a message that an instrumentor is not loaded, why, and how to change that."""
    value = "ours" if is_llamatelemetry(entry_point) else "theirs"
    skipped = described(entry_point)
    return (
        f"Not loading instrumentor {skipped}: {described(preferred)} instruments the same "
        f"library. Set LLAMATELEMETRY_INSTRUMENTORS={value} to load {entry_point.name} instead, or "
        "=all to load both (duplicate spans)"
    )


def described(entry_point: EntryPoint) -> str:
    """Return `name (distribution version)`, because distributions can share a name."""
    found = entry_point.dist
    origin = f"{found.name} {found.version}" if found else entry_point.value
    return f"{entry_point.name} ({origin})"


def installed_instrumentors() -> list[EntryPoint]:
    """Return all installed instrumentors, in the order in which OpenTelemetry loads them."""
    return list(importlib.metadata.entry_points(group=GROUP))


@functools.cache
def _all_entry_points() -> Any:
    return importlib.metadata.entry_points()


def entry_points(group: str) -> list[EntryPoint]:
    """Return the installed entry points of a group, read once per configuration."""
    return list(_all_entry_points().select(group=group))


def load_instrumentors(distro: Any) -> None:
    """Load all instrumentors, with the checks and in the order of `opentelemetry-instrument`."""
    disabled = _disabled_names(os.environ)
    for entry_point in entry_points("opentelemetry_pre_instrument"):
        entry_point.load()()
    for entry_point in [] if "*" in disabled else entry_points(GROUP):
        if entry_point.name in disabled:
            _logger.debug("Not loading instrumentor %s: disabled", entry_point.name)
            continue
        conflict: Any = (
            get_dist_dependency_conflicts(entry_point.dist) if entry_point.dist else None
        )
        if conflict is None:
            distro.load_instrumentor(entry_point, skip_dep_check=True)
        else:
            # An installed library of another version is a problem, a missing library is not.
            is_installed = conflict.found or getattr(conflict, "found_any", None)
            level = logging.ERROR if is_installed else logging.DEBUG
            _logger.log(level, "Not loading instrumentor %s: %s", entry_point.name, conflict)
    for entry_point in entry_points("opentelemetry_post_instrument"):
        entry_point.load()()


def _disabled_names(environ: Mapping[str, str]) -> set[str]:
    variable = environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "")
    return {name.strip() for name in variable.split(",")}


def _are_competing(one: EntryPoint, other: EntryPoint) -> bool:
    if is_llamatelemetry(one) == is_llamatelemetry(other):
        return False
    own, competing = (one, other) if is_llamatelemetry(one) else (other, one)
    name = competing.name.lower().replace("-", "_").replace(".", "_")
    return name in COMPETING_INSTRUMENTORS.get(own.name, ())


def _can_load(
    entry_point: EntryPoint, environ: Mapping[str, str], disabled: frozenset[str]
) -> bool:
    names = _disabled_names(environ) | disabled
    if "*" in names or entry_point.name in names:
        return False
    found = entry_point.dist
    return found is None or get_dist_dependency_conflicts(found) is None


class Instrumentors:
    """The instrumentors of this process, so that their patches can be reverted."""

    def __init__(self) -> None:
        self._config: LlamaTelemetryConfig | None = None
        self._declared: Mapping[str, bool] = {}
        self._loaded: dict[str, Any] = {}
        """Value of the entry point to the instrumentor, or to `None` if it was not loaded."""
        self._skipped: set[str] = set()

    def prepare(
        self, config: LlamaTelemetryConfig, declared: Mapping[str, bool] | None = None
    ) -> None:
        """Set the options for the next instrumentors, and those that a declarative file names.

        `declared` maps a name to whether the file enables it. OpenTelemetry has loaded the enabled
        ones by then.
        """
        _all_entry_points.cache_clear()
        self._config = config
        self._declared = declared or {}

    def load(
        self, entry_point: EntryPoint, environ: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        """Load an instrumentor unless another one is preferred. Never raises."""
        if self._declared.get(entry_point.name) is False:
            _logger.debug("%s is disabled in the configuration file", entry_point.name)
            return
        mode = self.config.instrumentors
        disabled = frozenset(name for name, enabled in self._declared.items() if not enabled)
        # Reading the installed distributions takes long, so only if there may be another one.
        installed = entry_points(GROUP) if _can_be_replaced(entry_point, mode) else ()
        preferred = preferred_instrumentor(entry_point, installed, mode, environ, disabled)
        # The preferred one is loaded now, before its turn, because only that proves it can be.
        if preferred is None or not self._load(preferred, options):
            self._load(entry_point, options)
        elif entry_point.value not in self._skipped:
            self._skipped.add(entry_point.value)
            # The user chose any other mode explicitly, so log at INFO instead of WARNING.
            level = logging.WARNING if mode == "auto" else logging.INFO
            _logger.log(level, "%s", skip_message(entry_point, preferred))

    @property
    def config(self) -> LlamaTelemetryConfig:
        """The options that were set, by default those of `active_config()`."""
        return self._config or active_config()

    def reload_own(self, config: LlamaTelemetryConfig) -> None:
        """Instrument again with llamatelemetry's instrumentors and other options."""
        self._config = config
        for entry_point in installed_instrumentors():
            is_loaded = self._loaded.get(entry_point.value) is not None
            if is_llamatelemetry(entry_point) and is_loaded:
                self._uninstrument(self._loaded.pop(entry_point.value))
                self._load(entry_point, {"skip_dep_check": True})

    def uninstrument_all(self) -> None:
        """Revert everything that was loaded here, in reverse order."""
        loaded, self._loaded, self._skipped = self._loaded, {}, set()
        for instrumentor in reversed(loaded.values()):
            if instrumentor is not None:
                self._uninstrument(instrumentor)
        self._config, self._declared = None, {}

    def _load(self, entry_point: EntryPoint, options: Mapping[str, Any]) -> bool:
        if entry_point.value not in self._loaded:
            self._loaded[entry_point.value] = None
            try:
                self._loaded[entry_point.value] = self._instrumented(entry_point, options)
            except (ModuleNotFoundError, DependencyConflictError) as error:
                _logger.debug("Not loading instrumentor %s: %s", entry_point.name, error)
            except Exception as error:
                if is_llamatelemetry(entry_point):
                    where = f"loading the instrumentor {entry_point.name}"
                    internal_errors.log_once(where, error, may_quote=False)
                else:
                    _logger.exception("Instrumentor %s failed to load", described(entry_point))
        return self._loaded[entry_point.value] is not None

    def _instrumented(self, entry_point: EntryPoint, options: Mapping[str, Any]) -> Any:
        instrumentor = entry_point.load()()
        if getattr(instrumentor, "is_instrumented_by_opentelemetry", False):
            if entry_point.name in self._declared:
                return instrumentor
            if is_llamatelemetry(entry_point):
                self._warn_of_ignored_options(entry_point)
            return _EXTERNAL
        own = {"config": self.config} if is_llamatelemetry(entry_point) else {}
        instrumentor.instrument(**options, **own)
        return instrumentor

    def _warn_of_ignored_options(self, entry_point: EntryPoint) -> None:
        given = {name: self.config.option_value(name) for name in INSTRUMENTOR_OPTIONS}
        # It has already read those of the environment.
        in_code = [n for n, g in given.items() if g and g.origin in ("argument", "config")]
        if in_code:
            _logger.warning(
                "Ignored %s: instrumentor %s is already active. Call its uninstrument() before "
                "llamatelemetry.init()",
                ", ".join(in_code),
                entry_point.name,
            )

    def _uninstrument(self, instrumentor: Any) -> None:
        try:
            if instrumentor is not _EXTERNAL:
                instrumentor.uninstrument()
        except Exception:
            _logger.exception("%s failed to uninstrument", type(instrumentor).__name__)


_EXTERNAL = object()
"""Stands for an instrumentor that the application activated, and so must revert itself."""

instrumentors = Instrumentors()
