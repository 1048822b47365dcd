"""Renew constraints.txt, the versions that `make demo`, `make test` and CI install.

    scripts/lock.py            take today's newest versions (`make lock`)
    scripts/lock.py --check    exit with 1 if a requirement is missing from the file

uv resolves the requirements of all five distributions and of the `dev` group once for every
supported Python version and platform. The result is a constraints file for pip and not a uv lock
file, because it may name no download address and no hash: torch may come from a local build.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
HEADER = """\
# The versions that `make demo`, `make test` and CI install. Written by `make lock`; do not edit.
# `scripts/test_versions.py` tests the newest and the oldest versions.
"""
# Extras and groups that `scripts/install` installs.
EXTRAS = ("demo",)
GROUPS = ("dev",)
# Packages of this repository, and the CUDA libraries of torch, which a CPU build does not install.
NOT_LOCKED = re.compile(r"(-e|\.|file:|cuda-|nvidia-(?!ml-py)|triton)")


def resolve() -> str:
    """Return the newest versions as constraint lines, with an environment marker where needed."""
    projects = [ROOT / "pyproject.toml", *sorted(ROOT.glob("src/*/pyproject.toml"))]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--upgrade"]
    # One version for all Python versions where one exists: fewer combinations to test.
    command += ["--python-version", oldest_python(), "--fork-strategy", "fewest"]
    command += ["--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    for extra in EXTRAS:
        command += ["--extra", extra]
    for group in GROUPS:
        command += ["--group", group]
    done = subprocess.run(
        [*command, *projects], cwd=ROOT, text=True, check=True, stdout=subprocess.PIPE
    )
    lines = [line for line in done.stdout.splitlines() if not NOT_LOCKED.match(line)]
    return HEADER + "\n".join(lines) + "\n"


def oldest_python() -> str:
    """Return the oldest supported Python version, such as `3.11`."""
    return load()["project"]["requires-python"].removeprefix(">=")


def load() -> dict[str, dict]:
    """Return the root pyproject.toml as a dictionary."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> Iterator[Requirement]:
    """Yield the requirements of third-party packages that `scripts/install` installs."""
    project = load()
    texts = list(project["project"]["dependencies"])
    for extra in EXTRAS:
        texts += project["project"]["optional-dependencies"][extra]
    for group in project["dependency-groups"]["dev"]:
        texts += project["dependency-groups"][group["include-group"]]
    for text in texts:
        requirement = Requirement(text)
        if not requirement.name.startswith("llamatelemetry"):
            yield requirement


def locked() -> dict[str, list[Requirement]]:
    """Return the constraints by normalized name; several where versions depend on a marker."""
    found: dict[str, list[Requirement]] = {}
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            constraint = Requirement(line)
            found.setdefault(canonicalize_name(constraint.name), []).append(constraint)
    return found


def problems() -> list[str]:
    """Return the requirements that no constraint covers, or that contradict their constraint."""
    found = locked()
    return [
        str(requirement)
        for requirement in requirements()
        if not any(
            requirement.specifier.contains(next(iter(each.specifier)).version, prereleases=True)
            for each in found.get(canonicalize_name(requirement.name), ())
        )
    ]


def main() -> int:
    """Write or check the file. Return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only compare it with pyproject.toml")
    if not parser.parse_args().check:
        CONSTRAINTS.write_text(resolve(), encoding="utf-8")
    unmet = problems()
    for requirement in unmet:
        print(f"constraints.txt does not allow {requirement}: run `make lock`", file=sys.stderr)
    return 1 if unmet else 0


if __name__ == "__main__":
    sys.exit(main())
