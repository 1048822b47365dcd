"""Hand-written reference pages: they name what exists, and all of it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from llamatelemetry.bench.analysis.metrics import METRICS, Totals
from scripts._telemetry_table import read_table

PAGES = Path(__file__).parents[1] / "docs/reference"


def page(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def test_every_benchmark_metric_is_defined():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| ([^|]+) \| (\w+) \|", page(BENCH), re.MULTILINE)
    described = {name: (unit.strip(), clock) for name, _, unit, clock in rows}
    assert described == {each.name: (each.unit, each.clock) for each in METRICS}


def test_every_total_of_a_benchmark_is_defined():
    named = set(re.findall(r"`(\w+)`", page(BENCH)))
    assert {each.name for each in fields(Totals)} - {"duration_s"} <= named


@pytest.mark.parametrize("name", ["metric-names.md", "benchmark-metrics.md"])
def test_names_on_the_page_exist(name: str):
    table = read_table()
    text, _, obsolete = page(name).partition("## Obsolete attributes")
    # The right column of the table of obsolete names.
    current = " ".join(re.findall(r"\| `[^|]+\| ([^|]+) \|$", obsolete, re.MULTILINE))
    named = re.findall(
        r"`((?:gen_ai|llamatelemetry|openai|hw)\.[a-z0-9_.]*[a-z0-9])`", text + current
    )
    assert named
    assert set(named) <= table.attributes.keys() | table.metrics.keys()


BENCH = "benchmark-metrics.md"
