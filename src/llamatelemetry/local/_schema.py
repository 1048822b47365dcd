"""The tables of a store. A change of them raises `VERSION`."""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
SCHEMA: Final = """
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
"""
