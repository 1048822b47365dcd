"""Doctor predicts what OpenTelemetry's own loader loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.cli.doctor.imports import import_problems
from llamatelemetry.cli.doctor.instrumentors import (
    instrumentor_checks,
    instrumentor_statuses,
    with_imports,
)
from llamatelemetry.cli.doctor.loading import import_checks, loading_checks, what_loads
from llamatelemetry.cli.doctor.versions import version_checks
from tests.cli.throwaway import (
    CONFIGURATOR,
    DISTRO,
    INSTRUMENTOR,
    distributions_in,
    distro_entry_points,
    entry_points_in,
    install_distros,
    make_distribution,
)


def loading(folder: Path, environ: dict[str, str]) -> dict[str, tuple[str, str, str]]:
    checks = loading_checks(
        entry_points_in(folder, DISTRO), entry_points_in(folder, CONFIGURATOR), environ
    )
    return {check.title: (check.status, check.detail, check.remedy) for check in checks}


@pytest.mark.parametrize(
    ("installed", "environ", "status", "remedy"),
    [
        (("llamatelemetry",), {}, "ok", ""),
        (("distro",), {}, "info", "Run: pip install llamatelemetry (for llamatelemetry's distro)"),
        ((), {}, "fail", "Run: pip install llamatelemetry"),
        # Two distros and no variable: ambiguous, even if llamatelemetry is first here.
        (("distro", "llamatelemetry"), {}, "fail", "Set OTEL_PYTHON_DISTRO=llamatelemetry"),
        (("llamatelemetry", "other"), {}, "fail", "Set OTEL_PYTHON_DISTRO=llamatelemetry"),
        (("distro", "llamatelemetry"), {"OTEL_PYTHON_DISTRO": "llamatelemetry"}, "ok", ""),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "distro"},
            "warn",
            "Set OTEL_PYTHON_DISTRO=llamatelemetry",
        ),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "lamatelemetry"},
            "fail",
            "Set OTEL_PYTHON_DISTRO=llamatelemetry",
        ),
        (("distro",), {"OTEL_PYTHON_DISTRO": "distor"}, "fail", "Set OTEL_PYTHON_DISTRO=distro"),
        (("distro",), {"OTEL_PYTHON_DISTRO": ""}, "fail", "Unset OTEL_PYTHON_DISTRO"),
        (("a", "b"), {}, "warn", "Set OTEL_PYTHON_DISTRO=a"),
    ],
)
def test_distro_check_predicts_the_distro_and_names_the_variable(
    tmp_path, installed, environ, status, remedy
):
    install_distros(tmp_path, *installed)
    found = loading(tmp_path, environ)["distro"]
    assert (found[0], found[2]) == (status, remedy)


@pytest.mark.parametrize(
    ("installed", "environ", "status", "detail", "remedy"),
    [
        (("llamatelemetry",), {}, "ok", "named by the distro", ""),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "llamatelemetry"},
            "ok",
            "named by the distro",
            "",
        ),
        (("distro", "llamatelemetry"), {}, "info", "llamatelemetry's is not used", ""),
        (
            ("llamatelemetry",),
            {"OTEL_PYTHON_CONFIGURATOR": "llamatelemetri"},
            "fail",
            "is not installed; installed: llamatelemetry",
            "Set OTEL_PYTHON_CONFIGURATOR=llamatelemetry",
        ),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "llamatelemetry", "OTEL_PYTHON_CONFIGURATOR": "distro"},
            "warn",
            "named by OTEL_PYTHON_CONFIGURATOR, but",
            "Unset OTEL_PYTHON_CONFIGURATOR",
        ),
        ((), {}, "fail", "nothing sets up the SDK", "Run: pip install llamatelemetry"),
    ],
)
def test_configurator_check_predicts_the_configurator(  # noqa: PLR0917
    tmp_path, installed, environ, status, detail, remedy
):
    install_distros(tmp_path, *installed)
    found = loading(tmp_path, environ)["configurator"]
    assert (found[0], found[2]) == (status, remedy)
    assert detail in found[1]


def test_distro_conflict_names_both_distributions(tmp_path):
    install_distros(tmp_path, "distro", "llamatelemetry")
    detail = loading(tmp_path, {})["distro"][1]
    assert "distro (distro-dist 1.0)" in detail
    assert "llamatelemetry (llamatelemetry-dist 1.0)" in detail
    assert "distro is first" in detail


@pytest.mark.parametrize("value", ["true", " TRUE "])
def test_loading_checks_fail_when_sdk_is_disabled(tmp_path, value):
    install_distros(tmp_path, "llamatelemetry")
    status, detail, remedy = loading(tmp_path, {"OTEL_SDK_DISABLED": value})["SDK"]
    assert (status, remedy) == ("fail", "Unset OTEL_SDK_DISABLED")
    assert "disabled by OTEL_SDK_DISABLED" in detail


@pytest.mark.parametrize("value", ["1", "false", ""])
def test_loading_checks_ignore_other_values_of_sdk_disabled(tmp_path, value):
    install_distros(tmp_path, "llamatelemetry")
    assert "SDK" not in loading(tmp_path, {"OTEL_SDK_DISABLED": value})


REAL_LOADER = """
import json
from opentelemetry.instrumentation.auto_instrumentation import _load
from opentelemetry.instrumentation.distro import BaseDistro

class Recorder(BaseDistro):
    loaded = []
    def _configure(self, **kwargs): pass
    def load_instrumentor(self, entry_point, **kwargs):
        entry_point.load()
        self.loaded.append(entry_point.value)

distro = type(_load._load_distro()).__module__
_load._load_instrumentors(Recorder())
print(json.dumps([distro, Recorder.loaded]))
"""


def run_real_loader(folder: Path, environ: dict[str, str]) -> tuple[str, list[str]]:
    """Run OpenTelemetry's loader in a child process with `folder` at the front of its path."""
    output = subprocess.run(
        [sys.executable, "-c", REAL_LOADER],
        env={**os.environ, **environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    distro, loaded = json.loads(output.splitlines()[-1])
    return distro, loaded


@pytest.mark.parametrize("named", ["rival_a", "rival_b"])
def test_loading_check_agrees_with_opentelemetry_on_named_distro(tmp_path, named):
    install_distros(tmp_path, "rival_a", "rival_b")
    environ = {"OTEL_PYTHON_DISTRO": named}
    predicted = what_loads(entry_points_in(tmp_path, DISTRO), [], environ).distro
    assert predicted is not None
    assert predicted.value.partition(":")[0] == run_real_loader(tmp_path, environ)[0]


def install_instrumentors(folder: Path) -> None:
    """Install one instrumentor of each kind: good, disabled, absent, too new, broken, duplicate name."""
    make_distribution(folder, "library", "2.0")
    cases = {
        "good": ("library >= 2", "class I: pass"),
        "switched_off": ("library", "class I: pass"),
        "absent": ("no-such-library >= 1", "class I: pass"),
        "too_new": ("library < 2", "class I: pass"),
        "broken": ("library", "raise ImportError('written for another library')"),
    }
    for name, (wanted, source) in cases.items():
        make_distribution(
            folder,
            f"instr-{name}",
            entry_points={INSTRUMENTOR: {name: f"instr_{name}:I"}},
            requires=[f'{wanted}; extra == "instruments"'],
            modules={f"instr_{name}": source},
        )
    for rival in ("one", "two"):
        make_distribution(
            folder,
            f"rival-{rival}",
            entry_points={INSTRUMENTOR: {"openai": f"rival_{rival}:I"}},
            modules={f"rival_{rival}": "class I: pass"},
        )


@pytest.mark.slow
def test_instrumentor_statuses_agree_with_opentelemetry_loader(tmp_path, monkeypatch):
    install_instrumentors(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environ = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "other, switched_off"}
    found = entry_points_in(tmp_path, INSTRUMENTOR)
    statuses = instrumentor_statuses(found, environ, lambda entry_point: None)
    problems = import_problems([each.value for each in found if each.name != "absent"], 10)
    statuses = with_imports(statuses, problems)

    checks = {check.title: (check.status, check.detail) for check in instrumentor_checks(statuses)}
    assert checks == {
        "good": ("ok", "will be loaded"),
        "switched_off": ("warn", "not loaded: disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"),
        "absent": ("info", "not loaded: no-such-library (>=1) is not installed"),
        "too_new": ("warn", "not loaded: needs library (<2), found library 2.0"),
        "broken": (
            "warn",
            "cannot be imported: ImportError: written for another library",
        ),
        "openai (rival-one 1.0)": ("ok", "will be loaded"),
        "openai (rival-two 1.0)": ("ok", "will be loaded"),
    }
    _, loaded = run_real_loader(tmp_path, {**environ, "OTEL_PYTHON_DISTRO": "no distro"})
    known = {each.value for each in found}
    assert {each.entry_point.value for each in statuses if each.loads} == set(loaded) & known


def test_instrumentor_checks_show_why_the_distro_skips_one(tmp_path):
    install_instrumentors(tmp_path)
    found = [e for e in entry_points_in(tmp_path, INSTRUMENTOR) if e.name == "openai"]
    statuses = instrumentor_statuses(
        found, {}, lambda each: "another one is loaded" if "two" in each.value else None
    )
    details = {check.title: check.detail for check in instrumentor_checks(statuses)}
    assert details == {
        "openai (rival-one 1.0)": "will be loaded",
        "openai (rival-two 1.0)": "not loaded: another one is loaded",
    }


@pytest.mark.parametrize("names", ["*", "a, *", "openai"])
def test_instrumentor_checks_fail_when_none_would_be_loaded(tmp_path, names):
    make_distribution(tmp_path, "one", entry_points={INSTRUMENTOR: {"openai": "one:I"}})
    found = entry_points_in(tmp_path, INSTRUMENTOR)
    environ = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": names}
    checks = instrumentor_checks(instrumentor_statuses(found, environ, lambda each: None))
    assert [(check.title, check.status) for check in checks] == [
        ("openai", "warn"),
        ("all", "fail"),
    ]


def test_import_checks_fail_for_broken_distro(tmp_path, monkeypatch):
    modules = {"bad_module": "import no_such_module_anywhere"}
    make_distribution(
        tmp_path, "bad", entry_points=distro_entry_points("bad", "bad_module"), modules=modules
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = entry_points_in(tmp_path, DISTRO)
    [check] = import_checks(found, import_problems([each.value for each in found], 10))
    assert check.status == "fail"
    assert "No module named 'no_such_module_anywhere'" in check.detail


def test_import_problems_omit_import_that_hangs(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('no')")
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    problems = import_problems(["broken_one:x", "sleeps:x"], 2)
    assert problems == {"broken_one:x": "RuntimeError: no"}


def test_version_checks_fail_for_mixed_llamatelemetry_versions(tmp_path):
    make_distribution(tmp_path, "llamatelemetry", "1.2.0")
    make_distribution(tmp_path, "llamatelemetry-core", "1.1.0")
    make_distribution(tmp_path, "opentelemetry-sdk", "1.45.2")
    checks = {check.title: check for check in version_checks(distributions_in(tmp_path))}
    assert checks["llamatelemetry"].status == "fail"
    assert checks["llamatelemetry"].remedy == (
        "Run: pip install llamatelemetry==1.2.0 llamatelemetry-core==1.2.0"
    )


def test_version_checks_name_unmet_opentelemetry_requirements(tmp_path):
    make_distribution(tmp_path, "opentelemetry-api", "1.45.2")
    make_distribution(
        tmp_path, "opentelemetry-sdk", "1.40.0", requires=["opentelemetry-api==1.40.0"]
    )
    checks = {check.title: check for check in version_checks(distributions_in(tmp_path))}
    assert checks["opentelemetry"].status == "warn"
    assert checks["opentelemetry"].detail == (
        "opentelemetry-sdk 1.40.0 needs opentelemetry-api==1.40.0, found 1.45.2"
    )


def test_version_checks_fail_without_the_sdk(tmp_path):
    make_distribution(tmp_path, "openai", "3.54.0")
    checks = {check.title: check for check in version_checks(distributions_in(tmp_path))}
    assert checks["opentelemetry-sdk"].status == "fail"
    assert checks["libraries"].detail == "openai 3.54.0"
