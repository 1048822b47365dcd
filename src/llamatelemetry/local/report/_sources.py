"""Where a report's records come from: a store, or OTLP JSON lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llamatelemetry.local.otlp_lines import read_lines
from llamatelemetry.local.records import LogRecord, MetricPoint, SpanRecord
from llamatelemetry.local.store import StoreReader

if TYPE_CHECKING:
    from collections.abc import Sequence

_SQLITE = b"SQLite format 3\0"


@dataclass(slots=True)
class Recorded:
    """The records of a run."""

    spans: Sequence[SpanRecord] = ()
    points: Sequence[MetricPoint] = ()
    logs: Sequence[LogRecord] = ()
    sources: Sequence[str] = field(default_factory=list[str])


def read_recorded(path: Path | str) -> Recorded:
    """Read what was recorded.

    Args:
        path: a store of ``llamatelemetry run``; a file of OTLP JSON lines, as the file exporter
            and the OpenTelemetry Collector write them; or a folder of such files.

    Raises:
        FileNotFoundError: there is nothing there.
        StoreError: an SQLite file that is no store.
        ValueError: neither; the message says what was found.
    """
    path = Path(path)
    if path.is_dir():
        return _from_lines(path, sorted(path.glob("*.jsonl")))
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        is_store = file.read(len(_SQLITE)) == _SQLITE
    if not is_store:
        return _from_lines(path, [path])
    with StoreReader(path) as reader:
        return Recorded(
            list(reader.spans()), list(reader.points()), list(reader.logs()), [path.name]
        )


def _from_lines(path: Path, files: Sequence[Path]) -> Recorded:
    if not files:
        raise FileNotFoundError(f"no *.jsonl file of OTLP JSON lines in {path}")
    records = list(read_lines(files))
    return Recorded(
        [record for record in records if isinstance(record, SpanRecord)],
        [record for record in records if isinstance(record, MetricPoint)],
        [record for record in records if isinstance(record, LogRecord)],
        [file.name for file in files],
    )
