"""Monotonic totals over restarts of a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamatelemetry.server_metrics.totals import ModelTotals


def counted(*values: float) -> dict[str, float]:
    return {f"{name}_total": value for name, value in zip("ab", values, strict=False)}


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([("1", 5)], 5),
        ([("1", 5), ("1", 7)], 7),
        ([("1", 5), ("2", 2)], 7),
        # The new process counts past the earlier one.
        ([("1", 5), ("2", 8)], 13),
        ([("1", 5), (None, 2)], 7),
        ([("1", 5), (None, 8)], 8),
        ([(None, 5), (None, 2), (None, 1)], 8),
        ([("1", 5), ("2", 0), ("2", 0), ("3", 1)], 6),
    ],
)
def test_totals_add_counts_of_earlier_processes(readings, expected):
    totals = ModelTotals()
    for process_start, value in readings:
        totals.update(counted(value), process_start)
    assert totals.totals() == counted(expected)


def test_totals_treat_decrease_of_one_counter_as_restart():
    totals = ModelTotals()
    totals.update(counted(5, 5), None)
    totals.update(counted(1, 9), None)
    assert totals.totals() == counted(6, 14)


def test_totals_continue_after_sleep_unless_counters_restart():
    totals = ModelTotals()
    totals.update(counted(5), "1")
    totals.update(counted(6), "2", slept=True)
    assert totals.totals() == counted(6)
    totals.update(counted(1), "3", slept=True)
    assert totals.totals() == counted(7)


def test_totals_keep_counter_missing_in_other_build():
    totals = ModelTotals()
    totals.update(counted(5, 5), "1")
    totals.update(counted(3), "2")
    assert totals.totals() == counted(8, 5)
    totals.update(counted(1, 1), "3")
    totals.update(counted(2), "3")
    assert totals.totals() == counted(10, 6)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "3", None]),
            st.lists(st.integers(0, 1000), min_size=2, max_size=2),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_totals_never_decrease(readings):
    totals = ModelTotals()
    before: dict[str, float] = {}
    for process_start, values, slept in readings:
        totals.update(counted(*values), process_start, slept=slept)
        now = totals.totals()
        assert all(now[name] >= value for name, value in before.items())
        assert all(now[name] >= value for name, value in counted(*values).items())
        totals = ModelTotals.from_json(totals.to_json())
        assert totals.totals() == now
        before = now


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"current": 3},
        {"current": {"a_total": "x"}},
        {"earlier": {"a_total": -1}, "process_start": 7},
    ],
)
def test_from_json_ignores_invalid_state(data):
    assert ModelTotals.from_json(data).totals() == {}
