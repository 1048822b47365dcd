"""Warnings about the validity of a benchmark, on both sides of each limit."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from llamatelemetry.bench import RunRecord
from llamatelemetry.bench.analysis.validity import (
    clock_warnings,
    external_load_warning,
    setup_warnings,
    shortfall_warnings,
    validity_warnings,
)
from llamatelemetry.bench.load.schedule import Load
from llamatelemetry.bench.targets.target import ServerFacts
from tests.support.example_results import record

RUN = RunRecord(started_unix_s=0, duration_s=30.0, planned=5)
ENGINE = {"prompt_tokens_total": 100.0, "tokens_predicted_total": 15.0}


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 9.0, 9.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.parametrize(
    ("slots", "load", "queued"),
    [
        (2, Load(2), False),
        (2, Load(3), True),
        (None, Load(3), False),
        (1, Load(rate=9.0), False),  # an open load without a limit
        (1, Load(2, rate=9.0), True),
    ],
)
def test_setup_warns_of_more_concurrent_requests_than_slots(slots, load, queued):
    found = setup_warnings(ServerFacts(slots=slots, busy=0), load)
    expected = f"Concurrency {load.concurrency} exceeds the {slots} slots"
    assert [warning.startswith(expected) for warning in found] == [True] * queued


def test_setup_warns_of_a_busy_server():
    (found,) = setup_warnings(ServerFacts(busy=1), Load())
    assert found.startswith("The server was processing 1 other requests")


@pytest.mark.parametrize(
    ("load_1min", "cores", "expected"),
    [(2.0, 4, None), (2.1, 4, "52%"), (0.5, None, None), (0.6, None, "60%")],
)
def test_setup_warns_of_a_load_above_half_of_the_processors(
    monkeypatch, load_1min, cores, expected
):
    monkeypatch.setattr(os, "getloadavg", lambda: (load_1min, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    found = setup_warnings(ServerFacts(), Load())
    assert [f"(load {expected} of its processors)" in each for each in found] == [True] * bool(
        expected
    )


def test_setup_is_silent_where_the_load_is_unknown(monkeypatch):
    def unknown():
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert setup_warnings(ServerFacts(), Load()) == []


@pytest.mark.parametrize(
    ("jump_s", "cpu_share", "expected"),
    [
        (0.05, 0.8, []),
        (0.6, 0.0, ["adjusted by +600 ms"]),
        (-0.06, 0.0, ["adjusted by -60 ms"]),
        (0.0, 0.85, ["used 85% of a CPU core"]),
    ],
)
def test_clock_warnings_start_above_their_limits(jump_s, cpu_share, expected):
    clocks = SimpleNamespace(jump_s=jump_s, cpu_share=cpu_share)
    found = clock_warnings(clocks, engine_in_process=False)
    assert len(found) == len(expected)
    assert all(part in warning for part, warning in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("prompt", "output", "excess"),
    [
        (100, 15, None),
        (101, 16, None),
        (99, 15, "1 more prompt tokens and 0 more output"),
        (100, 13, "0 more prompt tokens and 2 more output"),
        (None, 13, None),
        (90, None, None),
    ],
)
def test_external_load_is_the_excess_of_the_engine_over_this_benchmark(prompt, output, excess):
    found = external_load_warning(ENGINE, prompt, output)
    assert (found is None) == (excess is None)
    assert (excess or "") in (found or "")


def test_external_load_is_absent_if_nothing_was_counted_and_requested():
    assert external_load_warning(dict.fromkeys(ENGINE, 0.0), 0, 0) is None


@pytest.mark.parametrize("missing", ENGINE)
def test_external_load_is_unknown_without_both_counters(missing):
    engine = {name: count for name, count in ENGINE.items() if name != missing}
    assert external_load_warning(engine, 1, 1) is None


def test_shortfall_counts_turns_that_were_not_sent():
    records = [record(index) for index in range(5)]
    assert shortfall_warnings(RUN, records) == []
    (found,) = shortfall_warnings(RUN, records[:2])
    assert found.startswith("3 turns were not sent")
    (found,) = shortfall_warnings(replace(RUN, interrupted=True), records[:2])
    assert found == "Interrupted: 2 of 5 requests were measured"


def test_shortfall_compares_engine_counters_with_the_evaluated_tokens():
    """Each record has 20 evaluated prompt tokens and 3 generated ones."""
    records = [record(index) for index in range(5)]
    assert shortfall_warnings(replace(RUN, engine=ENGINE), records) == []
    more = {name: count + 4 for name, count in ENGINE.items()}
    (found,) = shortfall_warnings(replace(RUN, engine=more), records)
    assert "4 more prompt tokens and 4 more output tokens" in found
    # The engine also counted the tokens of a failed request, which are unknown here.
    failed = [*records[:4], replace(records[4], error="timeout")]
    assert shortfall_warnings(replace(RUN, engine=more), failed) == []


def warnings_of(records, load=Load(), *, is_cold=True, wants_exact=False):  # noqa: B008
    return list(validity_warnings(records, load, is_cold=is_cold, wants_exact=wants_exact))


def steady(n=10, **changes):
    """Return requests with three chunks of one token, and no trend."""
    return [record(index, **changes) for index in range(n)]


def test_steady_requests_have_no_warnings():
    assert warnings_of(steady(60)) == []


def test_failed_requests_are_counted():
    (found,) = warnings_of([*steady(7), *steady(2, error="timeout")])
    assert found.startswith("2 of 9 requests failed")


@pytest.mark.parametrize(
    ("load", "late", "warned"),
    [
        (Load(rate=1.0), 2, True),
        (Load(rate=1.0), 1, False),  # only the slowest of 101, which is above p99
        (Load(), 2, False),  # a closed load has no schedule
        (Load(2, rate=1.0), 2, False),  # the limit causes the delay
    ],
)
def test_dispatch_delay_is_the_p99_of_an_open_load(load, late, warned):
    records = [*steady(101 - late), *steady(late, lag_s=0.0123)]
    found = [warning for warning in warnings_of(records, load) if "dispatch delay" in warning]
    assert ["reached 12 ms (p99)" in warning for warning in found] == [True] * warned


def test_dispatch_delay_of_10_ms_is_accepted():
    assert warnings_of(steady(lag_s=0.01), Load(rate=1.0)) == []


@pytest.mark.parametrize(
    ("is_cold", "cached", "warned"),
    [(True, 2, False), (True, 3, True), (False, 10, False), (False, 9, True)],
)
def test_cache_warning_compares_the_share_of_cached_tokens(is_cold, cached, warned):
    """Each record has 20 input tokens. A cold cache may serve 10%, a warm one must serve half."""
    unknown = [record(0, cached_tokens=None), record(1, input_tokens=0, cached_tokens=9)]
    found = warnings_of([*steady(cached_tokens=cached), *unknown], is_cold=is_cold)
    expected = f"{cached * 5}% of the input tokens came from the prompt cache, despite cache="
    assert [expected + ("cold" if is_cold else "warm") in each for each in found] == [True] * warned


def test_unknown_output_tokens_are_reported_once_all_are_unknown():
    (found,) = warnings_of(steady(output_tokens=None))
    assert found.startswith("The number of output tokens is unknown")
    assert warnings_of([*steady(), record(0, output_tokens=None)]) == []


def test_early_ends_are_reported_if_lengths_differ_and_should_not():
    stopped = [record(index, finish_reason="stop", output_tokens=2) for index in range(2)]
    (found,) = warnings_of([*steady(), *stopped], wants_exact=True)
    assert found.startswith("2 responses ended before max_tokens")
    assert warnings_of([*steady(), *stopped]) == []
    assert warnings_of(stopped, wants_exact=True) == []
    same = [*steady(finish_reason="stop"), record(0, output_tokens=None)]
    assert warnings_of(same, wants_exact=True) == []


def test_unknown_tpot_and_chunks_of_several_tokens_are_reported():
    crowded = steady(4, output_tokens=9, first_chunk_share=0.9)
    late, chunks = warnings_of(crowded)
    assert late.startswith("TPOT is unknown for 4 of 4 requests")
    assert chunks.startswith("A stream chunk holds 3.0 tokens on average")
    # One token has no TPOT, and a response without chunks is not a stream.
    assert warnings_of([*steady(20), record(0, output_tokens=1, ttft_s=None)]) == []
    assert warnings_of(steady(ttft_s=None, output_tokens=9, token_times_s=())) == []


def test_stream_chunk_may_hold_one_and_a_half_tokens():
    both = [*steady(5), *steady(5, output_tokens=6, first_chunk_share=0.1)]
    assert warnings_of(both) == []
    assert len(warnings_of([*both, record(0, output_tokens=7, first_chunk_share=0.1)])) == 1


def trending(slope, n=40, noise=0.02):
    """Return requests whose latency of 1 s changes by a fraction over the run, without the lag."""
    rng = np.random.default_rng(12)
    values = 1 + slope * (np.arange(n) / n - 0.5) + rng.normal(0, noise, n)
    records = [
        record(index, due_s=index * 0.5, lag_s=0.2, e2e_s=float(value) + 0.2)
        for index, value in enumerate(values)
    ]
    # Requests end in another order than they start.
    return records[::-1]


@pytest.mark.parametrize(
    ("slope", "expected"), [(0.3, "drifted by +30%"), (-0.3, "drifted by -30%")]
)
def test_drift_is_the_change_over_the_run(slope, expected):
    (found,) = warnings_of(trending(slope, noise=0.002))
    assert expected in found


def test_drift_below_10_percent_or_without_significance_is_not_reported():
    assert not any("drifted" in each for each in warnings_of(trending(0.08)))
    assert not any("drifted" in each for each in warnings_of(trending(0.11, n=20, noise=0.5)))


def test_trend_needs_20_requests_of_one_run():
    assert len(warnings_of(trending(0.3, n=20))) == 1
    assert warnings_of(trending(0.3, n=19)) == []
    runs = [replace(each, run=each.index % 2) for each in trending(0.3)]
    assert warnings_of(runs) == []


def test_correlated_requests_are_reported():
    waves = [record(index, e2e_s=1 + 0.01 * (index // 10 % 2)) for index in range(40)]
    (found,) = warnings_of(waves)
    assert found.startswith("Consecutive requests are correlated")
    alternating = [record(index, e2e_s=1 + 0.01 * (index % 2)) for index in range(40)]
    assert warnings_of(alternating) == []
