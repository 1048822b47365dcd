"""Which distro and which configurator OpenTelemetry would load, by its own rule.

The rule (``opentelemetry.instrumentation.auto_instrumentation._load``): the entry point that
``OTEL_PYTHON_DISTRO`` or ``OTEL_PYTHON_CONFIGURATOR`` names; without the variable the first
one, in the order in which the file system lists the packages, which is as good as chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_CONFIGURATOR,
    OTEL_PYTHON_DISTRO,
)

from llamatelemetry.cli._doctor_check import Check, is_true, nearest

SECTION = "Distro"
OURS = "llamatelemetry"
INSTALL = "pip install llamatelemetry"
_SET_BY_DISTRO = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
}
"""What opentelemetry-distro sets where nothing is set."""


@dataclass(frozen=True)
class Loading:
    """What would be loaded; None where OpenTelemetry would load nothing."""

    distro: EntryPoint | None
    configurator: EntryPoint | None

    @property
    def distro_is_ours(self) -> bool:
        """Whether our distro, and with it our rules for exporters and rivals, is in charge."""
        return self.distro is not None and self.distro.name == OURS

    @property
    def configurator_is_ours(self) -> bool:
        """Whether our configurator sets up the SDK, and our rules for exporters hold."""
        return self.configurator is not None and self.configurator.name == OURS

    @property
    def exporters_are_foreseeable(self) -> bool:
        """Not when a distro that is not known here may choose others than the variables say."""
        known = self.distro is None or self.distro_is_ours or self._distro_is_opentelemetry
        return known or self.configurator_is_ours

    @property
    def _distro_is_opentelemetry(self) -> bool:
        return self.distro is not None and self.distro.module == "opentelemetry.distro"

    def environ_after(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """The environment as the configurator finds it, after the distro has had its turn."""
        return {**_SET_BY_DISTRO, **environ} if self._distro_is_opentelemetry else environ


def installed_entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, in the order in which OpenTelemetry loads them."""
    return list(entry_points(group=group))


def what_loads(
    distros: Sequence[EntryPoint], configurators: Sequence[EntryPoint], environ: Mapping[str, str]
) -> Loading:
    """OpenTelemetry's choice, and our distro's: it names our configurator when none is named."""
    distro = _choose(distros, environ.get(OTEL_PYTHON_DISTRO))
    wanted = environ.get(OTEL_PYTHON_CONFIGURATOR)
    if wanted is None and distro is not None and distro.name == OURS:
        wanted = OURS
    return Loading(distro, _choose(configurators, wanted))


def loading_checks(
    distros: Sequence[EntryPoint], configurators: Sequence[EntryPoint], environ: Mapping[str, str]
) -> list[Check]:
    """Distro, configurator, and the switch that turns the whole SDK off."""
    loading = what_loads(distros, configurators, environ)
    return [
        *_disabled_check(environ),
        _distro_check(distros, loading, environ.get(OTEL_PYTHON_DISTRO)),
        _configurator_check(configurators, loading, environ.get(OTEL_PYTHON_CONFIGURATOR)),
    ]


def import_checks(entry_points: Sequence[EntryPoint], problems: Mapping[str, str]) -> list[Check]:
    """A distro or configurator that fails on import: OpenTelemetry then sets up nothing at all."""
    return [
        Check(
            SECTION,
            "fail",
            described(each),
            f"cannot be imported: {problems[each.value]}",
            f"reinstall {each.dist.name}" if each.dist else "",
        )
        for each in entry_points
        if each.value in problems
    ]


def described(entry_point: EntryPoint) -> str:
    """``name (distribution version)``: several distributions use one and the same name."""
    found = entry_point.dist
    origin = f"{found.name} {found.version}" if found else entry_point.value
    return f"{entry_point.name} ({origin})"


def _choose(entry_points: Sequence[EntryPoint], name: str | None) -> EntryPoint | None:
    return next((each for each in entry_points if name is None or each.name == name), None)


def _disabled_check(environ: Mapping[str, str]) -> list[Check]:
    if not is_true(environ.get("OTEL_SDK_DISABLED")):
        return []
    return [
        Check(
            SECTION,
            "fail",
            "SDK",
            "disabled by OTEL_SDK_DISABLED: nothing is recorded, whatever else is set",
            "unset OTEL_SDK_DISABLED",
        )
    ]


def _distro_check(distros: Sequence[EntryPoint], loading: Loading, named: str | None) -> Check:
    if named is not None and loading.distro is None:
        return _unknown_name(OTEL_PYTHON_DISTRO, named, distros)
    if loading.distro is None:
        return Check(SECTION, "fail", "distro", "none is installed: no exporter is chosen", INSTALL)
    if named is not None:
        return _named_distro(distros, loading.distro)
    if len(distros) == 1:
        return _only_distro(loading.distro)
    return _distro_conflict(distros, loading.distro)


def _named_distro(distros: Sequence[EntryPoint], chosen: EntryPoint) -> Check:
    detail = f"{described(chosen)}, named by {OTEL_PYTHON_DISTRO}"
    others = [each for each in distros if each is not chosen]
    if others:
        detail += f"; also installed: {_listed(others)}"
    if chosen.name == OURS or all(each.name != OURS for each in others):
        return Check(SECTION, "ok", "distro", detail)
    detail += ". llamatelemetry's own exporters, redaction and options do not apply"
    return Check(SECTION, "warn", "distro", detail, f"{OTEL_PYTHON_DISTRO}={OURS}")


def _only_distro(chosen: EntryPoint) -> Check:
    detail = f"{described(chosen)}, the only one installed"
    if chosen.name == OURS:
        return Check(SECTION, "ok", "distro", detail)
    return Check(SECTION, "info", "distro", detail, f"{INSTALL} for llamatelemetry's own distro")


def _distro_conflict(distros: Sequence[EntryPoint], first: EntryPoint) -> Check:
    if all(each.name != OURS for each in distros):
        detail = (
            f"{len(distros)} are installed and chance decides: {_listed(distros)}; now {first.name}"
        )
        return Check(SECTION, "warn", "distro", detail, f"{OTEL_PYTHON_DISTRO}={first.name}")
    detail = f"{len(distros)} are installed, {_listed(distros)}, and the order of files decides: "
    detail += f"{first.name} is first"
    detail += " here, but perhaps not on the next machine" if first.name == OURS else ""
    return Check(SECTION, "fail", "distro", detail, f"{OTEL_PYTHON_DISTRO}={OURS}")


def _configurator_check(
    configurators: Sequence[EntryPoint], loading: Loading, named: str | None
) -> Check:
    title, chosen = "configurator", loading.configurator
    if named is not None and chosen is None:
        return _unknown_name(OTEL_PYTHON_CONFIGURATOR, named, configurators)
    if chosen is None:
        return Check(SECTION, "fail", title, "none is installed: nothing sets up the SDK", INSTALL)
    detail = described(chosen)
    if chosen.name == OURS or not any(each.name == OURS for each in configurators):
        why = _why_configurator(configurators, loading, named)
        return Check(SECTION, "ok", title, f"{detail}, {why}")
    if loading.distro_is_ours:
        detail += f", named by {OTEL_PYTHON_CONFIGURATOR} although llamatelemetry is the distro: "
        detail += "redaction, enrichment and the file exporter do not apply"
        return Check(SECTION, "warn", title, detail, f"unset {OTEL_PYTHON_CONFIGURATOR}")
    return Check(SECTION, "info", title, f"{detail}; llamatelemetry's is not used")


def _why_configurator(
    configurators: Sequence[EntryPoint], loading: Loading, named: str | None
) -> str:
    if named is not None:
        return f"named by {OTEL_PYTHON_CONFIGURATOR}"
    if loading.distro_is_ours:
        return "named by the distro"
    return "the only one installed" if len(configurators) == 1 else "first in the order of files"


def _unknown_name(variable: str, named: str, entry_points: Sequence[EntryPoint]) -> Check:
    """A name that matches nothing: OpenTelemetry says no word and loads nothing."""
    title = "distro" if variable == OTEL_PYTHON_DISTRO else "configurator"
    names = sorted({each.name for each in entry_points})
    if not named:
        detail = f"{variable} is set but empty: OpenTelemetry takes that for a name and loads none"
        return Check(SECTION, "fail", title, detail, f"unset {variable}")
    detail = f"{variable}={named} names none of: {', '.join(names) or 'nothing is installed'}"
    near = nearest(named, names) or (OURS if OURS in names else "")
    return Check(
        SECTION, "fail", title, detail, f"{variable}={near}" if near else f"unset {variable}"
    )


def _listed(entry_points: Sequence[EntryPoint]) -> str:
    return ", ".join(described(each) for each in entry_points)
