"""``llamatelemetry doctor``: what OpenTelemetry would load here, and whether telemetry arrives.

For the person whose traces do not show up. Every check is one line with what to do about it.
Nothing is instrumented and no file is written; the only traffic is one empty export for each
signal, and two GETs when a server is named.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint

from llamatelemetry.cli import _doctor_exporters as exporters
from llamatelemetry.cli import _doctor_instrumentors as instrumentors
from llamatelemetry.cli import _doctor_loading as loading
from llamatelemetry.cli import _doctor_machine as machine
from llamatelemetry.cli import _doctor_report as report
from llamatelemetry.cli._doctor_check import Check, Job, run_side_by_side
from llamatelemetry.cli._doctor_config import config_checks, resolve
from llamatelemetry.cli._doctor_import import import_problems
from llamatelemetry.cli._doctor_reach import exporter_checks
from llamatelemetry.cli._doctor_versions import installed_distributions, version_checks
from llamatelemetry.config import LlamaTelemetryConfig

PROBE_TIMEOUT_S = 2.0
DEADLINE_S = 4.0
"""For all that waits, side by side; the rest takes a fraction of a second."""


def run_doctor(*, server: str | None = None, as_json: bool = False) -> int:
    """Print the report. Returns 0 when telemetry would arrive, 1 when not, 2 on a bad `server`."""
    if server is not None and not machine.is_server_url(server):
        sys.stderr.write(f"--server {server}: expected a URL such as http://127.0.0.1:8080\n")
        return 2
    checks = diagnose(os.environ, server)
    if as_json:
        sys.stdout.write(report.as_json(checks) + "\n")
    else:
        report.print_report(checks)
    return 1 if any(check.status == "fail" for check in checks) else 0


def diagnose(environ: Mapping[str, str], server: str | None = None) -> list[Check]:
    """Every check, in the order of the report."""
    distros = loading.installed_entry_points("opentelemetry_distro")
    configurators = loading.installed_entry_points("opentelemetry_configurator")
    chosen = loading.what_loads(distros, configurators, environ)
    environ = chosen.environ_after(environ)
    config, warnings = resolve(environ)
    imported, instrumented, *others = run_side_by_side(
        [
            Job(loading.SECTION, "import", partial(_imports, chosen), "warn"),
            Job(
                instrumentors.SECTION,
                "all",
                partial(_instrumentors, environ, config, chosen),
                "warn",
            ),
            *_exporter_jobs(environ, config, chosen),
            Job(machine.GPU_SECTION, "NVML", machine.gpu_checks, "info"),
            *_server_jobs(server),
        ],
        DEADLINE_S,
    )
    return [
        *version_checks(installed_distributions()),
        *loading.loading_checks(distros, configurators, environ),
        *imported,
        *instrumented,
        *config_checks(config, warnings),
        *(check for found in others for check in found),
    ]


def _imports(chosen: loading.Loading) -> list[Check]:
    found = [each for each in (chosen.distro, chosen.configurator) if each is not None]
    problems = import_problems([each.value for each in found], DEADLINE_S - 0.5)
    return loading.import_checks(found, problems)


def _instrumentors(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> list[Check]:
    found = loading.installed_entry_points("opentelemetry_instrumentor")

    def judge(broken: frozenset[str]) -> list[instrumentors.Verdict]:
        arbitrate = partial(_skipped, found, environ, config.instrumentors, broken)
        return instrumentors.judge(found, environ, arbitrate if chosen.distro_is_ours else None)

    verdicts = judge(frozenset())
    loads = [verdict.entry_point for verdict in verdicts if verdict.loads]
    problems = import_problems([each.value for each in loads], DEADLINE_S - 0.5)
    if problems:  # our distro falls back on the one that it would have skipped
        verdicts = judge(frozenset(each.name for each in loads if each.value in problems))
    return instrumentors.instrumentor_checks(instrumentors.with_imports(verdicts, problems))


def _skipped(
    installed: Sequence[EntryPoint],
    environ: Mapping[str, str],
    mode: str,
    broken: frozenset[str],
    entry_point: EntryPoint,
) -> str | None:
    """Why our distro would skip an instrumentor, in its own words; None when it loads it."""
    # Inside: a plugin alone has neither our distro nor the SDK that it needs.
    from llamatelemetry.distro import preferred_instrumentor, skip_message

    instead = preferred_instrumentor(entry_point, installed, mode, environ, broken)
    return None if instead is None else skip_message(entry_point, instead)


def _exporter_jobs(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> list[Job]:
    plans, said = _exporter_plans(environ, config, chosen)
    return [
        *(
            Job(exporters.SECTION, plan.signal, partial(exporter_checks, plan, PROBE_TIMEOUT_S))
            for plan in plans
        ),
        Job(exporters.SECTION, "all", lambda: said),
    ]


def _exporter_plans(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> tuple[list[exporters.SignalPlan], list[Check]]:
    """What is to be tried, and what can be said without."""
    declared = exporters.declarative_checks(environ)
    if declared:
        return [], declared
    if chosen.configurator is None:
        return [], [Check(exporters.SECTION, "info", "all", "not tried: nothing sets them up")]
    if not chosen.configurator_is_ours:
        plans = exporters.sdk_plans(environ)
        if chosen.exporters_are_foreseeable:
            return plans, exporters.nothing_leaves(plans, "OTEL_TRACES_EXPORTER")
        return plans, [exporters.unforeseeable(chosen.distro)]
    try:
        plans, warnings = exporters.our_plans(config, environ)
    except ImportError:  # the section above says which module is missing
        return [], [Check(exporters.SECTION, "warn", "all", "not tried: our distro is broken")]
    return plans, [*warnings, *exporters.nothing_leaves(plans, "LLAMATELEMETRY_EXPORTER")]


def _server_jobs(server: str | None) -> list[Job]:
    if server is None:
        return []
    run = partial(machine.server_checks, server, PROBE_TIMEOUT_S / 2)
    return [Job(machine.SERVER_SECTION, server, run)]
