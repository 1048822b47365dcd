"""Databases made by hand: the commands end with one sentence, never a traceback."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llamatelemetry
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.report import read_recorded, render
from llamatelemetry.local.schema import SCHEMA, VERSION
from llamatelemetry.local.store import Store, StoreError
from llamatelemetry.local.why import explain
from tests.local.many_records import many_spans
from tests.support.example_records import sample_recording

COLUMNS = [
    (table, name)
    for table, columns in re.findall(r"CREATE TABLE (\w+) \(\n(.*?)\n\);", SCHEMA, re.DOTALL)
    for name in re.findall(r"^ +([a-z_]+) ", columns, re.MULTILINE)
    if name != "id"
]
UNREADABLE = {
    "deep": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "digits": '{"a": ' + "9" * 5000 + "}",
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with records in each of its tables."""
    path = tmp_path_factory.mktemp("made") / "run.db"
    sample = sample_recording()
    with Store(path) as store:
        store.begin_run(["python", "app.py"])
        store.write([*sample.spans, *sample.points, *sample.logs, *many_spans(40)])
        store.end_run(0)
    return path


def changed(database: Path, folder: Path, *statements: tuple[str, Any]) -> Path:
    path = folder / "handmade.db"
    path.write_bytes(database.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement, parameters in statements:
            connection.execute(statement, parameters)
    return path


def with_value(
    database: Path, folder: Path, column: tuple[str, str], value: Any, sql: str = "?"
) -> Path:
    """Return a database with a value in each row of a column of a table."""
    table, name = column
    # The copy of a table has no constraints, as one that another program has made.
    copy = [
        f"CREATE TABLE made AS SELECT * FROM {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE made RENAME TO {table}",
    ]
    update = (f"UPDATE {table} SET {name} = {sql}", (value,) if sql == "?" else ())
    return changed(database, folder, *((statement, ()) for statement in copy), update)


def use(path: Path) -> str:
    """Do the work of the commands `report` and `why`. Return the error of a rejected file."""
    try:
        recording = read_recorded(path)
    except StoreError as error:
        return str(error)
    summarize(recording.spans, recording.points)
    str(explain(recording))
    page = render(recording)
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page)
    assert packed is not None

    def reject(constant: str) -> None:
        raise AssertionError(f"a browser cannot read {constant}")

    json.loads(gzip.decompress(base64.b64decode(packed[1])), parse_constant=reject)
    return ""


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.binary(max_size=40),
    # JSON of any kind, also with NaN, infinity and numbers beyond 64 bits.
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
        ),
        max_leaves=8,
    ).map(json.dumps),
)


@given(st.sampled_from(COLUMNS), VALUES)
@settings(max_examples=150, deadline=None)
def test_any_value_in_any_column_is_read_or_rejected(
    database: Path, tmp_path_factory: pytest.TempPathFactory, column: tuple[str, str], value: Any
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    path = with_value(database, folder, column, value)
    error = use(path)
    assert not error or error.startswith(f"{path} is damaged: ")
    assert len(error) < 1000


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("table", ["spans", "resources", "logs"])
def test_json_beyond_the_limits_of_python_is_rejected(
    database: Path, tmp_path: Path, table: str, name: str
) -> None:
    path = with_value(database, tmp_path, (table, "attributes"), UNREADABLE[name])
    assert use(path).startswith(f"{path} is damaged: ")


def test_text_that_is_not_utf8_is_rejected(database: Path, tmp_path: Path) -> None:
    for column in COLUMNS:
        path = with_value(database, tmp_path, column, None, "CAST(x'ff' AS TEXT)")
        assert use(path).startswith(f"{path} is damaged: "), column
        path.unlink()


STATEMENTS: dict[str, tuple[str, str]] = {
    "column": ("ALTER TABLE spans DROP COLUMN kind", "no such column: kind"),
    "resource": ("DELETE FROM resources", "which is missing"),
    "table": ("DROP TABLE logs", "not a database of this version of llamatelemetry"),
    "runs": ("DROP TABLE runs", "no such table: runs"),
    "time": ("UPDATE spans SET start_ns = 'noon'", "start_ns must be int, got str"),
    "attributes": ("UPDATE spans SET attributes = '[1]'", "attributes must be a JSON object"),
    "events": ("UPDATE spans SET events = '[[1]]'", "must be an array of str, int, dict"),
    "command": ("UPDATE runs SET command = '[1]'", "must be an array of str"),
    "after": ('UPDATE runs SET after = \'{"spans": "x"}\'', "the rows of a run must be int"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_error_says_what_is_wrong(database: Path, tmp_path: Path, name: str) -> None:
    statement, message = STATEMENTS[name]
    path = changed(database, tmp_path, (statement, ()))
    with pytest.raises(StoreError, match=re.escape(message)):
        read_recorded(path)


@pytest.mark.parametrize("version", [0, 1, VERSION, 99])
def test_file_of_another_application_is_named_as_such_and_stays_unchanged(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"CREATE TABLE bookmarks (x); PRAGMA user_version = {version};")
    before = path.read_bytes()
    for attempt in (read_recorded, llamatelemetry.why, Store):
        with pytest.raises(StoreError, match="an SQLite file, but not a database of this version"):
            attempt(path)
    assert path.read_bytes() == before


def test_view_without_an_end_is_not_read(database: Path, tmp_path: Path) -> None:
    endless = """CREATE VIEW logs AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)
    SELECT n AS resource_id FROM c"""
    path = changed(database, tmp_path, ("DROP TABLE logs", ()), (endless, ()))
    with pytest.raises(StoreError, match="not a database of this version"):
        read_recorded(path)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda found: found[:16],
    "half of the header": lambda found: found[:60],
    "one page": lambda found: found[:4096],
    "half": lambda found: found[: len(found) // 2],
    "last byte": lambda found: found[:-1],
    "zeros": lambda found: found[:8192] + bytes(len(found) - 8192),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("command", ["report", "why"])
def test_commands_end_with_one_line_for_a_damaged_file(
    database: Path, tmp_path: Path, name: str, command: str
) -> None:
    path = tmp_path / "run.db"
    path.write_bytes(DAMAGES[name](database.read_bytes()))
    done = subprocess.run(
        [sys.executable, "-m", "llamatelemetry", command, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*run\.db.*\n", done.stderr)
