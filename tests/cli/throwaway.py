"""Throw-away distributions: real dist-info folders and modules on a path of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path


def make_distribution(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    entry_points: Mapping[str, Mapping[str, str]] | None = None,
    requires: Sequence[str] = (),
    modules: Mapping[str, str] | None = None,
) -> None:
    """Write what an installer would: metadata, entry points by group, and module sources."""
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
    """The entry points of one group in `folder`, ordered by distribution name."""
    found = sorted(distributions(path=[str(folder)]), key=lambda each: each.name)
    return [
        each for distribution in found for each in distribution.entry_points.select(group=group)
    ]


def distributions_in(folder: Path) -> dict[str, Distribution]:
    return {each.name: each for each in distributions(path=[str(folder)])}
