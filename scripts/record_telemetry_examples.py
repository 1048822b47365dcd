"""Record example values for docs/reference/telemetry/ in `scripts/telemetry_examples.json`.

Run it in the repository: `.venv/bin/python -m scripts.record_telemetry_examples`, then
`.venv/bin/python scripts/telemetry_reference.py`.

It runs a real llama.cpp server, small models of Transformers and a group of one rank of
torch.distributed, replays responses that a real vLLM sent, and keeps one value of each attribute and
metric. Values that this machine cannot produce, such as those of a GPU, are kept from earlier runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamatelemetry.local.otlp import parse_request, records_of
from llamatelemetry.local.records import LogRecord, MetricPoint, Record, SpanRecord
from scripts._telemetry_table import read_table

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "scripts/telemetry_examples.json"
HEADER = "http.response.header.<name>"
PROGRAM = "scripts._telemetry_program"
RUNS = {
    "everything": {"LLAMATELEMETRY_METRIC_NAMES": "both"},
    "kept": {"LLAMATELEMETRY_SAMPLING": "only_errors,only_slow,ratio"},
}
"""Arguments of the program, with its options besides those of `record`."""


def record(argument: str, directory: Path) -> Iterator[Record]:
    """Run the program and yield what it has exported."""
    environment = {
        **os.environ,
        **RUNS[argument],
        "LLAMATELEMETRY_EXPORTER": "file",
        "LLAMATELEMETRY_EXPORT_PATH": str(directory),
    }
    subprocess.run([sys.executable, "-m", PROGRAM, argument], cwd=ROOT, env=environment, check=True)
    for signal in ("traces", "metrics", "logs"):
        for path in sorted(directory.glob(f"{signal}-*.jsonl")):
            for line in path.read_bytes().splitlines():
                yield from records_of(signal, parse_request(signal, line, is_json=True))


def examples_of(records: list[Record]) -> dict[str, dict[str, Any]]:
    """Return one value of each attribute and metric of the table."""
    table = read_table()
    attributes: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    for each in records:
        own = dict(each.attributes)
        if isinstance(each, MetricPoint):
            mean = each.sum / each.count if each.sum is not None and each.count else None
            value = each.value if each.value is not None else mean
            if each.name in table.metrics and value is not None:
                metrics.setdefault(each.name, shortened(value))
        if isinstance(each, (SpanRecord, LogRecord)):
            own |= each.resource
        for name, value in own.items():
            name = HEADER if name.startswith("http.response.header.") else name  # noqa: PLW2901
            if name in table.attributes and value not in ("", [], None):
                attributes.setdefault(name, shortened(value))
    return {"attributes": attributes, "metrics": metrics}


def shortened(value: Any) -> Any:
    """Return a value with at most three significant digits, three items and 80 characters."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, str):
        return value if len(value) <= 80 else f"{value[:79]}…"
    return [shortened(each) for each in value[:3]] if isinstance(value, (list, tuple)) else value


def main() -> None:
    """Update the file. Values that this machine cannot produce are kept."""
    records: list[Record] = []
    for argument in RUNS:
        with tempfile.TemporaryDirectory() as directory:
            records += record(argument, Path(directory))
    before = json.loads(EXAMPLES.read_text(encoding="utf-8")) if EXAMPLES.exists() else {}
    table = read_table()
    known = table.attributes.keys() | table.metrics.keys()
    found = {
        kind: {n: v for n, v in sorted((before.get(kind, {}) | values).items()) if n in known}
        for kind, values in examples_of(records).items()
    }
    text = json.dumps(found, indent=1, ensure_ascii=False)
    EXAMPLES.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
