"""Loads instrumentors, and chooses where several instrument the same library.

OpenTelemetry loads all it finds: two instrumentors of one library then make two spans for one
call, and count its tokens twice.
"""

from __future__ import annotations

import logging
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
from opentelemetry.util._importlib_metadata import (
    entry_points,  # pyright: ignore[reportUnknownVariableType] - it has no types
)

from llamatelemetry.config import LlamaTelemetryConfig, effective_config
from llamatelemetry.genai import guard

GROUP = "opentelemetry_instrumentor"
RIVALS: Mapping[str, frozenset[str]] = {
    "llamatelemetry_openai": frozenset({"openai", "openai_v2", "genai_openai"}),
    "llamatelemetry_llamacpp": frozenset({"llama_cpp", "llama_cpp_python", "llamacpp"}),
    "llamatelemetry_transformers": frozenset({"transformers", "huggingface_transformers"}),
}
"""Entry points of ours to the names under which others instrument the same library."""

INSTRUMENTOR_OPTIONS = (
    "phase_spans",
    "capture_content",
    "content_max_chars",
    "strict_operation_names",
    "metric_names",
    "provider_name",
    "propagate",
    "llamacpp_allow",
    "llamacpp_deny",
    "llamacpp_props",
)
"""Options that our instrumentors read, when they are loaded."""

_OUR_PREFIX = "llamatelemetry_"
_logger = logging.getLogger("llamatelemetry.distro")


def is_ours(entry_point: EntryPoint) -> bool:
    """Whether one of our plugins is behind the entry point."""
    return entry_point.name.startswith(_OUR_PREFIX)


def stand_in(
    entry_point: EntryPoint,
    installed: Sequence[EntryPoint],
    mode: str,
    environ: Mapping[str, str],
    disabled: frozenset[str] = frozenset(),
) -> EntryPoint | None:
    """The instrumentor that is to be loaded in place of this one; None when this one is.

    Args:
        entry_point: the one in question.
        installed: every instrumentor there is.
        mode: the option `instrumentors`.
        environ: for OTEL_PYTHON_DISABLED_INSTRUMENTATIONS.
        disabled: further names that will not load.
    """
    if mode == "all" or is_ours(entry_point) != (mode == "theirs"):
        return None
    return next(
        (
            other
            for other in installed
            if _are_rivals(entry_point, other) and _can_load(other, environ, disabled)
        ),
        None,
    )


def skip_message(entry_point: EntryPoint, instead: EntryPoint) -> str:
    """What is not loaded, why, and how to choose otherwise."""
    other = "ours" if is_ours(entry_point) else "theirs"
    return (
        f"Instrumentor {described(entry_point)} is skipped: {described(instead)} instruments the "
        f"same library. LLAMATELEMETRY_INSTRUMENTORS={other} prefers the other one, "
        "=all loads both"
    )


def described(entry_point: EntryPoint) -> str:
    """`name (distribution version)`: several distributions use one and the same name."""
    found = entry_point.dist
    origin = f"{found.name} {found.version}" if found else entry_point.value
    return f"{entry_point.name} ({origin})"


def installed_instrumentors() -> list[EntryPoint]:
    """In the order in which OpenTelemetry loads them."""
    return list(entry_points(group=GROUP))


def _are_rivals(one: EntryPoint, other: EntryPoint) -> bool:
    if is_ours(one) == is_ours(other):
        return False
    ours, theirs = (one, other) if is_ours(one) else (other, one)
    return theirs.name.lower().replace("-", "_").replace(".", "_") in RIVALS.get(ours.name, ())


def _can_load(
    entry_point: EntryPoint, environ: Mapping[str, str], disabled: frozenset[str]
) -> bool:
    variable = environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "")
    names = {name.strip() for name in variable.split(",")} | disabled
    if "*" in names or entry_point.name in names:
        return False
    found = entry_point.dist
    return found is None or get_dist_dependency_conflicts(found) is None


class Instrumentors:
    """What this process has instrumented, so that it can be undone."""

    def __init__(self) -> None:
        self._config: LlamaTelemetryConfig | None = None
        self._declared: Mapping[str, bool] = {}
        self._loaded: dict[str, Any] = {}
        """By the entry point's value: the instrumentor, or None when it did not load."""
        self._skipped: set[str] = set()

    def prepare(
        self, config: LlamaTelemetryConfig, declared: Mapping[str, bool] | None = None
    ) -> None:
        """Says what the next instrumentors are loaded with.

        Args:
            config: handed to those of ours.
            declared: the instrumentors named in a declarative file, and whether it enables
                them; OpenTelemetry has loaded the enabled ones by then.
        """
        self._config = config
        self._declared = declared or {}

    def load(
        self, entry_point: EntryPoint, environ: Mapping[str, str], options: Mapping[str, Any]
    ) -> None:
        """Loads it unless another one stands in; no failure comes out of here."""
        if self._declared.get(entry_point.name) is False:
            _logger.debug("%s is disabled in the configuration file", entry_point.name)
            return
        mode = self.config.instrumentors
        disabled = frozenset(name for name, enabled in self._declared.items() if not enabled)
        instead = stand_in(entry_point, installed_instrumentors(), mode, environ, disabled)
        # It is loaded now, out of its turn, because only then is it certain that it loads.
        if instead is None or not self._load(instead, options):
            self._load(entry_point, options)
        elif entry_point.value not in self._skipped:
            self._skipped.add(entry_point.value)
            # Who has chosen in so many words need not be told.
            level = logging.WARNING if mode == "auto" else logging.INFO
            _logger.log(level, "%s", skip_message(entry_point, instead))

    @property
    def config(self) -> LlamaTelemetryConfig:
        """The configuration in force; from the environment when nobody has given one."""
        if self._config is None:
            self._config = effective_config()
        return self._config

    def reload_ours(self, config: LlamaTelemetryConfig) -> None:
        """Instruments with our own instrumentors anew, with other options."""
        self._config = config
        for entry_point in installed_instrumentors():
            if is_ours(entry_point) and self._loaded.get(entry_point.value) is not None:
                self._uninstrument(self._loaded.pop(entry_point.value))
                self._load(entry_point, {"skip_dep_check": True})

    def uninstrument_all(self) -> None:
        """Undoes everything that was loaded here, the last first."""
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
                _logger.debug("Instrumentor %s is skipped: %s", entry_point.name, error)
            except Exception as error:
                if is_ours(entry_point):
                    where = f"loading the instrumentor {entry_point.name}"
                    guard.report(where, error, may_quote=False)
                else:
                    _logger.exception("Instrumentor %s failed to load", described(entry_point))
        return self._loaded[entry_point.value] is not None

    def _instrumented(self, entry_point: EntryPoint, options: Mapping[str, Any]) -> Any:
        instrumentor = entry_point.load()()
        if getattr(instrumentor, "is_instrumented_by_opentelemetry", False):
            if entry_point.name in self._declared:
                return instrumentor
            if is_ours(entry_point):
                self._warn_of_unused(entry_point)
            return _OTHERS
        ours = {"config": self.config} if is_ours(entry_point) else {}
        instrumentor.instrument(**options, **ours)
        return instrumentor

    def _warn_of_unused(self, entry_point: EntryPoint) -> None:
        given = {name: self.config.given(name) for name in INSTRUMENTOR_OPTIONS}
        # From the environment it has them already.
        in_code = [n for n, g in given.items() if g and g.origin in ("argument", "config")]
        if in_code:
            _logger.warning(
                "%s was active before: not used by it: %s", entry_point.name, ", ".join(in_code)
            )

    def _uninstrument(self, instrumentor: Any) -> None:
        try:
            if instrumentor is not _OTHERS:
                instrumentor.uninstrument()
        except Exception:
            _logger.exception("%s failed to uninstrument", type(instrumentor).__name__)


_OTHERS = object()
"""An instrumentor that is active by somebody else's doing, who alone may undo it."""

instrumentors = Instrumentors()
