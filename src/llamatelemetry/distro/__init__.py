"""The distro and the configurator, which OpenTelemetry loads through entry points.

It implements OpenTelemetry's extension points for distros (`opentelemetry_distro`,
`opentelemetry_configurator`). `llamatelemetry.lifecycle` offers the same set-up in code.
"""

from __future__ import annotations

from llamatelemetry.distro._configurator import (
    LlamaTelemetryConfigurator,
    LlamaTelemetryDistro,
    set_log_level,
)
from llamatelemetry.distro._export_plan import ExportPlan, plan_exports
from llamatelemetry.distro._instrumentors import (
    INSTRUMENTOR_OPTIONS,
    installed_instrumentors,
    instrumentors,
    load_instrumentors,
    preferred_instrumentor,
    skip_message,
)
from llamatelemetry.distro._sampling import only_errors, only_errors_or_slow, only_slow, ratio
from llamatelemetry.distro._setup import Setup

__all__ = [
    "INSTRUMENTOR_OPTIONS",
    "ExportPlan",
    "LlamaTelemetryConfigurator",
    "LlamaTelemetryDistro",
    "Setup",
    "installed_instrumentors",
    "instrumentors",
    "load_instrumentors",
    "only_errors",
    "only_errors_or_slow",
    "only_slow",
    "plan_exports",
    "preferred_instrumentor",
    "ratio",
    "set_log_level",
    "skip_message",
]
