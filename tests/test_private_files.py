"""Directories and files of telemetry: only their owner can read them, whatever the umask is."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from llamatelemetry.llama.server.log import ServerLog
from llamatelemetry.local.report import read_recorded, write_report
from llamatelemetry.local.store import Store
from llamatelemetry.otel.export.file_exporter import FileSpanExporter
from tests.support.recorded_calls import span

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")


@pytest.fixture(params=[0o000, 0o022, 0o277, 0o777], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def export_span(directory: Path) -> None:
    """Export a span to a file in this directory."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileSpanExporter(directory)))
    provider.get_tracer("test").start_span("work").end()
    provider.shutdown()


def write_store(directory: Path) -> None:
    """Write a database and its report to this directory."""
    with Store(directory / "run.db") as store:
        store.write([span(1)])
        # SQLite's side files exist only while the database is open.
        assert set(modes(directory).values()) == {0o600}
    write_report(read_recorded(directory / "run.db"), directory / "run.html")


writers = pytest.mark.parametrize("write", [export_span, write_store])


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def modes(directory: Path) -> dict[str, int]:
    return {path.name: mode(path) for path in directory.iterdir()}


@writers
def test_new_directory_and_files_are_private(write, tmp_path, umask):
    directory = tmp_path / "data"
    write(directory)
    assert mode(directory) == 0o700
    assert set(modes(directory).values()) == {0o600}


@writers
def test_existing_directory_keeps_its_mode_and_gets_private_files(write, tmp_path, umask):
    tmp_path.chmod(0o755)
    write(tmp_path)
    assert mode(tmp_path) == 0o755
    assert set(modes(tmp_path).values()) == {0o600}


@writers
def test_files_of_earlier_version_become_private(write, tmp_path):
    write(tmp_path)
    for path in tmp_path.iterdir():
        path.chmod(0o644)
    (tmp_path / "run.html").unlink(missing_ok=True)
    write(tmp_path)
    assert set(modes(tmp_path).values()) == {0o600}


def test_side_files_of_killed_process_become_private(tmp_path):
    path = tmp_path / "run.db"
    store = Store(path)
    store.write([span(1)])
    assert modes(tmp_path) == dict.fromkeys(("run.db", "run.db-wal", "run.db-shm"), 0o600)
    for side_file in tmp_path.iterdir():
        side_file.chmod(0o644)
    # As after a crash, the side files are still there when the database is opened.
    with Store(path) as again:
        assert set(modes(tmp_path).values()) == {0o600}
        again.write([span(1)])
    store.close()


def test_second_store_keeps_lock_of_first(tmp_path):
    with Store(tmp_path / "run.db") as first, first._connection as connection:
        connection.execute("BEGIN IMMEDIATE")
        Store(tmp_path / "run.db").close()
        other = sqlite3.connect(tmp_path / "run.db", timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_file_exporter_follows_no_symbolic_link(tmp_path, caplog):
    target = tmp_path / "target"
    target.write_text("mine")
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / f"traces-{os.getpid()}.jsonl").symlink_to(target)
    export_span(directory)
    assert target.read_text() == "mine"
    assert "Cannot write telemetry to" in caplog.text


def test_new_server_log_is_private_and_existing_one_keeps_its_mode(tmp_path):
    existing = tmp_path / "existing.log"
    existing.touch()
    existing.chmod(0o640)
    for path in (existing, tmp_path / "new.log"):
        log = ServerLog(file_path=path)
        log.feed(b"line\n")
        log.close()
    assert modes(tmp_path) == {"existing.log": 0o640, "new.log": 0o600}
