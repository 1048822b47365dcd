"""Run a program of `examples/` under `llamatelemetry run`, as its docstring says, and read its spans."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatelemetry.local.records import MetricPoint, SpanRecord
from llamatelemetry.local.store import StoreReader
from tests.support.llama_server import LlamaServer
from tests.support.run_commands import run

EXAMPLES = Path(__file__).parents[2] / "examples"
README = EXAMPLES / "README.md"
# The distro of OpenTelemetry is installed in the test environment, too.
DISTRO = {"OTEL_PYTHON_DISTRO": "llamatelemetry", "OTEL_PYTHON_CONFIGURATOR": "llamatelemetry"}

SpanPath = tuple[str, ...]


@dataclass(frozen=True)
class RecordedRun:
    """Output and telemetry of a program.

    `spans` are those of llamatelemetry, without phases: FastAPI and the HTTP client of the test
    environment record spans of their own.
    """

    stdout: str
    spans: Sequence[SpanRecord]
    points: Sequence[MetricPoint]

    def paths(self) -> Counter[SpanPath]:
        """Return how often each path from a root to a span occurs, as the names of its spans."""
        return Counter(map(self.path, self.spans))

    def path(self, span: SpanRecord) -> SpanPath:
        by_id = {each.span_id: each for each in self.spans}
        above = by_id.get(span.parent_span_id or "")
        return (*(self.path(above) if above else ()), span.name)

    def calls(self) -> list[Mapping[str, Any]]:
        """Return the attributes of all chats, whether or not they failed, in order of their start."""
        spans = sorted(self.spans, key=lambda span: span.start_ns)
        chats = [s.attributes for s in spans if s.attributes.get("gen_ai.operation.name") == "chat"]
        assert chats
        return chats

    def total(self, metric: str) -> float:
        """Return the sum of a histogram over all its series."""
        return sum(point.sum or 0.0 for point in self.points if point.name == metric)


def settings(server: LlamaServer) -> dict[str, str]:
    """Return the variables that the docstrings of the examples ask for."""
    return {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none"}


def run_example(name: str, *arguments: str, cwd: Path, **environment: str) -> RecordedRun:
    """Run an example to its successful end."""
    program = str(EXAMPLES / name)
    command = ["--output", "run.db", "--", sys.executable, program, *arguments]
    done = run(*command, cwd=cwd, **DISTRO, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return read_run(cwd / "run.db", done.stdout)


def read_run(database: Path, stdout: str = "") -> RecordedRun:
    with StoreReader(database) as reader:
        spans = [span for span in reader.spans() if span.scope.startswith("llamatelemetry")]
        spans = [span for span in spans if "llamatelemetry.phase" not in span.attributes]
        return RecordedRun(stdout, spans, list(reader.points()))


def section_of(name: str) -> str:
    """Return the section of the README about an example; empty if it has none."""
    text = README.read_text(encoding="utf-8")
    return text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def documented_paths(name: str) -> set[SpanPath]:
    """Return the paths of the tree of spans that the README shows for an example."""
    tree = re.findall(r"```text\n(.*?)```", section_of(name), re.DOTALL)[-1]
    found: set[SpanPath] = set()
    above: list[str] = []
    for line in tree.splitlines():
        depth = re.match(r"[│├└─ ]*", line).end() // 4
        above = [*above[:depth], line.strip("│├└─ ")]
        found.add(tuple(above))
    return found
