"""Run the checks of `llamatelemetry doctor`.

They show what OpenTelemetry would load, and whether the export endpoints accept telemetry. Each
check is one line with a remedy. Nothing is instrumented and no file is written. The only network
traffic is one empty export per signal, and two GET requests to the server of `--server`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import EntryPoint

from llamatelemetry.cli.doctor import exporters, instrumentors, loading, machine, report
from llamatelemetry.cli.doctor.check import (
    EXPORTER,
    SERVER,
    Check,
    Job,
    in_section,
    run_in_parallel,
)
from llamatelemetry.cli.doctor.config import config_checks, resolve
from llamatelemetry.cli.doctor.imports import import_problems
from llamatelemetry.cli.doctor.reach import exporter_checks, without_disabling_all
from llamatelemetry.cli.doctor.sampling import sampling_checks
from llamatelemetry.cli.doctor.versions import installed_distributions, version_checks
from llamatelemetry.config import LlamaTelemetryConfig, mask_url
from llamatelemetry.config.otel_variables import without_invalid_values

PROBE_TIMEOUT_S = 2.0
DEADLINE_S = 8.0
"""Time limit for all checks that wait. They run in parallel; imports take some seconds."""


def run_doctor(*, server: str | None = None, as_json: bool = False, verbose: bool = False) -> int:
    """Print the report. Return 0 if no check failed, else 1."""
    checks, config = _diagnose(os.environ, server, verbose=verbose)
    if as_json:
        sys.stdout.write(report.as_json(checks, config) + "\n")
    else:
        report.print_report(checks)
    return 1 if any(check.status == "fail" for check in checks) else 0


def _diagnose(
    environ: Mapping[str, str], server: str | None, *, verbose: bool
) -> tuple[list[Check], LlamaTelemetryConfig]:
    """Return all checks, in the order of the report, and the effective configuration."""
    distros = loading.installed_entry_points("opentelemetry_distro")
    configurators = loading.installed_entry_points("opentelemetry_configurator")
    chosen = loading.what_loads(distros, configurators, environ)
    environ = chosen.environ_after(environ)
    config, warnings = resolve(environ)
    is_llamatelemetry = chosen.configurator_is_llamatelemetry
    if is_llamatelemetry:
        # The SDK never sees invalid values then, and `warnings` has them.
        environ = without_invalid_values(environ)
    imported, instrumented, *others = run_in_parallel(
        [
            Job("Distro", "import", partial(_imports, chosen), "warn"),
            Job("Instrumentors", "all", partial(_instrumentors, environ, config, chosen), "warn"),
            *_exporter_jobs(environ, config, chosen),
            Job("GPU", "NVML", machine.gpu_checks, "info"),
            *_server_jobs(server),
            *scrape_jobs(config),
        ],
        DEADLINE_S,
    )
    checks = [
        *in_section("Versions", version_checks(installed_distributions())),
        *in_section("Distro", loading.loading_checks(distros, configurators, environ)),
        *imported,
        *instrumented,
        *in_section("Configuration", config_checks(config, warnings, verbose=verbose)),
        *in_section("Sampling", _sampling(environ, config, chosen)),
        *without_disabling_all([check for found in others for check in found]),
    ]
    return checks, config


def _imports(chosen: loading.Loading) -> list[Check]:
    found = [each for each in (chosen.distro, chosen.configurator) if each is not None]
    problems = import_problems([each.value for each in found], DEADLINE_S - 0.5)
    return loading.import_checks(found, problems)


def _instrumentors(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> list[Check]:
    found = loading.installed_entry_points("opentelemetry_instrumentor")

    def statuses_without(broken: frozenset[str]) -> list[instrumentors.InstrumentorStatus]:
        arbitrate = partial(_skip_reason, found, environ, config.instrumentors, broken)
        return instrumentors.instrumentor_statuses(
            found, environ, arbitrate if chosen.distro_is_llamatelemetry else None
        )

    statuses = statuses_without(frozenset())
    loads = [status.entry_point for status in statuses if status.loads]
    problems = import_problems([each.value for each in loads], DEADLINE_S - 0.5)
    if problems:  # llamatelemetry's distro then loads the instrumentor that it would have skipped
        broken = frozenset(each.name for each in loads if each.value in problems)
        statuses = statuses_without(broken)
    return instrumentors.instrumentor_checks(instrumentors.with_imports(statuses, problems))


def _skip_reason(
    installed: Sequence[EntryPoint],
    environ: Mapping[str, str],
    mode: str,
    broken: frozenset[str],
    entry_point: EntryPoint,
) -> str | None:
    """Return why llamatelemetry's distro would skip an instrumentor; `None` if it loads it."""
    # Imported here: a plugin that is installed alone has neither the distro nor the SDK.
    from llamatelemetry.distro import preferred_instrumentor, skip_message

    preferred = preferred_instrumentor(entry_point, installed, mode, environ, broken)
    if preferred is None:
        return None
    # The message begins with "Not loading instrumentor NAME: ", which the report states already.
    return skip_message(entry_point, preferred).partition(": ")[2]


def _sampling(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> list[Check]:
    if chosen.configurator is None or environ.get("OTEL_CONFIG_FILE"):
        return []  # the file has its own sampler
    if not chosen.configurator_is_llamatelemetry:
        environ = without_invalid_values(environ)  # the SDK uses its default as well
    return sampling_checks(config, environ, is_llamatelemetry=chosen.configurator_is_llamatelemetry)


def _exporter_jobs(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> list[Job]:
    plans, checks = _exporter_plans(environ, config, chosen)
    return [
        *(
            Job(EXPORTER, plan.signal, partial(exporter_checks, plan, PROBE_TIMEOUT_S))
            for plan in plans
        ),
        Job(EXPORTER, "all", lambda: checks),
    ]


def _exporter_plans(
    environ: Mapping[str, str], config: LlamaTelemetryConfig, chosen: loading.Loading
) -> tuple[list[exporters.SignalPlan], list[Check]]:
    """Return the exporters to test, and the checks that need no test."""
    declared = exporters.declarative_checks(environ)
    if declared:
        return [], declared
    if chosen.configurator is None:
        return [], [Check("info", "all", "not tested: nothing sets up exporters")]
    if not chosen.configurator_is_llamatelemetry:
        plans = exporters.sdk_plans(environ)
        if chosen.exporters_are_known:
            return plans, exporters.nothing_exported(plans, "OTEL_TRACES_EXPORTER")
        return plans, [exporters.unknown_exporters(chosen.distro)]
    try:
        plans, warnings = exporters.llamatelemetry_plans(config, environ)
    except ImportError:  # the section Distro names the missing module
        detail = "not tested: llamatelemetry's distro cannot be imported"
        return [], [Check("warn", "all", detail)]
    nothing = exporters.nothing_exported(plans, "LLAMATELEMETRY_EXPORTER")
    providers = exporters.provider_checks(environ)
    replaced = {check.title for check in providers}
    plans = [plan for plan in plans if plan.signal not in replaced]
    return plans, [*providers, *warnings, *nothing]


def _server_jobs(server: str | None) -> list[Job]:
    if server is None:
        return []
    run = partial(machine.server_checks, server, PROBE_TIMEOUT_S / 2)
    return [Job(SERVER, mask_url(server), run)]


def scrape_jobs(config: LlamaTelemetryConfig) -> list[Job]:
    """Return a check for each server whose metrics are scraped."""
    return [
        Job("Server metrics", mask_url(url), partial(machine.scrape_checks, url))
        for url in config.scraped_urls()
    ]
