"""The distro and the configurator, loaded by OpenTelemetry through entry points.

Reads what OpenTelemetry offers to distros (`opentelemetry_distro`,
`opentelemetry_configurator`); what is done with it in code is in `llamatelemetry.lifecycle`.
"""

from __future__ import annotations

from ._configurator import LlamaTelemetryConfigurator, set_log_level
from ._distro import LlamaTelemetryDistro
from ._export_plan import ExportPlan, SignalExport, plan_exports
from ._instrumentors import (
    INSTRUMENTOR_OPTIONS,
    installed_instrumentors,
    instrumentors,
    skip_message,
    stand_in,
)
from ._sampling import only_errors, only_errors_or_slow, only_slow, ratio
from ._setup import Setup

__all__ = [
    "INSTRUMENTOR_OPTIONS",
    "ExportPlan",
    "LlamaTelemetryConfigurator",
    "LlamaTelemetryDistro",
    "Setup",
    "SignalExport",
    "installed_instrumentors",
    "instrumentors",
    "only_errors",
    "only_errors_or_slow",
    "only_slow",
    "plan_exports",
    "ratio",
    "set_log_level",
    "skip_message",
    "stand_in",
]
