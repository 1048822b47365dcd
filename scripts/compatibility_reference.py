#!/usr/bin/env python3
"""Write the tables in docs/reference/compatibility.md from the files that decide about versions.

    scripts/compatibility_reference.py            update the page
    scripts/compatibility_reference.py --check    exit with 1 if the page is out of date

The ranges are those of the packages, the tested versions those of constraints.txt, of the rows of
`scripts/test_versions.py` and of `scripts/install-vllm`, the engines those of the catalog.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from _page_tables import write_tables
from packaging.requirements import Requirement
from test_versions import PLUGIN_ROWS

from llamatelemetry.genai.engines.catalog import ENGINES
from llamatelemetry.genai.engines.catalog.services import SERVICES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/compatibility.md"
PLUGINS = ("openai", "llamacpp", "transformers")
NONE = "–"  # noqa: RUF001 - the sign of docs
TESTED, EXPECTED = "tested", "expected"
# The Python version of constraints.txt, of `scripts/test_versions.py` and of development.
TESTED_PYTHON = "3.11"
RUN = {13: "; some tests have run", 14: "; most of the fast tests have run"}
FREE_THREADED = [
    ("3.13t", EXPECTED, "[some tests](../operate/reliability.md#free-threaded-python) have run"),
    ("3.14t", EXPECTED, "no test has run"),
]


def project(directory: str = "") -> dict[str, Any]:
    """Return the metadata of a distribution."""
    path = ROOT / directory / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


def pinned() -> dict[str, str]:
    """Return the versions of constraints.txt by distribution."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9_.-]+)==([^\s;]+)", text, re.MULTILINE))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table. An empty cell has a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell or NONE for cell in row)} |" for row in lines)


def pythons() -> str:
    """Return the table of Python versions."""
    prefix = "Programming Language :: Python :: 3."
    minors = [
        int(each.removeprefix(prefix))
        for each in project()["classifiers"]
        if each.startswith(prefix)
    ]
    rows = [(f"before 3.{min(minors)}", "unsupported", f"`{project()['requires-python']}`")]
    for minor in minors:
        is_tested = f"3.{minor}" == TESTED_PYTHON
        note = "" if is_tested else "a job of CI is defined for it" + RUN.get(minor, "")
        rows.append((f"3.{minor}", TESTED if is_tested else EXPECTED, note))
    rows += FREE_THREADED
    return table(("Python", "Status", "Note"), rows)


def libraries() -> str:
    """Return the table of instrumented libraries."""
    header = ("Library", "Supported versions", "Tested versions", "Status")
    return table(header, (row for plugin in PLUGINS for row in library_rows(plugin)))


def library_rows(plugin: str) -> Iterator[Sequence[str]]:
    """Yield the rows of the libraries of a plugin."""
    extras = project(f"src/llamatelemetry_instrumentation_{plugin}")["optional-dependencies"]
    for text in (each for name in sorted(extras) for each in extras[name]):
        requirement = Requirement(text)
        tested = ", ".join(tested_versions(requirement.name))
        status = TESTED if tested else EXPECTED
        yield f"`{requirement.name}`", limits(requirement), tested, status


def tested_versions(name: str) -> Iterator[str]:
    """Yield the versions of a library that tests run with."""
    if name not in pinned():
        return
    lowest = any(each.startswith(name) for row in PLUGIN_ROWS.values() for each in row[:1])
    if not lowest and name != "xllamacpp":  # compiled for one version of llama.cpp
        yield "the lowest"
    for requirement in (Requirement(row[0]) for row in PLUGIN_ROWS.values()):
        if requirement.name == name:
            exact = next((s.version for s in requirement.specifier if s.operator == "=="), None)
            yield exact or f"the newest {limits(requirement)}"
    yield pinned()[name]


def limits(requirement: Requirement) -> str:
    """Return the range of a requirement, lower limit first."""
    specifiers = sorted(map(str, requirement.specifier), reverse=True)
    return f"`{','.join(specifiers)}`" if specifiers else "any"


def opentelemetry() -> str:
    """Return the table of OpenTelemetry's packages and other requirements."""
    found: dict[str, Requirement] = {}
    for directory in ("src/llamatelemetry", ""):
        metadata = project(directory)
        extras = metadata["optional-dependencies"]
        optional = [each for name in sorted(extras) for each in extras[name]]
        for text in (*metadata["dependencies"], *optional):
            requirement = Requirement(text)
            if not requirement.name.startswith(("llamatelemetry", "openai", "xllamacpp")):
                found.setdefault(requirement.name, requirement)
    rows = (
        (f"`{name}`", limits(requirement), pinned().get(name, ""))
        for name, requirement in sorted(found.items())
    )
    return table(("Package", "Supported versions", "Tested version"), rows)


def engines() -> str:
    """Return the table of engines."""
    vllm = re.search(r"^version=(\S+)", (ROOT / "scripts/install-vllm").read_text(), re.MULTILINE)
    tested = {
        "llama_cpp": f"the build in `xllamacpp` {pinned()['xllamacpp']}",
        "vllm": f"{vllm[1] if vllm else ''}, on the CPU",
    }
    services = {engine.name for engine in SERVICES}
    rows: list[Sequence[str]] = []
    for engine in ENGINES:
        version = tested.get(engine.provider, "")
        basis = "documentation" if engine.name in services else "source code and documentation"
        note = "a real server runs in the tests" if version else f"its {basis}; no server has run"
        rows.append((engine.name, TESTED if version else EXPECTED, version, note))
    return table(("Engine", "Status", "Tested version", "Basis"), rows)


TABLES = {
    "pythons": pythons,
    "libraries": libraries,
    "packages": opentelemetry,
    "engines": engines,
}


if __name__ == "__main__":
    raise SystemExit(write_tables(PAGE, "scripts/compatibility_reference.py", TABLES, sys.argv[1:]))
