"""Metadata of the five distributions: they agree with each other and with the code.

`scripts/check_wheels.py` checks the built wheels in new environments.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, distribution, entry_points
from pathlib import Path

import pytest
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llamatelemetry

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("src/*/pyproject.toml"))
PLUGINS = [path for path in PACKAGES if "instrumentation" in path.name]
PROJECTS = {
    path: tomllib.loads((path / "pyproject.toml").read_text()) for path in [ROOT, *PACKAGES]
}
OURS = {project["project"]["name"] for project in PROJECTS.values()}

all_projects = pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.name)
all_packages = pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.name)
all_plugins = pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.name)


def test_repository_has_five_distributions():
    assert {
        "llamatelemetry",
        "llamatelemetry-core",
        "llamatelemetry-instrumentation-openai",
        "llamatelemetry-instrumentation-llamacpp",
        "llamatelemetry-instrumentation-transformers",
    } == OURS


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_distribution_has_version_of_core(name):
    """After a change of version, install again (`make test` does)."""
    assert distribution(name).version == llamatelemetry.__version__


def test_plugins_read_version_from_core_and_distro_repeats_it():
    assert PROJECTS[ROOT]["project"]["version"] == llamatelemetry.__version__
    for path in PACKAGES:
        version_file = (path / PROJECTS[path]["tool"]["hatch"]["version"]["path"]).resolve()
        assert version_file == ROOT / "src/llamatelemetry/__init__.py"


@all_projects
def test_distributions_require_each_other_in_exact_version(path):
    ours = [r for r in _requirements(path) if canonicalize_name(r.name) in OURS]
    assert {str(r.specifier) for r in ours} <= {f"=={llamatelemetry.__version__}"}


def test_distributions_require_only_lower_ones():
    depends = {
        PROJECTS[path]["project"]["name"]: {canonicalize_name(r.name) for r in _requirements(path)}
        for path in PROJECTS
    }
    plugins = {name for name in OURS if "instrumentation" in name}
    assert depends["llamatelemetry"] >= plugins | {"llamatelemetry-core", "opentelemetry-sdk"}
    assert depends["llamatelemetry-core"].isdisjoint(OURS | {"opentelemetry-sdk"})
    for plugin in plugins:
        assert depends[plugin] == {"llamatelemetry-core", "wrapt"}


@all_projects
def test_metadata_is_complete(path):
    project = PROJECTS[path]["project"]
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert project["description"]
    assert (path / project["readme"]).read_text().startswith(f"# {project['name']}\n")
    assert "Typing :: Typed" in project["classifiers"]


@all_packages
def test_every_package_has_license_and_type_marker(path):
    assert (path / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (path / "py.typed").is_file()


def test_classifiers_list_python_versions_of_ci():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    run = re.search(r"python: \[(.*)\]", workflow)
    assert run
    in_ci = {version.strip(' "') for version in run[1].split(",")}
    for path in PROJECTS:
        classifiers = PROJECTS[path]["project"]["classifiers"]
        assert in_ci == set(re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers)))


def test_entry_points_are_registered_by_distro_and_plugins_only():
    groups = {
        PROJECTS[path]["project"]["name"]: sorted(
            PROJECTS[path]["project"].get("entry-points", {}),
        )
        for path in PROJECTS
    }
    exporters = [f"opentelemetry_{kind}_exporter" for kind in ("logs", "metrics", "traces")]
    others = ["resource_detector", "sampler", "traces_sampler"]
    assert groups == {
        "llamatelemetry": sorted(
            [
                "opentelemetry_configurator",
                "opentelemetry_distro",
                *exporters,
                *(f"opentelemetry_{kind}" for kind in others),
            ],
        ),
        "llamatelemetry-core": [],
        "llamatelemetry-instrumentation-openai": ["opentelemetry_instrumentor"],
        "llamatelemetry-instrumentation-llamacpp": ["opentelemetry_instrumentor"],
        "llamatelemetry-instrumentation-transformers": ["opentelemetry_instrumentor"],
    }


@pytest.mark.parametrize(
    "entry_point",
    [
        point
        for path in PROJECTS
        for group, points in PROJECTS[path]["project"].get("entry-points", {}).items()
        for point in (EntryPoint(name, value, group) for name, value in points.items())
    ],
    ids=lambda point: f"{point.group}:{point.name}",
)
def test_every_entry_point_is_installed_and_loads(entry_point):
    (installed,) = entry_points(group=entry_point.group, name=entry_point.name)
    assert installed.value == entry_point.value
    assert installed.load()


@all_plugins
def test_instrumentor_dependencies_match_instruments_extra(path):
    """OpenTelemetry's loader reads the extra; `.instrument()` reads the method."""
    project = PROJECTS[path]["project"]
    extras = project["optional-dependencies"]
    assert len(extras) == 1
    (wanted,) = extras.values()
    assert _normal(_instrumentor(path).instrumentation_dependencies()) == _normal(wanted)


@all_plugins
def test_instrumentor_entry_point_names_are_unique(path):
    (name,) = PROJECTS[path]["project"]["entry-points"]["opentelemetry_instrumentor"]
    assert name == path.name.replace("_instrumentation", "")


def test_import_of_core_has_no_side_effects(tmp_path):
    """The import starts no thread, writes no file, and loads neither the SDK nor optional packages."""
    program = """
import os, sys, threading
before = dict(os.environ)
import llamatelemetry
assert dict(os.environ) == before, "changed the environment"
assert threading.active_count() == 1, threading.enumerate()
heavy = ["opentelemetry.sdk", "openai", "transformers", "torch", "httpx", "httpx2", "requests",
         "pynvml", "graphistry", "pandas", "rich", "typer", "xllamacpp", "grpc", "wrapt"]
assert [name for name in heavy if name in sys.modules] == []
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".coverage")] == []


@pytest.mark.parametrize("script", ["install", "check", "test"])
def test_scripts_are_executable(script):
    assert os.access(ROOT / "scripts" / script, os.X_OK)


def _requirements(path: Path) -> list[Requirement]:
    return [Requirement(text) for text in PROJECTS[path]["project"].get("dependencies", [])]


def _normal(requirements) -> set[str]:
    return {str(Requirement(text)) for text in requirements}


def _instrumentor(path: Path) -> BaseInstrumentor:
    points = PROJECTS[path]["project"]["entry-points"]["opentelemetry_instrumentor"]
    ((name, value),) = points.items()
    return EntryPoint(name, value, "opentelemetry_instrumentor").load()()
