"""The database of the embedded backend: one SQLite file.

Any SQLite tool can query the tables `spans`, `points`, `logs` and `resources`. Attributes are
JSON, times are nanoseconds since the epoch. Each batch is one transaction with a write-ahead log,
so a killed process leaves complete batches.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._limits import Limit
from llamatelemetry._private_files import make_private_directory, make_private_file
from llamatelemetry.local.records import Run
from llamatelemetry.local.schema import (
    SCHEMA,
    TABLE_OF,
    TABLES,
    UPGRADES,
    VERSION,
    load_list,
    load_object,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from llamatelemetry.local.records import LogRecord, MetricPoint, Record, SpanRecord

RUNS: Final = Path("llamatelemetry-data")
"""Directory of the databases of `llamatelemetry run`, in the current directory."""
_RESOURCES: Final = Limit("stored_resources", 1024, "Resources with their row in a database")
DEFAULT_MAX_BYTES: Final = 2 * 1024**3
_PRUNED_FRACTION: Final = 0.1
_BATCH: Final = 1000
# Tables, because a view could have rows without an end.
_OBJECTS: Final = {("table", name) for name in (*TABLES, "resources")}


class StoreError(Exception):
    """The file is damaged, or is not a database of this version of llamatelemetry."""


class StoreWriteError(Exception):
    """Nothing can be written, for example because the disk is full or the file is damaged."""


class Store:
    """Writer of a database, which other processes may read at the same time.

    Creates the file if it does not exist. Only this user can read it. Above `max_bytes`, the store
    deletes the oldest records of the largest table.

    Raises:
        StoreError: The file is not a database of this version of llamatelemetry.
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._resource_ids: dict[str, int] = {}
        self._run_id: int | None = None
        self.pruned = 0
        make_private_directory(self.path.parent)
        make_private_file(self.path)
        for suffix in ("-wal", "-shm"):
            # SQLite creates these with the mode of the database. Older ones may have another.
            side_file = self.path.with_name(self.path.name + suffix)
            if side_file.exists():
                make_private_file(side_file)
        self._connection = _connect(self.path, writing=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, records: Iterable[Record]) -> int:
        """Write all records or none, and return their number.

        Ignores spans that are already in the database. Only some records are in memory at once.

        Raises:
            StoreWriteError: The disk is full, or the file is damaged.
        """
        with self._writing():
            number = self._insert(records)
        with self._writing():
            self._prune()
        return number

    def _insert(self, records: Iterable[Record]) -> int:
        number = 0
        remaining = iter(records)
        while batch := list(islice(remaining, _BATCH)):
            number += len(batch)
            self._insert_batch(batch)
        return number

    def _insert_batch(self, records: Iterable[Record]) -> None:
        rows: dict[type[Record], list[list[Any]]] = defaultdict(list)
        for record in records:
            kind = type(record)
            rows[kind].append(TABLE_OF[kind].row_of(record, self._resource_id(record.resource)))
        for kind, found in rows.items():
            self._connection.executemany(TABLE_OF[kind].insert, found)

    def _resource_id(self, resource: Mapping[str, Any]) -> int:
        key = to_json(resource)
        known = self._resource_ids.get(key)
        if known is None:
            self._connection.execute(
                "INSERT OR IGNORE INTO resources(attributes) VALUES (?)", (key,)
            )
            (known,) = self._connection.execute(
                "SELECT id FROM resources WHERE attributes = ?", (key,)
            ).fetchone()
            self._resource_ids[key] = known
            _RESOURCES.trim(self._resource_ids)
        return known

    def _prune(self) -> None:
        (used,) = self._connection.execute(
            "SELECT (page_count - freelist_count) * page_size "
            "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        ).fetchone()
        if used <= self._max_bytes:
            return
        counts = {
            table: self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
            for table in TABLES
        }
        table = max(counts, key=counts.__getitem__)
        oldest = max(1, int(counts[table] * _PRUNED_FRACTION))
        self._connection.execute(
            f"DELETE FROM {table} WHERE rowid IN "  # noqa: S608 - one of three names
            f"(SELECT rowid FROM {table} ORDER BY rowid LIMIT ?)",
            (oldest,),
        )
        self.pruned += oldest

    def begin_run(self, command: Sequence[str]) -> Run:
        """Add a run, to which all records written from now on belong.

        Raises:
            StoreWriteError: The disk is full, or the file is damaged.
        """
        with self._writing() as connection:
            after = {table: _last_row(connection, table) for table in TABLES}
            run = Run(tuple(command), time.time_ns(), None, None, after)
            self._run_id = connection.execute(
                "INSERT INTO runs(command, started_ns, after) VALUES (?, ?, ?)",
                (to_json(run.command), run.started_ns, to_json(after)),
            ).lastrowid
        return run

    def end_run(self, exit_status: int) -> None:
        """Save when the run of `begin_run` ended, and the exit status of its command.

        Raises:
            StoreWriteError: The disk is full, or the file is damaged.
        """
        with self._writing() as connection:
            connection.execute(
                "UPDATE runs SET ended_ns = ?, exit_status = ? WHERE id = ?",
                (time.time_ns(), exit_status, self._run_id),
            )

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            try:
                with self._connection:  # a transaction
                    yield self._connection
            except BaseException as error:
                # The transaction, which is rolled back, may have inserted cached resources. It may
                # fail as late as when it is committed.
                self._resource_ids.clear()
                if isinstance(error, sqlite3.Error):
                    raise StoreWriteError(f"cannot write to {self.path}: {error}") from error
                raise

    def close(self) -> None:
        """Close the database and merge the write-ahead log into the file."""
        with self._lock:
            # Fails if a reader has the file open, the disk is full or the file is damaged. The log
            # then stays beside the file, and readers use both.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA journal_mode = DELETE")
            self._connection.close()


class StoreReader:
    """Reader of a database, including one that is being written or that a killed process left.

    Every method that reads raises `StoreError` if the file is damaged.

    Raises:
        FileNotFoundError: The file does not exist.
        StoreError: The file is not a database of this version of llamatelemetry.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no such file: {self.path}")
        self._connection = _connect(self.path, writing=False)
        self._resources: dict[int, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Generator[None]:
        """Let all reads in the block see the same records, even if others are written meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def spans(self, *, after: int = 0) -> Iterator[SpanRecord]:
        """Yield spans in the order of arrival, from the row after number `after`."""
        return self._records("spans", after)

    def points(self, *, after: int = 0) -> Iterator[MetricPoint]:
        """Yield metric data points in the order of arrival; `after` as for `spans()`."""
        return self._records("points", after)

    def logs(self, *, after: int = 0) -> Iterator[LogRecord]:
        """Yield log records in the order of arrival; `after` as for `spans()`."""
        return self._records("logs", after)

    def last_row(self, table: str) -> int:
        """Return the number of the newest row of `spans`, `points` or `logs`; 0 if empty."""
        if table not in TABLES:
            raise ValueError(f"table must be one of {', '.join(TABLES)}, got {table!r}")
        with self._damage_reported():
            return _last_row(self._connection, table)

    def runs(self) -> list[Run]:
        """Return the recorded commands, from the first to the newest."""
        query = "SELECT command, started_ns, ended_ns, exit_status, after FROM runs ORDER BY id"
        with self._damage_reported():
            return [_run(*row) for row in self._connection.execute(query)]

    def _records(self, name: str, after: int) -> Iterator[Any]:
        table = TABLES[name]
        with self._damage_reported():
            for *values, resource_id in self._connection.execute(table.select, (after,)):
                yield table.record_of(values, self._resource(resource_id))

    @contextlib.contextmanager
    def _damage_reported(self) -> Generator[None]:
        try:
            yield
        # A damaged page, or a file made by hand, can have any values: text that is not JSON, nested
        # without an end, other types.
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{self.path} is damaged: {error}") from error

    def _resource(self, number: int) -> dict[str, Any]:
        known = self._resources.get(number)
        if known is None:
            row = self._connection.execute(
                "SELECT attributes FROM resources WHERE id = ?", (number,)
            ).fetchone()
            if row is None:
                raise ValueError(f"a record refers to resource {number!r}, which is missing")
            known = self._resources[number] = load_object(*row)
        return known


def _run(command: Any, started_ns: Any, ended_ns: Any, exit_status: Any, after: Any) -> Run:
    arguments, rows = load_list(command), load_object(after)
    numbers = (started_ns, *(each for each in (ended_ns, exit_status) if each is not None))
    if not all(type(each) is int for each in (*numbers, *rows.values())):
        raise ValueError("the times, the exit status and the rows of a run must be int")
    if not all(type(each) is str for each in arguments):
        raise ValueError("the command of a run must be an array of str")
    return Run(tuple(arguments), started_ns, ended_ns, exit_status, rows)


def _last_row(connection: sqlite3.Connection, table: str) -> int:
    query = f"SELECT coalesce(max(rowid), 0) FROM {table}"  # noqa: S608 - one of three names
    return connection.execute(query).fetchone()[0]


def _connect(path: Path, *, writing: bool) -> sqlite3.Connection:
    """Open a database. Creates the tables if the file is empty and `writing` is set."""
    try:
        # `mode=ro` could not read the write-ahead log that a killed process left.
        connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        objects = set(connection.execute("SELECT type, name FROM sqlite_master"))
        if not objects and writing:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"{SCHEMA} PRAGMA user_version = {VERSION};")
            version = VERSION
        elif not objects >= _OBJECTS:
            version = 0  # Other applications number their files, too.
        if version in UPGRADES:
            connection.executescript(
                f"BEGIN; {UPGRADES[version]} PRAGMA user_version = {VERSION}; COMMIT;"
            )
            version = VERSION
        connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError as error:
        raise OSError(f"cannot open {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        is_other = error.sqlite_errorcode == sqlite3.SQLITE_NOTADB
        problem = "is not an SQLite file" if is_other else f"is damaged: {error}"
        raise StoreError(f"{path} {problem}") from error
    if version != VERSION:
        connection.close()
        raise StoreError(
            f"{path} is an SQLite file, but not a database of this version of llamatelemetry"
        )
    return connection
