"""Checks of installed versions. They read metadata only and import nothing."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from llamatelemetry.cli.doctor.check import Check

LLAMATELEMETRY = (
    "llamatelemetry",
    "llamatelemetry-core",
    "llamatelemetry-instrumentation-openai",
    "llamatelemetry-instrumentation-llamacpp",
    "llamatelemetry-instrumentation-transformers",
)
OPENTELEMETRY = (
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation",
    "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry-exporter-otlp-proto-http",
)
LIBRARIES = (
    "openai",
    "httpx",
    "httpx2",
    "requests",
    "aiohttp",
    "urllib3",
    "transformers",
    "torch",
    "xllamacpp",
    "llama-cpp-python",
)


def installed_distributions() -> dict[str, Distribution]:
    """Return the installed distributions by normalized name. The first one on the path is used."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name: str | None = distribution.metadata["Name"]
        if name:  # a partly deleted dist-info directory has no name
            found.setdefault(canonicalize_name(name), distribution)
    return found


def version_checks(installed: Mapping[str, Distribution], prefix: str = sys.prefix) -> list[Check]:
    """Check the versions of Python, llamatelemetry, OpenTelemetry and the traced libraries."""
    return [
        Check("info", "python", f"{platform.python_version()} in {prefix}"),
        *_launcher_check(shutil.which("opentelemetry-instrument"), prefix),
        _own_check(installed),
        *_opentelemetry_checks(installed),
        _library_check(installed),
    ]


def _launcher_check(found: str | None, prefix: str) -> list[Check]:
    """Check that `opentelemetry-instrument` on PATH belongs to this environment."""
    title = "opentelemetry-instrument"
    if found is None:
        detail, remedy = "not on PATH", f"Run it as {Path(prefix, 'bin', title)}"
    elif Path(found).parent.resolve().is_relative_to(Path(prefix).resolve()):
        return []
    else:
        detail = f"PATH contains {found}, which belongs to another environment"
        remedy = "Run doctor and the application in the environment of that command"
    return [Check("info" if found is None else "warn", title, detail, remedy)]


def _own_check(installed: Mapping[str, Distribution]) -> Check:
    versions = {name: installed[name].version for name in LLAMATELEMETRY if name in installed}
    if len(set(versions.values())) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        newest = installed.get("llamatelemetry", installed[next(iter(versions))]).version
        wanted = " ".join(f"{name}=={newest}" for name in versions)
        remedy = f"Run: pip install {wanted}"
        return Check("fail", "llamatelemetry", f"mixed versions: {listed}", remedy)
    missing = [name for name in LLAMATELEMETRY if name not in versions]
    version = next(iter(versions.values()), "not installed")
    detail = f"{version}, {len(versions)} of {len(LLAMATELEMETRY)} distributions"
    if missing:
        return Check("info", "llamatelemetry", f"{detail}; not installed: {', '.join(missing)}")
    return Check("ok", "llamatelemetry", detail)


def _opentelemetry_checks(installed: Mapping[str, Distribution]) -> list[Check]:
    checks: list[Check] = []
    for name in OPENTELEMETRY:
        if name in installed:
            checks.append(Check("ok", name, installed[name].version))
        elif name == "opentelemetry-sdk":
            detail = "not installed: nothing is recorded or exported"
            checks.append(Check("fail", name, detail, "Run: pip install llamatelemetry"))
        else:
            checks.append(Check("info", name, "not installed"))
    broken = _unsatisfied(installed)
    if broken:
        detail = "; ".join(broken)
        remedy = "Run: pip install --upgrade llamatelemetry, then pip check"
        checks.append(Check("warn", "opentelemetry", detail, remedy))
    return checks


def _unsatisfied(installed: Mapping[str, Distribution]) -> list[str]:
    """Return the unmet requirements between installed `opentelemetry-*` packages."""
    broken: list[str] = []
    for name, distribution in installed.items():
        if not name.startswith("opentelemetry-"):
            continue
        for line in distribution.requires or ():
            wanted = _sibling(line)
            other = installed.get(canonicalize_name(wanted.name)) if wanted else None
            if wanted and other and not wanted.specifier.contains(other.version, prereleases=True):
                broken.append(
                    f"{name} {distribution.version} needs {wanted}, found {other.version}"
                )
    return broken


def _sibling(line: str) -> Requirement | None:
    """Return the requirement if it is for an OpenTelemetry package and applies without extras."""
    if not line.lower().startswith("opentelemetry"):
        return None
    try:
        wanted = Requirement(line)
    except InvalidRequirement:
        return None
    return None if wanted.marker and not wanted.marker.evaluate({"extra": ""}) else wanted


def _library_check(installed: Mapping[str, Distribution]) -> Check:
    found = [f"{name} {installed[name].version}" for name in LIBRARIES if name in installed]
    if found:
        return Check("info", "libraries", ", ".join(found))
    detail = "no library that llamatelemetry traces is installed"
    return Check("warn", "libraries", detail, "Run: pip install openai")
