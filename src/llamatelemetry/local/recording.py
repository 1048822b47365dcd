"""Recorded telemetry: read a database of `llamatelemetry run`, or OTLP JSON lines.

`LLAMATELEMETRY_EXPORTER=file` and the OpenTelemetry Collector's file exporter write OTLP JSON
lines. Each line is one export request.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

from llamatelemetry.local.otlp import parse_request, records_of
from llamatelemetry.local.records import Event, Link, LogRecord, MetricPoint, SpanRecord
from llamatelemetry.local.store import RUNS, StoreReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llamatelemetry.local.records import Record, Run

_SQLITE = b"SQLite format 3\0"


@dataclass(slots=True)
class Recording:
    """Records, the names of the files they came from, and the commands that sent them."""

    spans: Sequence[SpanRecord] = ()
    points: Sequence[MetricPoint] = ()
    logs: Sequence[LogRecord] = ()
    sources: Sequence[str] = ()
    runs: Sequence[Run] = ()

    @classmethod
    def of_store(cls, reader: StoreReader, run: Run | None = None) -> Self:
        """Read all records of a database, or those since the start of a run."""
        after: Mapping[str, int] = {} if run is None else run.after
        return cls(
            list(reader.spans(after=after.get("spans", 0))),
            list(reader.points(after=after.get("points", 0))),
            list(reader.logs(after=after.get("logs", 0))),
            [reader.path.name],
            reader.runs() if run is None else [run],
        )

    def __add__(self, other: Recording) -> Recording:
        """Return the records of both."""
        return Recording(
            [*self.spans, *other.spans],
            [*self.points, *other.points],
            [*self.logs, *other.logs],
            [*self.sources, *other.sources],
            [*self.runs, *other.runs],
        )

    def since(self, time_ns: int) -> Recording:
        """Return a recording without the records from before a time."""
        return replace(
            self,
            spans=[span for span in self.spans if span.start_ns >= time_ns],
            points=[point for point in self.points if point.time_ns >= time_ns],
            logs=[log for log in self.logs if log.time_ns >= time_ns],
        )


def read_recorded(path: Path | str) -> Recording:
    """Read a database of `llamatelemetry run`, a file of OTLP JSON lines, or a directory of both.

    Raises:
        FileNotFoundError: The path does not exist, or the directory has no `*.db` or `*.jsonl`.
        StoreError: The path is an SQLite file, but not a database of this version.
        ValueError: The path is another kind of file.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted([*path.glob("*.db"), *path.glob("*.jsonl")])
        if not found:
            raise FileNotFoundError(f"no *.db or *.jsonl file in {path}")
        return sum(map(read_recorded, found), Recording())
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    with path.open("rb") as file:
        is_database = file.read(len(_SQLITE)) == _SQLITE
    if not is_database:
        return _from_lines(path)
    with StoreReader(path) as reader:
        return Recording.of_store(reader)


def _from_lines(path: Path) -> Recording:
    records = list(_read_lines([path]))
    return Recording(
        [record for record in records if isinstance(record, SpanRecord)],
        [record for record in records if isinstance(record, MetricPoint)],
        [record for record in records if isinstance(record, LogRecord)],
        [path.name],
    )


def latest_run(folder: Path = RUNS) -> Path:
    """Return the database of the newest run in a directory.

    Raises:
        FileNotFoundError: The directory has none.
    """
    found = list(folder.glob("*.db"))
    if not found:
        raise FileNotFoundError(
            f"no recorded run in {folder}{os.sep}. Record one with `llamatelemetry run -- COMMAND`, "
            "or name a file"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def read_spans(paths: Iterable[Path]) -> list[SpanRecord]:
    """Return the spans of files of OTLP JSON lines, by start time."""
    spans = [span for _, request in _requests(paths) for span in _spans(request)]
    return sorted(spans, key=lambda span: span.start_ns)


def _read_lines(paths: Iterable[Path]) -> Iterator[Record]:
    for path, request in _requests(paths):
        try:
            yield from _records(request)
        except _MALFORMED as error:
            raise ValueError(f"{path} is not a file of OTLP JSON lines: {error}") from error


# Also for the numbers 1e999 and for thousands of nested arrays.
_MALFORMED: Final = (
    *(AttributeError, TypeError, KeyError, ValueError),
    *(OverflowError, RecursionError),
)


def _records(request: Mapping[str, Any]) -> Iterable[Record]:
    signal = "metrics" if "resourceMetrics" in request else "logs"
    if "resourceSpans" in request:
        signal = "traces"
        # Rare forms of the same values, such as null, are read below.
        with suppress(*_MALFORMED):
            return list(_spans(request))
    return records_of(signal, parse_request(signal, json.dumps(request).encode(), is_json=True))


def _requests(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in paths:
        number, invalid = 0, None
        # Bytes that are not UTF-8 become characters that no JSON contains.
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in filter(str.strip, lines):
                try:
                    request = _parse_line(line, path)
                except ValueError as error:
                    # A full disk leaves incomplete lines, a killed process an incomplete last one.
                    invalid = error if line.endswith("\n") else invalid
                    continue
                number += 1
                yield path, request
        if invalid is not None and not number:
            raise invalid


def _parse_line(line: str, path: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of OTLP JSON lines: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a file of OTLP JSON lines: a line is not a JSON object")
    return cast("dict[str, Any]", found)


def _spans(request: Mapping[str, Any]) -> Iterator[SpanRecord]:
    # A recording can have many spans, and the way through protobuf messages is 8 times slower.
    for group in request.get("resourceSpans", ()):
        resource = _attributes(group.get("resource", {}))
        for scoped in group.get("scopeSpans", ()):
            scope = scoped.get("scope", {}).get("name", "")
            for span in scoped.get("spans", ()):
                yield _span(span, scope, resource)


def _span(span: Mapping[str, Any], scope: str, resource: Mapping[str, object]) -> SpanRecord:
    status = span.get("status", {})
    return SpanRecord(
        trace_id=_id(span, "traceId"),
        span_id=_id(span, "spanId"),
        parent_span_id=_id(span, "parentSpanId") or None,
        name=str(span.get("name", "")),
        kind=int(span.get("kind", 0)),
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        attributes=_attributes(span),
        status=int(status.get("code", 0)),
        status_message=str(status.get("message", "")),
        events=[
            Event(str(event.get("name", "")), int(event.get("timeUnixNano", 0)), _attributes(event))
            for event in span.get("events", ())
        ],
        links=[
            Link(_id(link, "traceId"), _id(link, "spanId"), _attributes(link))
            for link in span.get("links", ())
        ],
        scope=scope,
        resource=resource,
    )


def _id(holder: Mapping[str, Any], name: str) -> str:
    return holder.get(name, "").lower()


def _attributes(holder: Mapping[str, Any]) -> dict[str, object]:
    return {item["key"]: _value(item["value"]) for item in holder.get("attributes", ())}


def _value(value: Mapping[str, Any]) -> object:
    """Return the plain value of OTLP's `{"<type>Value": ...}`. 64-bit integers are strings."""
    match value:
        case {"intValue": number}:
            return int(number)
        case {"doubleValue": number}:
            return float(number)
        case {"arrayValue": array}:
            return [_value(item) for item in array.get("values", ())]
        case {"kvlistValue": mapping}:
            return {item["key"]: _value(item["value"]) for item in mapping.get("values", ())}
        case _:
            return next(iter(value.values()), None)


@dataclass(frozen=True, slots=True)
class MetricTotal:
    """Total of one histogram or counter with one set of attributes.

    `total` is the sum of the measurements. Only a histogram knows their number, `count`.
    """

    name: str
    unit: str
    attributes: Mapping[str, object]
    count: int | None
    total: float

    @property
    def mean(self) -> float | None:
        """Mean of a histogram; `None` without measurements."""
        return self.total / self.count if self.count else None

    def __add__(self, other: MetricTotal) -> MetricTotal:
        """Return the sum of two totals of one metric, with the attributes of the first."""
        counts = [total.count for total in (self, other) if total.count is not None]
        count = sum(counts) if counts else None
        return replace(self, count=count, total=self.total + other.total)


def read_metric_totals(paths: Iterable[Path], *, since_ns: int = 0) -> list[MetricTotal]:
    """Return the totals of the histograms and counters in files of OTLP JSON lines.

    Data points from before `since_ns` do not count. A cumulative data point repeats its start time
    and replaces the previous one. A delta data point has a new start time and is added, as is a
    cumulative one after a restart.
    """
    latest: dict[tuple[Path, str, str, int], MetricTotal] = {}
    for path in paths:
        for point in _read_lines([path]):
            if not isinstance(point, MetricPoint) or point.time_ns < since_ns:
                continue
            if point.kind in {"histogram", "sum"}:
                value = point.sum if point.kind == "histogram" else point.value
                total = MetricTotal(
                    point.name, point.unit, point.attributes, point.count, float(value or 0)
                )
                latest[path, point.name, _key(point.attributes), point.start_ns] = total
    added: dict[tuple[str, str], MetricTotal] = {}
    for total in latest.values():
        key = (total.name, _key(total.attributes))
        added[key] = added[key] + total if key in added else total
    return list(added.values())


def _key(attributes: Mapping[str, object]) -> str:
    return json.dumps(dict(attributes), sort_keys=True)
