"""Which instrumentors OpenTelemetry would load, and why it would skip the others.

The steps are those of OpenTelemetry's loader, in its order: the disabled names, the
``instruments`` extra of the distribution (its own function decides), the distro's
arbitration between rivals, and the import of the instrumentor itself.
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

from llamatelemetry.cli._doctor_check import Check, Status
from llamatelemetry.cli._doctor_loading import described

SECTION = "Instrumentors"

Arbitrate = Callable[[EntryPoint], str | None]
"""The distro's word on an entry point: why it would be skipped, or None when it loads."""


@dataclass(frozen=True)
class Verdict:
    """What would become of one entry point."""

    entry_point: EntryPoint
    loads: bool
    status: Status
    reason: str
    remedy: str = ""


def judge(
    entry_points: Sequence[EntryPoint], environ: Mapping[str, str], arbitrate: Arbitrate | None
) -> list[Verdict]:
    """A verdict on each entry point, in loading order, before anything is imported."""
    disabled = environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").split(",")
    names = {name.strip() for name in disabled if name.strip()}
    return [_judge_one(each, names, arbitrate) for each in entry_points]


def with_imports(verdicts: Sequence[Verdict], problems: Mapping[str, str]) -> list[Verdict]:
    """The same verdicts after an attempt to import: `problems` maps an entry point's value."""
    return [
        replace(
            verdict,
            loads=False,
            status="warn",
            reason=f"cannot be imported: {problems[verdict.entry_point.value]}",
            remedy=f"update or remove {_distribution(verdict.entry_point)}",
        )
        if verdict.loads and verdict.entry_point.value in problems
        else verdict
        for verdict in verdicts
    ]


def instrumentor_checks(verdicts: Sequence[Verdict]) -> list[Check]:
    """One line for each entry point, and a failure when not one of them would load."""
    names = Counter(verdict.entry_point.name for verdict in verdicts)
    checks = [_as_check(verdict, names) for verdict in verdicts]
    if not any(verdict.loads for verdict in verdicts):
        checks.append(_none_loads(verdicts))
    return checks


def _judge_one(entry_point: EntryPoint, disabled: set[str], arbitrate: Arbitrate | None) -> Verdict:
    if "*" in disabled or entry_point.name in disabled:
        reason = f"skipped: disabled by {OTEL_PYTHON_DISABLED_INSTRUMENTATIONS}"
        remedy = f"take {'*' if '*' in disabled else entry_point.name} out of that variable"
        return Verdict(entry_point, False, "warn", reason, remedy)
    conflict = _conflict(entry_point)
    if conflict is not None:
        return conflict
    skipped = arbitrate(entry_point) if arbitrate else None
    if skipped is not None:
        return Verdict(entry_point, False, "info", f"skipped: {skipped}")
    return Verdict(entry_point, True, "ok", "would load")


def _conflict(entry_point: EntryPoint) -> Verdict | None:
    """OpenTelemetry's own judgement of the versions; absent is normal, outside is not."""
    distribution = entry_point.dist
    conflict = get_dist_dependency_conflicts(distribution) if distribution else None
    if conflict is None:
        return None
    required = [conflict.required] if conflict.required else list(conflict.required_any or ())
    wanted = " or ".join(str(each).split(";")[0].strip() for each in required)  # no marker
    found = ", ".join([conflict.found] if conflict.found else conflict.found_any or ())
    if not found:
        return Verdict(entry_point, False, "info", f"skipped: {wanted} is not installed")
    reason = f"skipped: it needs {wanted}, found {found}"
    remedy = f"pip install a version inside the range, or update {_distribution(entry_point)}"
    return Verdict(entry_point, False, "warn", reason, remedy)


def _as_check(verdict: Verdict, names: Counter[str]) -> Check:
    entry_point = verdict.entry_point
    title = described(entry_point) if names[entry_point.name] > 1 else entry_point.name
    return Check(SECTION, verdict.status, title, verdict.reason, verdict.remedy)


def _none_loads(verdicts: Sequence[Verdict]) -> Check:
    if verdicts:
        detail, remedy = "none would load: only spans that the program makes itself", ""
    else:
        detail, remedy = "none is installed", "pip install llamatelemetry"
    return Check(SECTION, "fail", "all", detail, remedy)


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else entry_point.value
