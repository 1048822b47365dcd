"""Temporary distributions: real dist-info directories and modules on a path of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path

DISTRO, CONFIGURATOR = "opentelemetry_distro", "opentelemetry_configurator"
INSTRUMENTOR = "opentelemetry_instrumentor"


def make_distribution(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    requires: Sequence[str] = (),
    modules: Mapping[str, str] | None = None,
) -> None:
    """Write metadata, entry points by group, and module sources, as an installer does."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    extras = ("instruments", "instruments-any")
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    text = "".join(
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in members.items())
        for group, members in (entry_points or {}).items()
    )
    (info / "entry_points.txt").write_text(text)
    for module, source in (modules or {}).items():
        (folder / f"{module}.py").write_text(source)


def entry_points_in(folder: Path, group: str) -> list[EntryPoint]:
    """Return the entry points of one group in `folder`, ordered by distribution name."""
    found = sorted(distributions(path=[str(folder)]), key=lambda each: each.name)
    return [
        each for distribution in found for each in distribution.entry_points.select(group=group)
    ]


def distributions_in(folder: Path) -> dict[str, Distribution]:
    return {each.name: each for each in distributions(path=[str(folder)])}


_DISTRO_MODULE = """
from opentelemetry.instrumentation.distro import BaseDistro

class Distro(BaseDistro):
    def _configure(self, **kwargs): pass

class Configurator:
    def configure(self, **kwargs): pass
"""


def distro_entry_points(name: str, module: str) -> dict[str, dict[str, str]]:
    return {
        DISTRO: {name: f"{module}:Distro"},
        CONFIGURATOR: {name: f"{module}:Configurator"},
    }


def install_distros(folder: Path, *names: str) -> None:
    """Install one distro per name. The first in alphabetical order is found first."""
    for name in names:
        module = f"{name}_module"
        make_distribution(
            folder,
            f"{name}-dist",
            entry_points=distro_entry_points(name, module),
            modules={module: _DISTRO_MODULE},
        )
