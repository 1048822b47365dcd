"""The instrumentors that OpenTelemetry would load, and why it would not load the others.

The steps are those of OpenTelemetry's loader, in its order: disabled names, the `instruments`
extra of the distribution (checked by OpenTelemetry's own function), the distro's choice between
instrumentations of the same library, and the import of the instrumentor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS,
)
from packaging.requirements import Requirement

from llamatelemetry.cli.doctor.check import Check, Status
from llamatelemetry.cli.doctor.loading import described

Arbitrate = Callable[[EntryPoint], str | None]
"""Function that returns why the distro would not load an entry point, or `None`.

The text is a reason and a remedy, with a period between them."""


@dataclass(frozen=True)
class InstrumentorStatus:
    """Whether an entry point would be loaded, and why."""

    entry_point: EntryPoint
    loads: bool
    level: Status
    reason: str
    remedy: str = ""


def instrumentor_statuses(
    entry_points: Sequence[EntryPoint], environ: Mapping[str, str], arbitrate: Arbitrate | None
) -> list[InstrumentorStatus]:
    """Return the status of each entry point, in load order, without importing any."""
    disabled = environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").split(",")
    names = {name.strip() for name in disabled if name.strip()}
    return [_status_of(each, names, arbitrate) for each in entry_points]


def with_imports(
    statuses: Sequence[InstrumentorStatus], problems: Mapping[str, str]
) -> list[InstrumentorStatus]:
    """Return the statuses with import errors, by entry point value, applied."""
    return [
        replace(
            status,
            loads=False,
            level="warn",
            reason=f"cannot be imported: {problems[status.entry_point.value]}",
            remedy=f"Update or remove {_distribution(status.entry_point)}",
        )
        if status.loads and status.entry_point.value in problems
        else status
        for status in statuses
    ]


def instrumentor_checks(statuses: Sequence[InstrumentorStatus]) -> list[Check]:
    """Return one check for each entry point, and a failure if none would be loaded."""
    names = Counter(status.entry_point.name for status in statuses)
    checks = [_as_check(status, names) for status in statuses]
    if not any(status.loads for status in statuses):
        checks.append(_none_loads(statuses))
    return checks


def _status_of(
    entry_point: EntryPoint, disabled: set[str], arbitrate: Arbitrate | None
) -> InstrumentorStatus:
    if "*" in disabled or entry_point.name in disabled:
        reason = f"not loaded: disabled by {OTEL_PYTHON_DISABLED_INSTRUMENTATIONS}"
        remedy = f"Remove {'*' if '*' in disabled else entry_point.name} from that variable"
        return InstrumentorStatus(entry_point, False, "warn", reason, remedy)
    conflict = _conflict(entry_point)
    if conflict is not None:
        return conflict
    skipped = arbitrate(entry_point) if arbitrate else None
    if skipped is not None:
        reason, _, remedy = skipped.partition(". ")
        return InstrumentorStatus(entry_point, False, "info", f"not loaded: {reason}", remedy)
    return InstrumentorStatus(entry_point, True, "ok", "will be loaded")


def _conflict(entry_point: EntryPoint) -> InstrumentorStatus | None:
    """Return the status if the library is missing (normal) or its version is not supported."""
    distribution = entry_point.dist
    conflict = get_dist_dependency_conflicts(distribution) if distribution else None
    if conflict is None:
        return None
    required = [conflict.required] if conflict.required else list(conflict.required_any or ())
    wanted = " or ".join(_described_requirement(str(each)) for each in required)
    found = ", ".join([conflict.found] if conflict.found else conflict.found_any or ())
    if not found:
        return InstrumentorStatus(
            entry_point, False, "info", f"not loaded: {wanted} is not installed"
        )
    reason = f"not loaded: needs {wanted}, found {found}"
    remedy = f"Install a version in this range, or update {_distribution(entry_point)}"
    return InstrumentorStatus(entry_point, False, "warn", reason, remedy)


def _described_requirement(text: str) -> str:
    """Return `name (>=1,<2)`: without the marker, and with the lower limit first."""
    requirement = Requirement(text)
    limits = ",".join(sorted(map(str, requirement.specifier), reverse=True))
    return f"{requirement.name} ({limits})" if limits else requirement.name


def _as_check(status: InstrumentorStatus, names: Counter[str]) -> Check:
    entry_point = status.entry_point
    title = described(entry_point) if names[entry_point.name] > 1 else entry_point.name
    return Check(status.level, title, status.reason, status.remedy)


def _none_loads(statuses: Sequence[InstrumentorStatus]) -> Check:
    if statuses:
        detail, remedy = "none will be loaded: only the application's own spans are recorded", ""
    else:
        detail, remedy = "not installed", "Run: pip install llamatelemetry"
    return Check("fail", "all", detail, remedy, effect="uninstrumented")


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else entry_point.value
