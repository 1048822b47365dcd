"""The distro and configurator that OpenTelemetry would load.

Its rule (`opentelemetry.instrumentation.auto_instrumentation._load`): the entry point named by
`OTEL_PYTHON_DISTRO` or `OTEL_PYTHON_CONFIGURATOR`; without the variable, the first one in the
order of the file system, which is arbitrary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_CONFIGURATOR,
    OTEL_PYTHON_DISTRO,
)

from llamatelemetry.cli.doctor.check import Check, is_true, nearest

LLAMATELEMETRY = "llamatelemetry"
INSTALL = "pip install llamatelemetry"
_SET_BY_DISTRO = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
}
"""Variables that opentelemetry-distro sets if they are unset."""


@dataclass(frozen=True)
class Loading:
    """The distro and the configurator that would be loaded; `None` if none would."""

    distro: EntryPoint | None
    configurator: EntryPoint | None

    @property
    def distro_is_llamatelemetry(self) -> bool:
        """Whether llamatelemetry's distro chooses exporters and instrumentors."""
        return self.distro is not None and self.distro.name == LLAMATELEMETRY

    @property
    def configurator_is_llamatelemetry(self) -> bool:
        """Whether llamatelemetry's configurator sets up the SDK."""
        return self.configurator is not None and self.configurator.name == LLAMATELEMETRY

    @property
    def exporters_are_known(self) -> bool:
        """Whether configuration alone determines the exporters. A third-party distro may choose others."""
        known_distro = self.distro_is_llamatelemetry or self._distro_is_opentelemetry
        return self.distro is None or known_distro or self.configurator_is_llamatelemetry

    @property
    def _distro_is_opentelemetry(self) -> bool:
        return self.distro is not None and self.distro.module == "opentelemetry.distro"

    def environ_after(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """Return the environment as the configurator sees it, after the distro has changed it."""
        return {**_SET_BY_DISTRO, **environ} if self._distro_is_opentelemetry else environ


def installed_entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, in the order of OpenTelemetry's loader."""
    return list(entry_points(group=group))


def what_loads(
    distros: Sequence[EntryPoint], configurators: Sequence[EntryPoint], environ: Mapping[str, str]
) -> Loading:
    """Return what OpenTelemetry would load.

    llamatelemetry's distro selects llamatelemetry's configurator unless the variable is set.
    """
    distro = _choose(distros, environ.get(OTEL_PYTHON_DISTRO))
    wanted = environ.get(OTEL_PYTHON_CONFIGURATOR)
    if wanted is None and distro is not None and distro.name == LLAMATELEMETRY:
        wanted = LLAMATELEMETRY
    return Loading(distro, _choose(configurators, wanted))


def loading_checks(
    distros: Sequence[EntryPoint], configurators: Sequence[EntryPoint], environ: Mapping[str, str]
) -> list[Check]:
    """Check the distro, the configurator and `OTEL_SDK_DISABLED`."""
    loading = what_loads(distros, configurators, environ)
    return [
        *_disabled_check(environ),
        _distro_check(distros, loading, environ.get(OTEL_PYTHON_DISTRO)),
        _configurator_check(configurators, loading, environ.get(OTEL_PYTHON_CONFIGURATOR)),
    ]


def import_checks(entry_points: Sequence[EntryPoint], problems: Mapping[str, str]) -> list[Check]:
    """Return a failure for each distro or configurator that cannot be imported.

    OpenTelemetry then sets up nothing.
    """
    return [
        Check(
            "fail",
            described(each),
            f"cannot be imported: {problems[each.value]}",
            f"Reinstall {each.dist.name}" if each.dist else "",
            effect="blocks",
        )
        for each in entry_points
        if each.value in problems
    ]


def described(entry_point: EntryPoint) -> str:
    """Return `name (distribution version)`, because several distributions may use one name."""
    found = entry_point.dist
    origin = f"{found.name} {found.version}" if found else entry_point.value
    return f"{entry_point.name} ({origin})"


def _choose(entry_points: Sequence[EntryPoint], name: str | None) -> EntryPoint | None:
    return next((each for each in entry_points if name is None or each.name == name), None)


def _disabled_check(environ: Mapping[str, str]) -> list[Check]:
    if not is_true(environ.get("OTEL_SDK_DISABLED")):
        return []
    detail = "disabled by OTEL_SDK_DISABLED: nothing is recorded"
    return [Check("fail", "SDK", detail, "Unset OTEL_SDK_DISABLED", effect="blocks")]


def _distro_check(distros: Sequence[EntryPoint], loading: Loading, named: str | None) -> Check:
    if named is not None and loading.distro is None:
        return _unknown_name(OTEL_PYTHON_DISTRO, named, distros)
    if loading.distro is None:
        return Check("fail", "distro", "not installed: no exporter is chosen", f"Run: {INSTALL}")
    if named is None and len(distros) > 1:
        return _distro_conflict(distros, loading.distro)
    return _chosen_distro(distros, loading.distro, is_named=named is not None)


def _chosen_distro(distros: Sequence[EntryPoint], chosen: EntryPoint, *, is_named: bool) -> Check:
    origin = f"named by {OTEL_PYTHON_DISTRO}" if is_named else "the only one installed"
    detail = f"{described(chosen)}, {origin}"
    others = [each for each in distros if each is not chosen]
    if others:
        detail += f"; also installed: {_listed(others)}"
    if chosen.name == LLAMATELEMETRY:
        return Check("ok", "distro", detail)
    if any(each.name == LLAMATELEMETRY for each in others):
        detail += "; llamatelemetry's exporters, redaction and options do not apply"
        return Check("warn", "distro", detail, f"Set {OTEL_PYTHON_DISTRO}={LLAMATELEMETRY}")
    if is_named:
        return Check("ok", "distro", detail)
    return Check("info", "distro", detail, f"Run: {INSTALL} (for llamatelemetry's distro)")


def _distro_conflict(distros: Sequence[EntryPoint], first: EntryPoint) -> Check:
    detail = f"{len(distros)} are installed, {_listed(distros)}; the load order is arbitrary: "
    detail += f"{first.name} is first here"
    if all(each.name != LLAMATELEMETRY for each in distros):
        return Check("warn", "distro", detail, f"Set {OTEL_PYTHON_DISTRO}={first.name}")
    if first.name == LLAMATELEMETRY:
        detail += ", but perhaps not on another machine"
    return Check("fail", "distro", detail, f"Set {OTEL_PYTHON_DISTRO}={LLAMATELEMETRY}")


def _configurator_check(
    configurators: Sequence[EntryPoint], loading: Loading, named: str | None
) -> Check:
    title, chosen = "configurator", loading.configurator
    if named is not None and chosen is None:
        unknown = _unknown_name(OTEL_PYTHON_CONFIGURATOR, named, configurators)
        return replace(unknown, effect="blocks")
    if chosen is None:
        detail = "not installed: nothing sets up the SDK"
        return Check("fail", title, detail, f"Run: {INSTALL}", effect="blocks")
    detail = described(chosen)
    if chosen.name == LLAMATELEMETRY or not any(
        each.name == LLAMATELEMETRY for each in configurators
    ):
        why = _why_configurator(configurators, loading, named)
        return Check("ok", title, f"{detail}, {why}")
    if loading.distro_is_llamatelemetry:
        detail += f", named by {OTEL_PYTHON_CONFIGURATOR}, but the distro is llamatelemetry: "
        detail += "redaction, enrichment and the file exporter do not apply"
        return Check("warn", title, detail, f"Unset {OTEL_PYTHON_CONFIGURATOR}")
    return Check("info", title, f"{detail}; llamatelemetry's is not used")


def _why_configurator(
    configurators: Sequence[EntryPoint], loading: Loading, named: str | None
) -> str:
    if named is not None:
        return f"named by {OTEL_PYTHON_CONFIGURATOR}"
    if loading.distro_is_llamatelemetry:
        return "named by the distro"
    return "the only one installed" if len(configurators) == 1 else "first in the load order"


def _unknown_name(variable: str, named: str, entry_points: Sequence[EntryPoint]) -> Check:
    """Return a failure for a name that matches no entry point: OpenTelemetry then loads none."""
    title = "distro" if variable == OTEL_PYTHON_DISTRO else "configurator"
    names = sorted({each.name for each in entry_points})
    if not named:
        detail = f"{variable} is set but empty: OpenTelemetry looks for this name and loads none"
        return Check("fail", title, detail, f"Unset {variable}")
    detail = f"{variable}={named} is not installed; installed: {', '.join(names) or 'none'}"
    near = nearest(named, names) or (LLAMATELEMETRY if LLAMATELEMETRY in names else "")
    return Check("fail", title, detail, f"Set {variable}={near}" if near else f"Unset {variable}")


def _listed(entry_points: Sequence[EntryPoint]) -> str:
    return ", ".join(map(described, entry_points))
