"""Summary statistics, totals and SLOs of a few requests with known values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llamatelemetry.bench import RunRecord
from llamatelemetry.bench.analysis import statistics
from llamatelemetry.bench.analysis.metrics import (
    METRIC_BY_NAME,
    compute_totals,
    meets_slo,
    parse_slo,
    summarize_metric,
)
from tests.support.example_results import record

# Each run takes 10 s, so 300 J are 30 W: 20 W of idle power, and 10 W for the requests.
RUN = RunRecord(started_unix_s=0, duration_s=10.0, planned=2, gpu_energy_j=300.0, gpu_idle_w=20.0)


def summary_of(*runs, name="e2e"):
    """Return the summary of latencies, given for each run."""
    records = [
        record(index, run=run, e2e_s=e2e_s)
        for run, values in enumerate(runs)
        for index, e2e_s in enumerate(values)
    ]
    return summarize_metric(records, METRIC_BY_NAME[name], 3)


def test_summary_of_one_run_has_statistics_of_its_requests():
    values = np.random.default_rng(1).lognormal(size=60).tolist()
    found = summary_of(values)
    assert (found.count, found.minimum, found.maximum) == (60, min(values), max(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.mean == statistics.ratio(values, [1.0] * 60, 3)
    assert found.quantiles == {q: statistics.quantile(values, q) for q in (0.5, 0.9, 0.95, 0.99)}
    assert found.quantiles[0.95].supported
    assert not found.quantiles[0.99].supported


def test_summary_of_one_request_has_no_spread():
    found = summary_of([2.0])
    assert (found.count, found.sd, found.mean.value, found.mean.low) == (1, 0.0, 2.0, None)
    assert summarize_metric([record(0, ttft_s=None)], METRIC_BY_NAME["ttft"], 0) is None
    assert summarize_metric([record(0, error="timeout")], METRIC_BY_NAME["e2e"], 0) is None


def test_summary_of_several_runs_has_intervals_over_the_runs():
    runs = np.random.default_rng(1).lognormal(size=(3, 29)).tolist()
    found = summary_of(*runs)
    assert found.count == 87
    assert found.mean == statistics.over_runs([math.fsum(run) / 29 for run in runs])
    p90 = found.quantiles[0.9]
    assert p90 == statistics.over_runs([statistics.percentile(run, 0.9) for run in runs])
    # A percentile needs enough requests in each run, not in all runs together.
    assert p90.supported
    assert not found.quantiles[0.95].supported
    for short_last in ([*runs[:2], runs[2][:28]], [runs[0][:28], *runs[1:]]):
        assert not summary_of(*short_last).quantiles[0.9].supported


@pytest.mark.parametrize("count", [9, 10])
def test_mean_of_ten_runs_is_resampled(count):
    runs = np.random.default_rng(1).lognormal(size=(count, 4)).tolist()
    mean = summary_of(*runs).mean
    if count < 10:
        half = stats.t.ppf(0.975, count - 1) * stats.sem(np.mean(runs, axis=1))
        assert mean.high - mean.low == pytest.approx(2 * half)
    else:
        assert mean == statistics.ratio([sum(run) for run in runs], [4.0] * count, 3)


def test_intervals_between_chunks_need_enough_responses_for_a_percentile():
    chunks = tuple(np.arange(11.0))
    found = summarize_metric(
        [record(index, token_times_s=chunks) for index in range(29)], METRIC_BY_NAME["itl"], 0
    )
    assert found.count == 290
    assert found.quantiles[0.9] == statistics.Estimate(1.0)
    assert found.quantiles[0.95] == statistics.Estimate(1.0, supported=False)


def test_rates_are_tokens_per_second_of_their_phase():
    """20 prompt tokens in 0.4 s, and two tokens after the first one in 0.5 s."""
    one = record(0, prefill_s=0.4, decode_s=0.5, decoded_tokens=3)
    assert METRIC_BY_NAME["prefill_rate"].values_of(one) == (50.0,)
    assert METRIC_BY_NAME["decode_rate"].values_of(one) == (4.0,)
    unknown = record(0, prefill_s=0.0, decode_s=None)
    assert METRIC_BY_NAME["prefill_rate"].values_of(unknown) == ()
    assert METRIC_BY_NAME["prefill_rate"].values_of(record(0, prefilled_tokens=0)) == ()
    assert METRIC_BY_NAME["decode_rate"].values_of(unknown) == ()


def test_totals_count_successful_requests_over_the_time_of_all_runs():
    records = [record(0), record(1), record(2), record(3, error="timeout"), record(4, error="500")]
    totals = compute_totals(records, [RUN, RUN], {})
    assert (totals.requests, totals.failures) == (5, {"500": 1, "timeout": 1})
    assert (totals.duration_s, totals.request_rate) == (20.0, 3 / 20)
    assert (totals.output_rate, totals.input_rate) == (9 / 20, 60 / 20)
    assert totals.success == statistics.proportion(3, 5)
    assert (totals.goodput, totals.goodput_rate) == (None, None)
    assert totals.energy_per_token_j == pytest.approx(600 / 9)
    assert totals.energy_above_idle_per_token_j == pytest.approx(200 / 9)


def test_totals_without_requests_or_time_are_unknown():
    totals = compute_totals([], [], {"ttft": 1.0})
    assert (totals.success, totals.goodput, totals.output_rate) == (None, None, None)
    assert (totals.request_rate, totals.energy_per_token_j) == (0.0, None)
    partly = compute_totals([record(0), record(1, output_tokens=None)], [RUN], {})
    assert (partly.output_rate, partly.input_rate) == (None, 4.0)
    assert (partly.energy_per_token_j, partly.energy_above_idle_per_token_j) == (None, None)


@pytest.mark.parametrize(
    ("changes", "joules", "above_idle"),
    [
        ({"gpu_energy_j": None}, None, None),
        ({"gpu_idle_w": None}, 600 / 3, None),
        ({"gpu_idle_w": 90.0}, 600 / 3, 0.0),
    ],
)
def test_energy_needs_a_reading_of_every_run(changes, joules, above_idle):
    totals = compute_totals([record(0)], [RUN, replace(RUN, **changes)], {})
    assert totals.energy_per_token_j == joules
    assert totals.energy_above_idle_per_token_j == above_idle


def test_limits_of_slos_are_in_seconds():
    assert parse_slo(None) == {}
    assert parse_slo(" ttft = 250us , e2e=1.5 s,") == pytest.approx({"ttft": 250e-6, "e2e": 1.5})
    assert parse_slo({"ttfo_s": 2}) == {"ttfo": 2.0}


@pytest.mark.parametrize("value", ["2", "2.5"])
def test_limit_of_an_slo_needs_a_unit_in_a_text(value):
    with pytest.raises(ValueError, match=rf"must have a unit, got '{value}'. Use {value}s or"):
        parse_slo({"ttft": value})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0, None, "0ms", "1m"])
def test_limit_of_an_slo_is_finite_and_positive(value):
    with pytest.raises(ValueError, match="must be a time such as 500ms"):
        parse_slo({"ttft": value})


def test_slo_is_met_up_to_its_limit():
    one = record(0, ttft_s=0.5, e2e_s=1.0)
    assert meets_slo(one, {"ttft": 0.5, "e2e": 1.0})
    assert not meets_slo(one, {"ttft": 0.5, "e2e": 0.99})
    assert not meets_slo(replace(one, error="timeout"), {})
    assert not meets_slo(replace(one, ttft_s=None), {"ttft": 9.0})
    # Two tokens have a TPOT, which is unknown here.
    assert not meets_slo(replace(one, ttft_s=None, output_tokens=2), {"tpot": 9.0})
    assert meets_slo(replace(one, ttft_s=None, output_tokens=1), {"tpot": 9.0})
