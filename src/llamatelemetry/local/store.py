"""Where the embedded backend keeps what it receives: one SQLite file.

Any SQLite tool reads it: the tables are ``spans``, ``points``, ``logs`` and ``resources``;
attributes are JSON, times are nanoseconds since the epoch. What a batch brings is written in
one transaction with a write-ahead log, so that a process that is killed leaves whole batches.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local._schema import SCHEMA, VERSION
from llamatelemetry.local.records import Event, LogRecord, MetricPoint, Record, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

DEFAULT_MAX_BYTES: Final = 2 * 1024**3
_PRUNED_AT_ONCE: Final = 0.1
_json = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=True)


class StoreError(Exception):
    """A file that is no store, or of another version; the message says which."""


class StoreFullError(Exception):
    """Nothing more can be written: the disk is full."""


class Store:
    """A store that is written by this process and may be read by others at the same time.

    Args:
        path: of the file; it is made when it is not there.
        max_bytes: above this the oldest records of the kind that takes most room make way.

    Raises:
        StoreError: the file is something else.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._resources: dict[str, int] = {}
        self.pruned = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _connect(self.path, writing=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, records: Iterable[Record]) -> None:
        """Keep records, all of them or none. A span that is there already is not kept twice.

        Raises:
            StoreFullError: there is no room on the disk.
        """
        with self._lock:
            try:
                with self._connection:  # a transaction
                    self._insert(records)
                self._make_room()
            except sqlite3.OperationalError as error:
                self._resources.clear()  # those of the transaction that was undone
                raise StoreFullError(f"cannot write to {self.path}: {error}") from error

    def _insert(self, records: Iterable[Record]) -> None:
        rows: dict[type[Record], list[tuple[Any, ...]]] = {kind: [] for kind in _INSERT}
        for record in records:
            rows[type(record)].append(
                (self._resource_id(record.resource), *_ROW[type(record)](record))
            )
        for kind, found in rows.items():
            if found:
                self._connection.executemany(_INSERT[kind], found)

    def _resource_id(self, resource: Mapping[str, Any]) -> int:
        key = _json(resource)
        known = self._resources.get(key)
        if known is None:
            self._connection.execute(
                "INSERT OR IGNORE INTO resources(attributes) VALUES (?)", (key,)
            )
            (known,) = self._connection.execute(
                "SELECT id FROM resources WHERE attributes = ?", (key,)
            ).fetchone()
            self._resources[key] = known
        return known

    def _make_room(self) -> None:
        (used,) = self._connection.execute(
            "SELECT (page_count - freelist_count) * page_size "
            "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        ).fetchone()
        if used <= self._max_bytes:
            return
        counts = {
            table: self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("spans", "points", "logs")
        }
        table = max(counts, key=counts.__getitem__)
        oldest = max(1, int(counts[table] * _PRUNED_AT_ONCE))
        with self._connection:
            self._connection.execute(
                f"DELETE FROM {table} WHERE rowid IN "  # noqa: S608 - one of three names
                f"(SELECT rowid FROM {table} ORDER BY rowid LIMIT ?)",
                (oldest,),
            )
        self.pruned += oldest

    def close(self) -> None:
        """Close the file; what was written is in that one file then, without a log beside it."""
        with self._lock:
            # A reader has it open, or the disk is full: then the log stays, and is read.
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()


class StoreReader:
    """Reads a store, also while it is being written, and one that a killed process left.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it is no store.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no such file: {self.path}")
        self._connection = _connect(self.path, writing=False)
        self._resources: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def counts(self) -> dict[str, int]:
        """Give how many spans, points and logs there are."""
        return {
            table: self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("spans", "points", "logs")
        }

    def spans(self, *, after: int = 0) -> Iterator[SpanRecord]:
        """Give the spans in the order of their arrival: all, or those after a `last_row`."""
        for row in self._rows("spans", after):
            events = json.loads(row["events"]) if row["events"] else ()
            yield SpanRecord(
                trace_id=row["trace_id"],
                span_id=row["span_id"],
                parent_span_id=row["parent_span_id"],
                name=row["name"],
                kind=row["kind"],
                start_ns=row["start_ns"],
                end_ns=row["end_ns"],
                attributes=json.loads(row["attributes"]),
                status=row["status"],
                status_message=row["status_message"],
                events=[Event(*event) for event in events] if events else (),
                scope=row["scope"],
                resource=self._resource(row["resource_id"]),
            )

    def points(self, *, after: int = 0) -> Iterator[MetricPoint]:
        """Give the points of metrics in the order of their arrival."""
        for row in self._rows("points", after):
            yield MetricPoint(
                name=row["name"],
                unit=row["unit"],
                kind=row["kind"],
                is_monotonic=bool(row["is_monotonic"]),
                is_delta=bool(row["is_delta"]),
                attributes=json.loads(row["attributes"]),
                start_ns=row["start_ns"],
                time_ns=row["time_ns"],
                value=row["value"],
                count=row["count"],
                sum=row["sum"],
                bounds=json.loads(row["bounds"]),
                buckets=json.loads(row["buckets"]),
                scope=row["scope"],
                resource=self._resource(row["resource_id"]),
            )

    def logs(self, *, after: int = 0) -> Iterator[LogRecord]:
        """Give the log records in the order of their arrival."""
        for row in self._rows("logs", after):
            yield LogRecord(
                time_ns=row["time_ns"],
                severity=row["severity"],
                event_name=row["event_name"],
                body=json.loads(row["body"]),
                attributes=json.loads(row["attributes"]),
                trace_id=row["trace_id"],
                span_id=row["span_id"],
                scope=row["scope"],
                resource=self._resource(row["resource_id"]),
            )

    def last_row(self, table: str) -> int:
        """Give the number of the newest row of ``spans``, ``points`` or ``logs``, 0 for none."""
        query = f"SELECT coalesce(max(rowid), 0) FROM {_table(table)}"  # noqa: S608
        return self._connection.execute(query).fetchone()[0]

    def _rows(self, table: str, after: int) -> Iterator[sqlite3.Row]:
        query = f"SELECT * FROM {_table(table)} WHERE rowid > ? ORDER BY rowid"  # noqa: S608
        return iter(self._connection.execute(query, (after,)))

    def _resource(self, number: int) -> dict[str, Any]:
        known = self._resources.get(number)
        if known is None:
            (text,) = self._connection.execute(
                "SELECT attributes FROM resources WHERE id = ?", (number,)
            ).fetchone()
            known = self._resources[number] = json.loads(text)
        return known


def _table(name: str) -> str:
    if name not in {"spans", "points", "logs"}:
        raise ValueError(f"no table {name!r}")
    return name


def _connect(path: Path, *, writing: bool) -> sqlite3.Connection:
    """Open a file, and refuse one that is something else."""
    try:
        # Not `mode=ro`: what a killed process left in its log could not be read then.
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise OSError(f"cannot open {path}: {error}") from error
        raise StoreError(f"{path} is no SQLite file") from error
    if tables == 0 and writing:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"{SCHEMA} PRAGMA user_version = {VERSION};")
    elif version != VERSION:
        connection.close()
        raise StoreError(
            f"{path} is an SQLite file, but not a store of this version of llamatelemetry"
        )
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _span_row(span: SpanRecord) -> tuple[Any, ...]:
    events: Sequence[tuple[Any, ...]] = [(e.name, e.time_ns, e.attributes) for e in span.events]
    return (
        *(span.trace_id, span.span_id, span.parent_span_id, span.name, span.kind),
        *(span.start_ns, span.end_ns, span.status, span.status_message, span.scope),
        *(_json(span.attributes), _json(events) if events else None),
    )


def _point_row(point: MetricPoint) -> tuple[Any, ...]:
    return (
        *(point.name, point.unit, point.kind, point.is_monotonic, point.is_delta, point.scope),
        *(_json(point.attributes), point.start_ns, point.time_ns, point.value, point.count),
        *(point.sum, _json(point.bounds), _json(point.buckets)),
    )


def _log_row(record: LogRecord) -> tuple[Any, ...]:
    return (
        *(record.time_ns, record.severity, record.event_name, record.trace_id, record.span_id),
        *(record.scope, _json(record.body), _json(record.attributes)),
    )


_ROW: Final[Mapping[type[Record], Any]] = {
    SpanRecord: _span_row,
    MetricPoint: _point_row,
    LogRecord: _log_row,
}
_INSERT: Final[Mapping[type[Record], str]] = {
    SpanRecord: f"INSERT OR IGNORE INTO spans VALUES ({', '.join('?' * 13)})",  # noqa: S608
    MetricPoint: f"INSERT INTO points VALUES ({', '.join('?' * 15)})",  # noqa: S608
    LogRecord: f"INSERT INTO logs VALUES ({', '.join('?' * 9)})",  # noqa: S608
}
