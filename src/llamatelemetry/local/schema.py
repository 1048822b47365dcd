"""Tables of the SQLite database, and the conversion between records and rows.

Columns have the names of the record's fields. A change of the tables raises `VERSION` and adds to
`UPGRADES` the statements that change a file of the version before.
"""

from __future__ import annotations

import json
from dataclasses import fields
from functools import partial
from operator import attrgetter
from sys import intern
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry._limits import Limit
from llamatelemetry.local.records import Event, Link, LogRecord, MetricPoint, Record, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VERSION: Final = 2
# Commands whose telemetry the file has. The rows of a run come after the numbers in `after`.
_RUNS: Final = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    command TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    exit_status INTEGER,
    after TEXT NOT NULL
);
"""
SCHEMA: Final = f"""
CREATE TABLE resources (
    id INTEGER PRIMARY KEY,
    attributes TEXT NOT NULL UNIQUE
);
CREATE TABLE spans (
    resource_id INTEGER NOT NULL REFERENCES resources(id),
    trace_id TEXT NOT NULL,
    span_id TEXT NOT NULL,
    parent_span_id TEXT,
    name TEXT NOT NULL,
    kind INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    status INTEGER NOT NULL,
    status_message TEXT NOT NULL,
    scope TEXT NOT NULL,
    attributes TEXT NOT NULL,
    events TEXT,
    links TEXT,
    UNIQUE (trace_id, span_id)
);
CREATE TABLE points (
    resource_id INTEGER NOT NULL REFERENCES resources(id),
    name TEXT NOT NULL,
    unit TEXT NOT NULL,
    kind TEXT NOT NULL,
    is_monotonic INTEGER NOT NULL,
    is_delta INTEGER NOT NULL,
    scope TEXT NOT NULL,
    attributes TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    value REAL,
    count INTEGER,
    sum REAL,
    bounds TEXT NOT NULL,
    buckets TEXT NOT NULL
);
CREATE TABLE logs (
    resource_id INTEGER NOT NULL REFERENCES resources(id),
    time_ns INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    event_name TEXT NOT NULL,
    trace_id TEXT,
    span_id TEXT,
    scope TEXT NOT NULL,
    body TEXT NOT NULL,
    attributes TEXT NOT NULL
);
{_RUNS}"""
# By version of the file.
UPGRADES: Final[Mapping[int, str]] = {1: f"ALTER TABLE spans ADD COLUMN links TEXT; {_RUNS}"}

to_json = partial(json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=True)


def _dump_some(items: Sequence[Event | Link]) -> str | None:
    return to_json(items) if items else None


def _load_links(text: str | None) -> Sequence[Link]:
    return [Link(*_checked(link, str, str, dict)) for link in load_list(text)] if text else ()


def _load_events(text: str | None) -> Sequence[Event]:
    return [Event(*_checked(event, str, int, dict)) for event in load_list(text)] if text else ()


def _checked(items: Any, *types: type) -> Any:
    if not isinstance(items, list) or (*map(type, cast("list[Any]", items)),) != types:
        names = ", ".join(each.__name__ for each in types)
        raise ValueError(f"an event or link must be an array of {names}")
    return cast("list[Any]", items)


def load_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        ValueError: The text is not a JSON object.
    """
    found: Any = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("attributes must be a JSON object")
    return cast("dict[str, Any]", found)


def load_list(text: str) -> list[Any]:
    """Return the JSON array in a text.

    Raises:
        ValueError: The text is not a JSON array.
    """
    found: Any = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("a column must be a JSON array")
    return cast("list[Any]", found)


def _load_attributes(text: str) -> Mapping[str, Any]:
    return _load_short_attributes(text) if len(text) < _SHORT else _parse_attributes(text)


def _parse_attributes(text: str) -> Mapping[str, Any]:
    """Return attributes whose names, and short texts, are shared by all records.

    Otherwise they take half of the memory of a large recording.
    """
    return {
        intern(name): intern(value) if type(value) is str and len(value) < _SHARED else value
        for name, value in load_object(text).items()
    }


_ATTRIBUTES: Final = Limit(
    "attribute_texts", 1024, "Short JSON texts of attributes in a database, with their values"
)
_SHORT: Final = 200
# Most spans are those of phases and requests, with few different attributes.
_load_short_attributes: Final = _ATTRIBUTES.cached(_parse_attributes)


def _intern_if_known(text: str | None) -> str | None:
    return text and intern(text)


_SHARED: Final = 64
_JSON: Final = ("attributes", "body", "bounds", "buckets")
_DUMP: Final[Mapping[str, Callable[[Any], str | None]]] = {
    **dict.fromkeys(_JSON, to_json),
    **dict.fromkeys(("events", "links"), _dump_some),
}
# SQLite stores booleans as integers.
_LOAD: Final[Mapping[str, Callable[[Any], Any]]] = {
    "body": json.loads,
    **dict.fromkeys(("bounds", "buckets"), load_list),
    **dict.fromkeys(("is_monotonic", "is_delta"), bool),
    **dict.fromkeys(("name", "unit", "scope"), intern),
    # Many spans share their trace and their parent.
    **dict.fromkeys(("trace_id", "parent_span_id"), _intern_if_known),
    "attributes": _load_attributes,
    "events": _load_events,
    "links": _load_links,
}


# Types of the values in a column, by the annotation of the field. The others have JSON.
_STORED: Final[Mapping[str, Sequence[type]]] = {
    **dict.fromkeys(("int", "bool"), (int,)),
    "int | None": (int, NoneType),
    "float | None": (float, int, NoneType),
    "str | None": (str, NoneType),
    **dict.fromkeys(("Sequence[Event]", "Sequence[Link]"), (str, NoneType)),
}


class StoreTable:
    """Conversion between the records of one type and the rows of their table.

    Attributes:
        insert: Statement that inserts a row, unless it is a span that the table already has.
        select: Statement that selects the rows after a row number.
    """

    def __init__(self, name: str, kind: type[Record]) -> None:
        self._kind: Any = kind
        # The last field of each record type is its resource, which has a table of its own.
        columns = fields(kind)[:-1]
        names = [each.name for each in columns]
        self._stored = [(each.name, _STORED.get(str(each.type), (str,))) for each in columns]
        self._valid_types: set[tuple[type, ...]] = set()
        self._values_of: Callable[[Record], Sequence[Any]] = attrgetter(*names)
        self._dump = [(at, _DUMP[each]) for at, each in enumerate(names) if each in _DUMP]
        self._load = [(at, _LOAD[each]) for at, each in enumerate(names) if each in _LOAD]
        listed = ", ".join([*names, "resource_id"])
        marks = ", ".join("?" * (len(names) + 1))
        self.insert = f"INSERT INTO {name}({listed}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
        self.select = f"SELECT {listed} FROM {name} WHERE rowid > ? ORDER BY rowid"  # noqa: S608

    def row_of(self, record: Record, resource_id: int) -> list[Any]:
        """Return the values of a record's row."""
        values: list[Any] = [*self._values_of(record), resource_id]
        for at, dump in self._dump:
            values[at] = dump(values[at])
        return values

    def record_of(self, values: Sequence[Any], resource: Mapping[str, Any]) -> Any:
        """Return the record of a row.

        Raises:
            ValueError: A column has a value of another type, or invalid JSON.
        """
        types = (*map(type, values),)
        if types not in self._valid_types:
            self._check_types(types)
        found = list(values)
        for at, load in self._load:
            found[at] = load(found[at])
        return self._kind(*found, resource)

    def _check_types(self, types: tuple[type, ...]) -> None:
        # SQLite stores values of any type in any column.
        for (name, stored), found in zip(self._stored, types, strict=True):
            if found not in stored:
                expected = " or ".join(each.__name__ for each in stored)
                raise ValueError(f"{name} must be {expected}, got {found.__name__}")
        self._valid_types.add(types)


TABLES: Final = {
    "spans": StoreTable("spans", SpanRecord),
    "points": StoreTable("points", MetricPoint),
    "logs": StoreTable("logs", LogRecord),
}
TABLE_OF: Final = dict(zip((SpanRecord, MetricPoint, LogRecord), TABLES.values(), strict=True))
