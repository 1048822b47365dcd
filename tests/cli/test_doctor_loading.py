"""What doctor says would be loaded is what OpenTelemetry's own loader then loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamatelemetry.cli._doctor_import import import_problems
from llamatelemetry.cli._doctor_instrumentors import instrumentor_checks, judge, with_imports
from llamatelemetry.cli._doctor_loading import import_checks, loading_checks, what_loads
from llamatelemetry.cli._doctor_versions import version_checks
from tests.cli.throwaway import distributions_in, entry_points_in, make_distribution

DISTRO, CONFIGURATOR = "opentelemetry_distro", "opentelemetry_configurator"
INSTRUMENTOR = "opentelemetry_instrumentor"

RIVAL_MODULE = """
from opentelemetry.instrumentation.distro import BaseDistro

class Distro(BaseDistro):
    def _configure(self, **kwargs): pass

class Configurator:
    def configure(self, **kwargs): pass
"""


def both(name: str, module: str) -> dict[str, dict[str, str]]:
    return {
        DISTRO: {name: f"{module}:Distro"},
        CONFIGURATOR: {name: f"{module}:Configurator"},
    }


def install(folder: Path, *names: str) -> None:
    """One distribution for each name; the first in alphabetical order is found first."""
    for name in names:
        module = f"{name}_module"
        make_distribution(
            folder, f"{name}-dist", entry_points=both(name, module), modules={module: RIVAL_MODULE}
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
        (("distro",), {}, "info", "pip install llamatelemetry for llamatelemetry's own distro"),
        ((), {}, "fail", "pip install llamatelemetry"),
        # Two of them and no variable: not certain, even where ours happens to be first.
        (("distro", "llamatelemetry"), {}, "fail", "OTEL_PYTHON_DISTRO=llamatelemetry"),
        (("llamatelemetry", "other"), {}, "fail", "OTEL_PYTHON_DISTRO=llamatelemetry"),
        (("distro", "llamatelemetry"), {"OTEL_PYTHON_DISTRO": "llamatelemetry"}, "ok", ""),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "distro"},
            "warn",
            "OTEL_PYTHON_DISTRO=llamatelemetry",
        ),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "lamatelemetry"},
            "fail",
            "OTEL_PYTHON_DISTRO=llamatelemetry",
        ),
        (("distro",), {"OTEL_PYTHON_DISTRO": "distor"}, "fail", "OTEL_PYTHON_DISTRO=distro"),
        (("distro",), {"OTEL_PYTHON_DISTRO": ""}, "fail", "unset OTEL_PYTHON_DISTRO"),
        (("a", "b"), {}, "warn", "OTEL_PYTHON_DISTRO=a"),
    ],
)
def test_the_distro_that_would_load_and_the_variable_that_settles_it(
    tmp_path, installed, environ, status, remedy
):
    install(tmp_path, *installed)
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
            "names none of: llamatelemetry",
            "OTEL_PYTHON_CONFIGURATOR=llamatelemetry",
        ),
        (
            ("distro", "llamatelemetry"),
            {"OTEL_PYTHON_DISTRO": "llamatelemetry", "OTEL_PYTHON_CONFIGURATOR": "distro"},
            "warn",
            "named by OTEL_PYTHON_CONFIGURATOR although",
            "unset OTEL_PYTHON_CONFIGURATOR",
        ),
        ((), {}, "fail", "nothing sets up the SDK", "pip install llamatelemetry"),
    ],
)
def test_the_configurator_that_would_load(tmp_path, installed, environ, status, detail, remedy):  # noqa: PLR0917
    install(tmp_path, *installed)
    found = loading(tmp_path, environ)["configurator"]
    assert (found[0], found[2]) == (status, remedy)
    assert detail in found[1]


def test_both_distributions_of_a_conflict_are_named(tmp_path):
    install(tmp_path, "distro", "llamatelemetry")
    detail = loading(tmp_path, {})["distro"][1]
    assert "distro (distro-dist 1.0)" in detail
    assert "llamatelemetry (llamatelemetry-dist 1.0)" in detail
    assert "distro is first" in detail


@pytest.mark.parametrize("value", ["true", " TRUE "])
def test_a_disabled_sdk_fails(tmp_path, value):
    install(tmp_path, "llamatelemetry")
    status, detail, remedy = loading(tmp_path, {"OTEL_SDK_DISABLED": value})["SDK"]
    assert (status, remedy) == ("fail", "unset OTEL_SDK_DISABLED")
    assert "disabled by OTEL_SDK_DISABLED" in detail


@pytest.mark.parametrize("value", ["1", "false", ""])
def test_only_true_disables_the_sdk(tmp_path, value):
    install(tmp_path, "llamatelemetry")
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
    """OpenTelemetry's loader in a child that sees `folder` before everything else."""
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
def test_the_distro_named_by_the_variable_is_the_one_opentelemetry_loads(tmp_path, named):
    install(tmp_path, "rival_a", "rival_b")
    environ = {"OTEL_PYTHON_DISTRO": named}
    foretold = what_loads(entry_points_in(tmp_path, DISTRO), [], environ).distro
    assert foretold is not None
    assert foretold.value.partition(":")[0] == run_real_loader(tmp_path, environ)[0]


def install_instrumentors(folder: Path) -> None:
    """One of each fate: loads, disabled, absent, too old, broken, and two of one name."""
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
def test_every_instrumentor_has_its_fate_and_opentelemetry_agrees(tmp_path, monkeypatch):
    install_instrumentors(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    environ = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "other, switched_off"}
    found = entry_points_in(tmp_path, INSTRUMENTOR)
    verdicts = judge(found, environ, lambda entry_point: None)
    problems = import_problems([each.value for each in found if each.name != "absent"], 10)
    verdicts = with_imports(verdicts, problems)

    checks = {check.title: (check.status, check.detail) for check in instrumentor_checks(verdicts)}
    assert checks == {
        "good": ("ok", "would load"),
        "switched_off": ("warn", "skipped: disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"),
        "absent": ("info", "skipped: no-such-library>=1 is not installed"),
        "too_new": ("warn", "skipped: it needs library<2, found library 2.0"),
        "broken": (
            "warn",
            "cannot be imported: ImportError: written for another library",
        ),
        "openai (rival-one 1.0)": ("ok", "would load"),
        "openai (rival-two 1.0)": ("ok", "would load"),
    }
    _, loaded = run_real_loader(tmp_path, {**environ, "OTEL_PYTHON_DISTRO": "no distro"})
    ours = {each.value for each in found}
    assert {v.entry_point.value for v in verdicts if v.loads} == set(loaded) & ours


def test_a_rival_that_the_distro_skips_is_named_with_its_reason(tmp_path):
    install_instrumentors(tmp_path)
    found = [e for e in entry_points_in(tmp_path, INSTRUMENTOR) if e.name == "openai"]
    verdicts = judge(found, {}, lambda each: "ours loads" if "two" in each.value else None)
    details = {check.title: check.detail for check in instrumentor_checks(verdicts)}
    assert details == {
        "openai (rival-one 1.0)": "would load",
        "openai (rival-two 1.0)": "skipped: ours loads",
    }


@pytest.mark.parametrize("names", ["*", "a, *", "openai"])
def test_it_fails_when_no_instrumentor_would_load(tmp_path, names):
    make_distribution(tmp_path, "one", entry_points={INSTRUMENTOR: {"openai": "one:I"}})
    found = entry_points_in(tmp_path, INSTRUMENTOR)
    environ = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": names}
    checks = instrumentor_checks(judge(found, environ, lambda each: None))
    assert [(check.title, check.status) for check in checks] == [
        ("openai", "warn"),
        ("all", "fail"),
    ]


def test_a_distro_that_cannot_be_imported_fails(tmp_path, monkeypatch):
    modules = {"bad_module": "import no_such_module_anywhere"}
    make_distribution(tmp_path, "bad", entry_points=both("bad", "bad_module"), modules=modules)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = entry_points_in(tmp_path, DISTRO)
    [check] = import_checks(found, import_problems([each.value for each in found], 10))
    assert check.status == "fail"
    assert "No module named 'no_such_module_anywhere'" in check.detail


def test_an_import_that_hangs_is_left_out_and_those_before_it_are_reported(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("raise RuntimeError('no')")
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    problems = import_problems(["broken_one:x", "sleeps:x"], 2)
    assert problems == {"broken_one:x": "RuntimeError: no"}


def test_llamatelemetry_distributions_of_different_versions_fail(tmp_path):
    make_distribution(tmp_path, "llamatelemetry", "1.2.0")
    make_distribution(tmp_path, "llamatelemetry-core", "1.1.0")
    make_distribution(tmp_path, "opentelemetry-sdk", "1.45.2")
    checks = {check.title: check for check in version_checks(distributions_in(tmp_path))}
    assert checks["llamatelemetry"].status == "fail"
    assert checks["llamatelemetry"].remedy == (
        "pip install llamatelemetry==1.2.0 llamatelemetry-core==1.2.0"
    )


def test_opentelemetry_packages_that_do_not_fit_each_other_are_named(tmp_path):
    make_distribution(tmp_path, "opentelemetry-api", "1.45.2")
    make_distribution(
        tmp_path, "opentelemetry-sdk", "1.40.0", requires=["opentelemetry-api==1.40.0"]
    )
    checks = {check.title: check for check in version_checks(distributions_in(tmp_path))}
    assert checks["opentelemetry"].status == "warn"
    assert checks["opentelemetry"].detail == (
        "opentelemetry-sdk 1.40.0 needs opentelemetry-api==1.40.0, found 1.45.2"
    )


def test_without_the_sdk_nothing_can_arrive(tmp_path):
    make_distribution(tmp_path, "openai", "3.54.0")
    checks = {check.title: check for check in version_checks(distributions_in(tmp_path))}
    assert checks["opentelemetry-sdk"].status == "fail"
    assert checks["libraries"].detail == "openai 3.54.0"
