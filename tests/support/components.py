"""Skip tests whose components cannot be used on this machine, and count them by reason.

A test, class or module declares a component with `@pytest.mark.needs("chromium")`; a fixture or
function calls `require`. Each component is probed once per run, in the first process that needs it.
With `REQUIRE_COMPONENTS=xllamacpp,cc` in the environment these tests fail instead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry.llama.server.errors import describe_exit, explain_exit
from tests.support.probes import PROBES

ROOT = Path(__file__).parents[2]
REQUIRED_VARIABLE = "REQUIRE_COMPONENTS"
# Test folders whose modules import a component during collection.
IMPORTED_IN = {"transformers": "transformers", "transformers_plugin": "transformers"}
_WORKER_KEY = "components_folder"
_SKIPPED, _REPLACED = "unavailable component", "stand-in for a component"


class UnavailableError(pytest.skip.Exception):
    """A component cannot be used. In a test or fixture it skips, like `pytest.skip`."""

    def __init__(self, component: str, reason: str) -> None:
        super().__init__(f"needs {component}: {reason}")
        self.component = component
        self.reason = reason


class _Run:
    """State of a pytest run: the directory of probe results, and variables read at its start."""

    folder: Path
    required: frozenset[str]
    environment: dict[str, str]


def require(component: str) -> None:
    """Skip the test if a component cannot be used, or fail it if that component is required."""
    if reason := unavailable(component):
        raise UnavailableError(component, reason)


def unavailable(component: str) -> str | None:
    """Return why a component cannot be used; `None` if it can. Fail if it is required."""
    reason = _reason(component)
    if reason and component in _Run.required:
        pytest.fail(_demand(component, reason), pytrace=False)
    return reason


def note_stand_in(item: pytest.Item, component: str, stand_in: str) -> None:
    """Count a test in the summary that ran with a replacement of a component."""
    item.user_properties.append((_REPLACED, [component, stand_in]))


def run_probe(component: str, limit_s: float | None = None) -> str | None:
    """Run a probe in a child process. Return why the component cannot be used; `None` if it can."""
    limit_s = PROBES[component].limit_s if limit_s is None else limit_s
    with (
        tempfile.TemporaryFile() as output
    ):  # A process that outlives the probe could keep a pipe open.
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.probes", component],
            cwd=ROOT,
            env=_Run.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"its probe did not finish within {limit_s:g} s"
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").split("\n")
    if code == 0:
        return None
    if code == 1:
        return next(filter(None, reversed(lines)), "its probe failed")
    cause, _ = explain_exit(code, embedded=False)
    return f"its probe {describe_exit(code)}{': ' if cause else ''}{cause}"


@cache
def _reason(component: str) -> str | None:
    result = _Run.folder / component
    with (_Run.folder / f"{component}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            result.write_text(run_probe(component) or "")
        return result.read_text() or None


def _demand(component: str, reason: str) -> str:
    return f"{component} is required by {REQUIRED_VARIABLE} and cannot be used: {reason}"


# Hooks of pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark; make the shared folder, or take that of the process that runs all."""
    config.addinivalue_line(
        "markers",
        "needs(*components): skip unless these can be used; names in tests/support/probes.py",
    )
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    folder = tempfile.mkdtemp(prefix="components-") if worker is None else worker[_WORKER_KEY]
    _Run.folder = Path(folder)
    names = filter(None, map(str.strip, os.environ.get(REQUIRED_VARIABLE, "").split(",")))
    _Run.required = frozenset(names)
    if unknown := sorted(_Run.required - PROBES.keys()):
        raise pytest.UsageError(
            f"{REQUIRED_VARIABLE}: no such component: {', '.join(unknown)}; "
            f"there are {', '.join(PROBES)}"
        )
    _Run.environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")
    }


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist where the results are."""
    node.workerinput[_WORKER_KEY] = str(_Run.folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the results: the next run probes again."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(_Run.folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> pytest.CollectReport | None:
    """Leave out a module that would import what cannot be imported."""
    if not isinstance(collector, pytest.Module):
        return None
    component = IMPORTED_IN.get(collector.path.parent.name)
    reason = _reason(component) if component else None
    if not component or not reason:
        return None
    if component in _Run.required:
        return pytest.CollectReport(collector.nodeid, "failed", _demand(component, reason), [])
    where = (str(collector.path), 1, f"Skipped: needs {component}: {reason}")
    noted = [(_SKIPPED, [component, reason])]
    return pytest.CollectReport(collector.nodeid, "skipped", where, [], user_properties=noted)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Look at the marks before any fixture is made."""
    for mark in item.iter_markers("needs"):
        for component in mark.args:
            require(component)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note in the report of a skipped test which component was missing."""
    report = yield
    error = call.excinfo and call.excinfo.value
    if isinstance(error, UnavailableError):
        report.user_properties.append((_SKIPPED, [error.component, error.reason]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List each component that could not be used, with the number of tests that missed it."""
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, str] = {}
    for report in (each for group in terminalreporter.stats.values() for each in group):
        for key, value in getattr(report, "user_properties", ()):
            if key == _SKIPPED:
                what = "module" if isinstance(report, pytest.CollectReport) else "test"
                counts.setdefault(value[0], Counter())[f"skipped {what}s"] += 1
                reasons[value[0]] = value[1]
            elif key == _REPLACED and report.when == "call":
                counts.setdefault(value[0], Counter())[f"tests with {value[1]} instead"] += 1
    if counts:
        terminalreporter.section("components that could not be used")
    for component, count in sorted(counts.items()):
        numbers = ", ".join(f"{what}: {number}" for what, number in sorted(count.items()))
        terminalreporter.line(f"{component} ({numbers}): {reasons.get(component, '')}")
