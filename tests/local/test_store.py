"""The database: round trip, complete batches, size limit, and other files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llamatelemetry.local.records import Event, Link, LogRecord, MetricPoint, SpanRecord
from llamatelemetry.local.store import Store, StoreError, StoreReader, StoreWriteError
from tests.support.example_records import numbered

SPAN = SpanRecord(
    trace_id="0af7651916cd43dd8448eb211c80319c",
    span_id="b7ad6b7169203331",
    parent_span_id=None,
    name="chat m",
    kind=3,
    start_ns=1_800_000_000_000_000_000,
    end_ns=1_800_000_000_500_000_000,
    attributes={"text": "ä\u2028", "number": 0.5, "list": [1, 2], "map": {"a": None}, "flag": True},
    status=2,
    status_message="why",
    events=[Event("token", 5, {"index": 1})],
    links=[Link("f" * 32, "e" * 16, {"why": "batch"})],
    scope="plugin",
    resource={"service.name": "s"},
)
POINT = MetricPoint(
    name="gen_ai.client.operation.duration",
    unit="s",
    kind="histogram",
    is_monotonic=True,
    is_delta=False,
    attributes={"gen_ai.operation.name": "chat"},
    start_ns=1,
    time_ns=2,
    count=3,
    sum=4.5,
    bounds=[1.0, 2.0],
    buckets=[1, 1, 1],
    scope="plugin",
    resource={"service.name": "s"},
)
LOG = LogRecord(
    time_ns=3,
    severity=9,
    event_name="gen_ai.client.inference.operation.details",
    body={"a": [1]},
    attributes={"b": "c"},
    trace_id=SPAN.trace_id,
    span_id=SPAN.span_id,
    scope="plugin",
    resource={"service.name": "other"},
)


def test_reader_returns_written_records(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "s.db"
    with Store(path) as store:
        store.write([SPAN, POINT, LOG])
        store.write([numbered(2)])
    with StoreReader(path) as reader:
        assert list(reader.spans()) == [SPAN, numbered(2)]
        assert list(reader.points()) == [POINT]
        assert list(reader.logs()) == [LOG]
        assert [s.name for s in reader.spans(after=1)] == ["span 2"]
        assert reader.last_row("spans") == 2
        assert reader.last_row("logs") == 1


def test_write_ignores_spans_already_stored(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.write([SPAN])
        store.write([SPAN, numbered(1)])
    with StoreReader(tmp_path / "s.db") as reader:
        assert len(list(reader.spans())) == 2


def test_database_can_be_read_during_writes_and_reopened(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.write([numbered(1)])
        with StoreReader(path) as reader:
            store.write([numbered(2)])
            assert [span.name for span in reader.spans()] == ["span 1", "span 2"]
    with Store(path) as store:
        store.write([numbered(3)])
    with StoreReader(path) as reader:
        assert len(list(reader.spans())) == 3
    assert [each.name for each in tmp_path.iterdir()] == ["s.db"]


def test_database_can_be_queried_with_sqlite(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.write([SPAN])
    found = sqlite3.connect(tmp_path / "s.db").execute(
        "SELECT name, json_extract(attributes, '$.number'), json_extract(r.attributes, '$.\"service.name\"')"
        " FROM spans JOIN resources r ON r.id = resource_id".replace(
            "json_extract(attributes", "json_extract(spans.attributes"
        )
    )
    assert found.fetchall() == [("chat m", 0.5, "s")]


def test_killed_process_leaves_complete_batches(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    code = """
        import sys
        from llamatelemetry.local.store import Store
        from tests.support.example_records import numbered
        store = Store(sys.argv[1])
        for batch in range(10_000):
            store.write([numbered(batch * 10 + n) for n in range(10)])
            print(batch, flush=True)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert writer.stdout is not None
    acknowledged = 0
    for line in writer.stdout:
        acknowledged = int(line) + 1
        if acknowledged == 20:
            writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with StoreReader(path) as reader:
        spans = list(reader.spans())
    assert len(spans) >= acknowledged * 10
    assert len(spans) % 10 == 0


def test_write_deletes_oldest_records_above_size_limit(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db", max_bytes=400_000) as store:
        for batch in range(40):
            store.write([numbered(batch * 10 + n, padding=2000) for n in range(10)])
        assert store.pruned > 0
    with StoreReader(tmp_path / "s.db") as reader:
        kept = [span.start_ns for span in reader.spans()]
    assert kept[-1] == 399
    assert kept == list(range(kept[0], 400))
    assert len(kept) + store.pruned == 400
    assert (tmp_path / "s.db").stat().st_size < 600_000


def test_write_raises_and_keeps_earlier_records_when_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = Store(path)
    store.write([numbered(1)])
    # SQLite's own size limit raises the same error as a full disk.
    store._connection.execute("PRAGMA max_page_count = 40")
    with pytest.raises(StoreWriteError, match="disk is full"):
        store.write([numbered(n, padding=10_000) for n in range(2, 100)])
    store._connection.execute("PRAGMA max_page_count = 100000")
    store.write([numbered(100)])
    store.close()
    with StoreReader(path) as reader:
        assert [span.name for span in reader.spans()] == ["span 1", "span 100"]


FULL_AT_COMMIT = """
import resource, sys
from dataclasses import replace
from llamatelemetry.local.store import Store, StoreWriteError
from tests.support.example_records import numbered

store = Store(sys.argv[1])
store.write([numbered(1)])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
# The records are in SQLite's memory until the transaction is committed.
resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
try:
    store.write([replace(numbered(2), resource={"service.name": "other"})])
except StoreWriteError:
    pass
else:
    raise SystemExit("written")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.write([replace(numbered(3), resource={"service.name": "other"})])
store.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files")
def test_records_are_readable_after_the_disk_was_full_at_a_commit(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    subprocess.run([sys.executable, "-c", FULL_AT_COMMIT, path], check=True)
    with StoreReader(path) as reader:
        found = [(span.name, span.resource.get("service.name")) for span in reader.spans()]
    assert [name for name, _ in found] == ["span 1", "span 3"]
    assert found[1][1] == "other"


def test_store_rejects_other_files_and_leaves_them_unchanged(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database " * 100)
    with pytest.raises(StoreError, match="is not an SQLite file"):
        Store(text)
    with pytest.raises(StoreError, match="is not an SQLite file"):
        StoreReader(text)
    assert text.read_text() == "not a database " * 100
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(StoreError, match="not a database of this version"):
        Store(other)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*missing\.db"):
        StoreReader(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


def test_runs_have_their_command_end_and_the_rows_before(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    for number in (1, 2):
        with Store(path) as store:
            run = store.begin_run(["python", f"{number}.py"])
            store.write([numbered(number)])
            store.end_run(number)
    with StoreReader(path) as reader:
        first, second = reader.runs()
        assert [each.span_id for each in reader.spans(after=second.after["spans"])] == [
            numbered(2).span_id
        ]
    assert first.command == ("python", "1.py")
    assert (first.exit_status, second.exit_status) == (1, 2)
    assert second.after == {"spans": 1, "points": 0, "logs": 0} == run.after
    assert first.ended_ns is not None
    assert first.started_ns <= first.ended_ns <= second.started_ns


def test_each_of_two_runs_at_the_same_time_has_its_own_end(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Store(path) as first, Store(path) as second:
        first.begin_run(["first"])
        second.begin_run(["second"])
        first.end_run(1)
        with StoreReader(path) as reader:
            assert [each.exit_status for each in reader.runs()] == [1, None]
        second.end_run(2)
    with StoreReader(path) as reader:
        assert [each.exit_status for each in reader.runs()] == [1, 2]


def test_database_of_version_1_is_upgraded_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with Store(path) as store:
        store.write([SPAN])
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TABLE runs; ALTER TABLE spans DROP COLUMN links; PRAGMA user_version = 1;"
    )
    connection.close()
    with StoreReader(path) as reader:
        [found] = reader.spans()
        assert (found.span_id, found.links) == (SPAN.span_id, ())
        assert reader.runs() == []
    with Store(path) as store:
        store.begin_run(["python"])
        assert store.write([numbered(1)]) == 1
