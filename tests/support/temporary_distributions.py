"""Temporary distributions: real dist-info directories and modules, as installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.process_state import forget_entry_points

INSTRUMENTOR = """
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

CALLS = []

class {name}(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return ()

    def _instrument(self, **options):
        CALLS.append(("instrument", options))
        {body}

    def _uninstrument(self, **options):
        CALLS.append(("uninstrument", options))
"""


def make_distribution(
    folder: Path,
    name: str,
    *,
    entry_points: Mapping[str, Mapping[str, str]],
    requires: Sequence[str] = (),
    modules: Mapping[str, str] | None = None,
) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0"]
    lines += ["Provides-Extra: instruments", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in members.items())
            for group, members in entry_points.items()
        )
    )
    for module, source in (modules or {}).items():
        (folder / f"{module}.py").write_text(source)


def make_instrumentor(
    folder: Path,
    distribution: str,
    entry_point: str,
    module: str,
    *,
    body: str = "pass",
    requires: Sequence[str] = (),
) -> None:
    """Create a distribution with one instrumentor. Its module lists the calls in `CALLS`."""
    make_distribution(
        folder,
        distribution,
        entry_points={"opentelemetry_instrumentor": {entry_point: f"{module}:Instrumentor"}},
        requires=requires,
        modules={module: INSTRUMENTOR.format(name="Instrumentor", body=body)},
    )


@pytest.fixture
def throwaway_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a directory of distributions that OpenTelemetry finds, with modules `throwaway_*`."""
    monkeypatch.syspath_prepend(tmp_path)
    forget_entry_points()
    yield tmp_path
    forget_entry_points()
    for name in [name for name in sys.modules if name.startswith("throwaway_")]:
        del sys.modules[name]
