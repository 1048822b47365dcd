"""Virtual environments in which llamatelemetry is installed from the wheels just built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[1]
OPENAI = "llamatelemetry-instrumentation-openai"
LLAMACPP = "llamatelemetry-instrumentation-llamacpp"
TRANSFORMERS = "llamatelemetry-instrumentation-transformers"
PLUGINS = (OPENAI, LLAMACPP, TRANSFORMERS)
CORE = "llamatelemetry-core"
DISTRO = "llamatelemetry"
SOURCES = {DISTRO: ROOT, CORE: ROOT / "src/llamatelemetry"} | {
    plugin: ROOT / "src" / plugin.replace("-", "_") for plugin in PLUGINS
}


class CheckError(Exception):
    """A check failed. The message has the expected and the actual value."""


def expect(actual: object, wanted: object, what: str) -> None:
    """Raise `CheckError` if two values differ. `what` describes the value in the message."""
    if actual == wanted:
        return
    if isinstance(actual, set) and isinstance(wanted, set):
        raise CheckError(f"{what}\n  missing    {wanted - actual}\n  unexpected {actual - wanted}")
    raise CheckError(f"{what}\n  expected {wanted}\n  found    {actual}")


def run(command: list[str | Path], *, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command without telemetry variables and return its output."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_", "OPENAI_", "PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,  # The error below contains the output.
    )
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        raise CheckError(f"exit status {done.returncode} of: {shown}\n{done.stdout}{done.stderr}")
    return done.stdout


def only_file(folder: Path, pattern: str) -> Path:
    """Return the only file of a directory that matches a pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise CheckError(f"{pattern} in {folder}: expected one file, found {found}")
    return found[0]


class Environment:
    """A new virtual environment that installs llamatelemetry from the wheels just built.

    All other packages have the versions of constraints.txt.
    """

    def __init__(self, path: Path, dist: Path) -> None:
        venv.create(path, with_pip=False)
        self.python = path / "bin/python"
        self._bin = path / "bin"
        self._workdir = path / "work"
        self._workdir.mkdir()
        self._constraints = path / "constraints.txt"
        wheels = {name: only_file(dist, f"{name.replace('-', '_')}-[0-9]*.whl") for name in SOURCES}
        # Map each name to a file, so that pip does not take it from the package index.
        lines = [f"{name} @ {wheel.as_uri()}" for name, wheel in wheels.items()]
        self._constraints.write_text("\n".join(lines))

    def install(self, *requirements: str) -> None:
        """Install with the pip of the environment that runs this script."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check"]
        locked = ["--constraint", self._constraints, "--constraint", ROOT / "constraints.txt"]
        run([*pip, "install", "--quiet", *locked, *requirements])

    def evaluate(self, program: str, *, instrumented: bool = False, **environment: str) -> object:
        """Run a program and return the value of its last line, which is an expression."""
        *lines, last = program.strip().splitlines()
        source = "\n".join([*lines, f"print(repr({last}))"])
        # Without these, the exporters would try to reach a collector.
        settings = {f"OTEL_{kind}_EXPORTER": "none" for kind in ("TRACES", "METRICS", "LOGS")}
        settings["PATH"] = f"{self._bin}:{os.environ['PATH']}"
        start = [self._bin / "opentelemetry-instrument"] if instrumented else []
        command = [*start, self.python, "-c", source]
        printed = run(command, cwd=self._workdir, **settings | environment)
        return eval(printed)  # noqa: S307 - the output of the program above

    def installed(self) -> set[str]:
        """Return the names of all installed distributions."""
        names = self.evaluate(
            "from importlib.metadata import distributions\n"
            "sorted(d.name.lower().replace('_', '-') for d in distributions())"
        )
        return set(names)  # type: ignore[call-overload]

    def sizes_mb(self) -> dict[str, float]:
        """Return the size of each top-level package in MB, with compiled modules."""
        site = only_file(self._bin.parent, "lib/python*/site-packages")
        sizes: dict[str, float] = {}
        for path in site.rglob("*"):
            if path.is_file():
                name = path.relative_to(site).parts[0]
                sizes[name] = sizes.get(name, 0.0) + path.stat().st_size / 1e6
        return sizes

    def contract_calls(self, url: str) -> dict[str, dict[str, Any]]:
        """Run every call of the contract against a server and return the outcomes."""
        program = ROOT / "tests/support/contract_calls.py"
        settings = {"HEAVY": "1", "LLAMATELEMETRY_EXPORTER": "file", "PATH": str(self._bin)}
        folder = self._workdir.with_name("calls")
        folder.mkdir()
        printed = run([self.python, program, url, folder], cwd=folder, **settings)
        return cast("dict[str, dict[str, Any]]", json.loads(printed))

    def entry_points(self, *groups: str) -> object:
        """Return `{group: {name: value}}` of the entry points of llamatelemetry."""
        return self.evaluate(
            "from importlib.metadata import entry_points\n"
            f"groups = {groups!r}\n"
            "found = {group: entry_points(group=group) for group in groups}\n"
            "{group: {p.name: p.value for p in points if p.value.startswith('llamatelemetry')}"
            " for group, points in found.items()}"
        )

    def active_instrumentors(self, **environment: str) -> object:
        """Return the instrumentors of llamatelemetry that are active under opentelemetry-instrument."""
        return self.evaluate(
            "from importlib.metadata import entry_points\n"
            "ours = [p for p in entry_points(group='opentelemetry_instrumentor')"
            " if p.name.startswith('llamatelemetry')]\n"
            "{p.name for p in ours if p.load()().is_instrumented_by_opentelemetry}",
            instrumented=True,
            **environment,
        )
