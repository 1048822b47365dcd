"""The verdict of `llamatelemetry doctor`: whether the telemetry of an application would arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from llamatelemetry.cli.doctor.check import EXPORTER, Check, Effect

Telemetry = Literal["arrives", "partly", "fails", "off", "unknown"]


class Verdict(NamedTuple):
    """Whether telemetry arrives, and a sentence that also names what failed besides."""

    telemetry: Telemetry
    text: str


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """Return the verdict on all checks."""
    telemetry, text = _export(checks)
    failed = [check.section for check in checks if check.status == "fail"]
    warned = sum(check.status == "warn" for check in checks)
    warnings = f" ({_counted(warned, 'warning')})" if warned else ""
    if not failed:
        return Verdict(telemetry, f"Export: {text}{warnings}.")
    sections = ", ".join(dict.fromkeys(failed))
    failures = f"{_counted(len(failed), 'check')} failed: {sections}"
    return Verdict(telemetry, f"Export: {text}. {failures}{warnings}.")


def _export(checks: Sequence[Check]) -> tuple[Telemetry, str]:
    effects: set[Effect] = {check.effect for check in checks}
    exporters = [check for check in checks if check.section == EXPORTER]
    found: list[tuple[str, Effect]] = [(check.title, _effect(check)) for check in exporters]
    used = [each for each in found if each[1] not in ("", "off")]
    lost = _titles(used, "fails")
    if "blocks" in effects or (used and all(effect == "fails" for _, effect in used)):
        return "fails", "FAILED"
    if not used and _titles(found, "off"):
        return "off", "off"
    if lost:
        return "partly", f"PARTIAL, without {lost}"
    return _without_failure(effects, _titles(used, "unknown"))


def _without_failure(effects: set[Effect], untested: str) -> tuple[Telemetry, str]:
    if untested:
        return "unknown", f"UNKNOWN, doctor cannot test {untested}"
    if "unsampled" in effects:
        return "partly", "PARTIAL, without spans: the sampler drops them"
    if "uninstrumented" in effects:
        return "partly", "PARTIAL, without calls: no library is instrumented"
    return "arrives", "OK"


def _titles(found: Sequence[tuple[str, Effect]], wanted: Effect) -> str:
    return " and ".join(dict.fromkeys(title for title, effect in found if effect == wanted))


def _effect(check: Check) -> Effect:
    # A check that took too long has no effect of its own.
    return check.effect or ("fails" if check.status == "fail" else "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
