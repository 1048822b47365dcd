"""The exporters of a plan that can be loaded, and their compression.

The SDK raises, for all signals, if one exporter is missing or if a variable has a value that only
the other protocol supports.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from llamatelemetry.distro._export_plan import PROMETHEUS_EXPORTER, ExportPlan
from llamatelemetry.distro._instrumentors import entry_points

_COMPRESSION = "OTEL_EXPORTER_OTLP_COMPRESSION"


def load_exporter(signal: str, name: str) -> type | None:
    """Return the class of an exporter; `None` if it is not installed."""
    found = entry_points(f"opentelemetry_{signal}_exporter")
    return next((each.load() for each in found if each.name == name), None)


def installed_exporters(plan: ExportPlan) -> ExportPlan:
    """Return the plan without the exporters that are not installed, each with a warning."""
    exporters: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    warnings = list(plan.warnings)
    for signal, named in plan.exporters.items():
        found = {name: each for name, each in named.items() if _is_installed(signal, name)}
        exporters[signal] = found
        warnings += [_missing_warning(signal, name, found) for name in named if name not in found]
    return ExportPlan(exporters, tuple(warnings))


def _is_installed(signal: str, name: str) -> bool:
    module = "opentelemetry.exporter.prometheus"
    if name == PROMETHEUS_EXPORTER and importlib.util.find_spec(module) is None:
        return False
    return any(each.name == name for each in entry_points(f"opentelemetry_{signal}_exporter"))


def _missing_warning(signal: str, name: str, others: Mapping[str, Any]) -> str:
    effect = f"Using {', '.join(others)}" if others else f"{signal.capitalize()} are not exported"
    if name == PROMETHEUS_EXPORTER:
        return (
            "The exporter prometheus needs opentelemetry-exporter-prometheus. Install it: pip "
            f"install 'llamatelemetry[prometheus]'. {effect}"
        )
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    return f"{variable} must name installed exporters, got {name!r}. {effect}"


def compression_variables(plan: ExportPlan, environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return the compression of each signal as variables that its exporter accepts.

    The gRPC exporter accepts only `gzip`, not even `none`. It reads the general variable, too, so
    the value is set for each signal that supports it.
    """
    variables = {
        signal: f"OTEL_EXPORTER_OTLP_{signal.upper()}_COMPRESSION" for signal in plan.exporters
    }
    if not any(environ.get(name) for name in (_COMPRESSION, *variables.values())):
        return {}
    found: dict[str, str | None] = {_COMPRESSION: None}
    for signal, variable in variables.items():
        value = environ.get(variable) or environ.get(_COMPRESSION) or None
        is_grpc = "otlp_proto_grpc" in plan.exporters[signal]
        found[variable] = None if is_grpc and value != "gzip" else value
    return found
