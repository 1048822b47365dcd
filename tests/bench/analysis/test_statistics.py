"""Coverage of the intervals, and false-alarm rate and power of comparisons.

Tests marked `long` verify the documented rates with 2,000 trials each. The others use fewer
trials, or formulas instead of trials.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llamatelemetry.bench import BenchmarkResults, RequestRecord, RunRecord
from llamatelemetry.bench.analysis import statistics
from llamatelemetry.bench.analysis.metrics import METRIC_BY_NAME, summarize_metric
from llamatelemetry.bench.analysis.significance import (
    Sensitivity,
    compare_requests,
    compare_runs,
    superiority,
)

TRIALS = 2000
# Latencies that are symmetric, skewed as in practice, and skewed more than in practice.
DISTRIBUTIONS = {
    "normal": stats.norm(10, 1),
    "lognormal": stats.lognorm(0.3),
    "exponential": stats.expon(),
}


def covered(trials, interval, truth) -> float:
    """Return the fraction of intervals that contain the true value."""
    found = (interval() for _ in range(trials))
    return (
        sum(
            (each.low is None or each.low <= truth) and (each.high is None or truth <= each.high)
            for each in found
        )
        / trials
    )


def assert_covers(share: float, trials: int) -> None:
    """Assert 93% to 97%, plus the sampling error of fewer than 2,000 trials."""
    slack = 0.0 if trials >= TRIALS else 3 * (0.95 * 0.05 / trials) ** 0.5
    assert 0.93 - slack <= share <= 0.97 + slack


def coverage_of_quantile(name, n, q, trials):
    law, rng = DISTRIBUTIONS[name], np.random.default_rng(1)
    return covered(trials, lambda: statistics.quantile(law.rvs(n, random_state=rng), q), law.ppf(q))


def coverage_of_mean(name, n, trials):
    law, rng = DISTRIBUTIONS[name], np.random.default_rng(2)
    ones = np.ones(n)

    def interval():
        return statistics.ratio(law.rvs(n, random_state=rng), ones, rng)

    return covered(trials, interval, law.mean())


SUPPORTED = [(10, 0.5), (50, 0.5), (50, 0.9), (60, 0.95), (200, 0.95), (400, 0.99)]


@pytest.mark.parametrize(("n", "q"), SUPPORTED)
def test_quantile_intervals_have_95_percent_coverage(n, q):
    assert_covers(coverage_of_quantile("lognormal", n, q, 500), 500)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("n", "q"), SUPPORTED)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantile_intervals_have_95_percent_coverage_in_2000_trials(name, n, q):
    assert_covers(coverage_of_quantile(name, n, q, TRIALS), TRIALS)


@pytest.mark.parametrize("n", [10, 50])
def test_mean_intervals_have_95_percent_coverage(n):
    assert_covers(coverage_of_mean("lognormal", n, 300), 300)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("n", [10, 50, 200])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mean_intervals_have_95_percent_coverage_in_2000_trials(name, n):
    assert_covers(coverage_of_mean(name, n, TRIALS), TRIALS)


def test_percentile_bootstrap_has_less_than_90_percent_coverage():
    """The common percentile bootstrap misses three times as often as it claims."""
    law, rng = DISTRIBUTIONS["exponential"], np.random.default_rng(3)

    def interval():
        values = law.rvs(10, random_state=rng)
        means = values[rng.integers(0, 10, (500, 10))].mean(1)
        return statistics.Estimate(0.0, *np.quantile(means, [0.025, 0.975]))

    assert covered(500, interval, law.mean()) < 0.9


def runs_of(rng, runs, requests=50):
    """Yield runs. Their means differ by 10%, and the requests of one run by 30%."""
    for _ in range(runs):
        yield np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.3, requests))


def coverage_over_runs(runs, trials):
    rng = np.random.default_rng(4)

    def interval():
        records = [
            RequestRecord(run=run, index=i, prompt=0, due_s=0, lag_s=0, e2e_s=float(value))
            for run, values in enumerate(runs_of(rng, runs))
            for i, value in enumerate(values)
        ]
        return summarize_metric(records, METRIC_BY_NAME["e2e"], 0).mean

    return covered(trials, interval, float(np.exp((0.1**2 + 0.3**2) / 2)))


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 10])
def test_intervals_over_runs_have_95_percent_coverage(runs):
    assert_covers(coverage_over_runs(runs, 200), 200)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("runs", [3, 5, 10, 20])
def test_intervals_over_runs_have_95_percent_coverage_in_2000_trials(runs):
    assert_covers(coverage_over_runs(runs, TRIALS), TRIALS)


@pytest.mark.parametrize("n", [10, 50, 200])
def test_proportion_intervals_have_95_percent_coverage(n):
    """Computed exactly; coverage oscillates with the proportion, so it is averaged over many."""
    counts = np.arange(n + 1)
    intervals = [statistics.proportion(int(count), n) for count in counts]

    def coverage(share):
        holds = np.array([each.low <= share <= each.high for each in intervals])
        return float(stats.binom.pmf(counts, n, share)[holds].sum())

    assert 0.93 <= np.mean([coverage(share) for share in np.linspace(0.5, 0.99, 50)]) <= 0.97


@pytest.mark.parametrize(
    ("quantile", "needed"), [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299), (0.05, 59)]
)
def test_quantile_is_supported_from_minimum_sample_size(quantile, needed):
    assert statistics.needed_for(quantile) == needed
    values = np.arange(float(needed))
    assert statistics.quantile(values, quantile).supported
    assert not statistics.quantile(values[1:], quantile).supported


def test_quantile_interval_has_open_end_when_sample_cannot_bound_it():
    estimate = statistics.quantile(np.arange(60.0), 0.95)
    assert estimate.high is None
    assert estimate.low is not None
    assert statistics.quantile(np.arange(50.0), 0.95).low is None


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0], [3.0] * 20])
def test_ratio_has_no_interval_without_spread(values):
    estimate = statistics.ratio(values, [1.0] * len(values))
    assert estimate.value == pytest.approx(np.mean(values))
    assert (estimate.low, estimate.high) == (None, None)


def nyblom(n, q, k, tail):
    """Return the end of an interval between the values k and k + 1 of 1, 2, ..., n."""
    below, above = stats.binom.cdf([k - 1, k], n, q)
    odds = (n - k) * q * (tail - below) / (k * (1 - q) * (above - tail))
    return k + odds / (1 + odds)


def test_quantile_interval_is_that_of_nyblom():
    """The risk 0.025 lies between the second and the third of ten values for a median."""
    median = statistics.quantile(np.arange(1.0, 11), 0.5)
    assert median.low == pytest.approx(2.658, abs=0.001)
    assert (median.low, median.high) == pytest.approx((nyblom(10, 0.5, 2, 0.025), 11 - median.low))
    p90 = statistics.quantile(np.arange(1.0, 101), 0.9)
    upper = 101 - nyblom(100, 0.1, 5, 0.025)
    assert (p90.low, p90.high) == pytest.approx((nyblom(100, 0.9, 84, 0.025), upper))


def test_open_end_leaves_the_whole_error_to_the_other_end():
    p95 = statistics.quantile(np.arange(1.0, 61), 0.95)
    assert (p95.low, p95.high) == (pytest.approx(nyblom(60, 0.95, 54, 0.05)), None)
    p5 = statistics.quantile(np.arange(1.0, 61), 0.05)
    assert (p5.low, p5.high) == (None, pytest.approx(61 - p95.low))


def bootstrap_t(totals, weights, seed):
    """Return the interval of a ratio by the formulas of the bootstrap-t, sample by sample."""

    def error(sums, counts):
        residuals = sums - sums.sum() / counts.sum() * counts
        return (residuals @ residuals / (n - 1) * n) ** 0.5 / counts.sum()

    n, value = len(totals), totals.sum() / weights.sum()
    scores = [
        (totals[drawn].sum() / weights[drawn].sum() - value) / error(totals[drawn], weights[drawn])
        for drawn in np.random.default_rng(seed).integers(0, n, (2000, n))
        if len({*drawn}) > 1  # otherwise the error is zero
    ]
    upper, lower = np.quantile(scores, [0.025, 0.975])
    return value - lower * error(totals, weights), value - upper * error(totals, weights)


@pytest.mark.parametrize("n", [3, 12])
def test_ratio_interval_is_that_of_the_bootstrap_t(n):
    rng = np.random.default_rng(7)
    totals, weights = rng.lognormal(size=n), rng.integers(1, 9, n).astype(float)
    estimate = statistics.ratio(totals, weights, 5)
    assert estimate.value == pytest.approx(totals.sum() / weights.sum())
    assert (estimate.low, estimate.high) == pytest.approx(bootstrap_t(totals, weights, 5))


def test_rounding_errors_are_not_a_spread():
    """A resample of three equal units has an error of 0, but residuals of 1e-17."""
    assert statistics.ratio([0.3, 0.1, 0.7], [3.0, 1.0, 7.0]).low is None
    estimate = statistics.ratio([0.1, 4.7, 5.3], [1.0, 7.0, 7.0])
    assert -5 < estimate.low < estimate.value < estimate.high < 5


def test_over_runs_is_the_t_interval_of_the_mean():
    estimate = statistics.over_runs([1.0, 2.0, 4.0])
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 4], ddof=1) / 3**0.5
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (7 / 3, 7 / 3 - half, 7 / 3 + half)
    )
    assert statistics.over_runs([2.0, 2.0]) == statistics.Estimate(2.0, 2.0, 2.0)
    assert statistics.over_runs([2.0]) == statistics.Estimate(2.0)


@pytest.mark.parametrize("count", range(8))
def test_proportion_interval_is_that_of_wilson(count):
    found, expected = statistics.proportion(count, 7), stats.binomtest(count, 7)
    assert found.value == count / 7
    ends = expected.proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_proportion_needs_a_trial():
    assert statistics.proportion(1, 1).value == 1
    with pytest.raises(ValueError, match="trials must be greater than 0"):
        statistics.proportion(0, 0)


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9, 0.99])
def test_percentile_is_interpolated_as_by_numpy(q):
    values = np.random.default_rng(1).lognormal(size=17)
    assert statistics.percentile(values, q) == pytest.approx(np.quantile(values, q))
    assert statistics.percentile([3.0], q) == 3.0


def test_itl_interval_treats_intervals_of_one_response_as_correlated():
    """Twenty responses with 49 intervals each are not 980 independent values."""
    rng = np.random.default_rng(5)
    paces = rng.lognormal(0, 0.3, 20)
    records = [
        RequestRecord(
            index=i,
            prompt=0,
            due_s=0,
            lag_s=0,
            e2e_s=1,
            token_times_s=tuple(np.cumsum(rng.normal(pace, 0.01, 50))),
        )
        for i, pace in enumerate(paces)
    ]
    found = summarize_metric(records, METRIC_BY_NAME["itl"], 0)
    assert found.count == 20 * 49
    width = found.mean.high - found.mean.low
    assert width == pytest.approx(2 * 2.1 * paces.std(ddof=1) / 20**0.5, rel=0.3)


def results_of(rng, n, *, slower=1.0, spread=0.2, runs=1, between=0.0):
    """Return a benchmark with three correlated latencies, as in practice."""
    records = []
    for run in range(runs):
        factor = slower * np.exp(rng.normal(0, between))
        for index in range(n):
            pace = factor * np.exp(rng.normal(0, spread))
            ttft = 0.2 * pace * np.exp(rng.normal(0, spread))
            records.append(
                RequestRecord(
                    run=run,
                    index=index,
                    prompt=0,
                    due_s=0.0,
                    lag_s=0.0,
                    e2e_s=float(ttft + 0.5 * pace),
                    ttft_s=float(ttft),
                    output_tokens=11,
                )
            )
    run_records = [RunRecord(started_unix_s=0, duration_s=1, planned=n) for _ in range(runs)]
    return BenchmarkResults("m", {}, {"model": "m"}, {}, records, run_records)


def share_of_alarms(trials, **options):
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(trials):
        comparison = results_of(rng, **options).compare(results_of(rng, **options))
        alarms += any(m.verdict in {"slower", "faster"} for m in comparison.metrics)
    return alarms / trials


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"n": 50}, {"n": 10, "runs": 4, "between": 0.1}], ids=str)
def test_equal_benchmarks_rarely_differ(options):
    assert share_of_alarms(50, **options) <= 0.05 + 3 * (0.05 * 0.95 / 50) ** 0.5


def interleaved(rng, n, runs, *, slower=1.0, drift=0.0):
    """Return a baseline and a candidate on a machine that slows down from run to run."""
    found = []
    for own, pace in ((0, 1.0), (1, slower)):
        records = []
        for run in range(runs):
            turn = 2 * run + (own if run % 2 == 0 else 1 - own)
            made = results_of(rng, n, slower=pace * np.exp(drift * turn), between=0.05)
            records += [replace(record, run=run) for record in made.requests]
        found.append(BenchmarkResults("m", {"pair": "p"}, {"model": "m"}, {}, records, []))
    return found


def share_of_interleaved_alarms(trials, **options):
    rng = np.random.default_rng(10)
    alarms = 0
    for _ in range(trials):
        baseline, candidate = interleaved(rng, **options)
        verdicts = {metric.verdict for metric in candidate.compare(baseline).metrics}
        alarms += bool(verdicts & {"slower", "faster"})
    return alarms / trials


INTERLEAVED = [
    {"n": 10, "runs": 6},
    {"n": 10, "runs": 6, "drift": 0.05},
    {"n": 10, "runs": 5, "drift": 0.05},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", INTERLEAVED[1:2], ids=str)
def test_interleaved_benchmarks_rarely_differ_when_machine_drifts(options):
    assert share_of_interleaved_alarms(50, **options) <= 0.05 + 3 * (0.05 * 0.95 / 50) ** 0.5


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", INTERLEAVED, ids=str)
def test_interleaved_false_alarms_are_at_most_5_percent_of_2000(options):
    assert share_of_interleaved_alarms(TRIALS, **options) <= 0.05


@pytest.mark.long
@pytest.mark.timeout(900)
def test_interleaved_detectable_slowdown_is_found_with_80_percent_power():
    rng = np.random.default_rng(11)
    options = {"n": 10, "runs": 6, "drift": 0.05}
    reported = []
    for _ in range(200):
        baseline, candidate = interleaved(rng, **options)
        reported.append(candidate.compare(baseline)["e2e"].detectable)
    slower_by = float(np.median(reported))
    found = 0
    for _ in range(1000):
        baseline, candidate = interleaved(rng, slower=1 + slower_by, **options)
        found += candidate.compare(baseline)["e2e"].verdict == "slower"
    assert found / 1000 >= 0.8


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "options",
    [{"n": 10}, {"n": 50}, {"n": 200}, {"n": 20, "runs": 3, "between": 0.1}],
    ids=str,
)
def test_false_alarms_are_at_most_5_percent_of_2000(options):
    assert share_of_alarms(TRIALS, **options) <= 0.05


def share_found(trials, slower_by, **options):
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(trials):
        candidate = results_of(rng, slower=1 + slower_by, **options)
        found += candidate.compare(results_of(rng, **options))["e2e"].verdict == "slower"
    return found / trials


def detectable(**options):
    rng = np.random.default_rng(9)
    reported = [
        results_of(rng, **options).compare(results_of(rng, **options))["e2e"].detectable
        for _ in range(20)
    ]
    return float(np.median(reported))


@pytest.mark.parametrize(
    ("error", "error_of_ratio", "tests", "expected"),
    [
        # The sum of the quantiles 1.95996 and 1.28155, times 0.1. For three tests, the first one is
        # 2.39398.
        (0.1, 0.05, 1, 0.38286),
        (0.1, 0.05, 3, 0.44420),
        # The relevant slowdown of log(1.05), plus 1.28155 * 0.5.
        (0.001, 0.5, 3, 0.99285),
    ],
)
def test_detectable_slowdown_must_be_significant_and_relevant(
    error, error_of_ratio, tests, expected
):
    found = Sensitivity(0.05, tests).detectable(error, error_of_ratio, stats.norm.ppf)
    assert found == pytest.approx(expected, abs=1e-5)


def test_detectable_slowdown_of_requests_follows_from_their_spread():
    """The logarithms have a variance of 1 and of 4."""
    old, new = np.exp([-1.0, 0, 1]), np.exp([-2.0, 0, 2, 0, 2, -2, 2, -2, 0])
    new_variance = 24 / 8
    of_means = ((1 + new_variance) / 2 * (1 / 3 + 1 / 9)) ** 0.5
    errors = of_means * (np.pi / 3) ** 0.5, of_means * (np.pi / 2) ** 0.5
    # The first one depends on the significance, the second one on the relevance.
    for sensitivity in (Sensitivity(0.05, 2), Sensitivity(9.0, 2)):
        expected = sensitivity.detectable(*errors, stats.norm.ppf)
        assert compare_requests(old, new, sensitivity)[2] == pytest.approx(expected)
    assert compare_requests(old[1:], new, sensitivity)[2] is None
    assert compare_requests(old, new[1:3], sensitivity)[2] is None
    assert compare_requests(old, np.append(new, 0.0), sensitivity)[2] is None


def test_requests_are_compared_by_the_ratio_of_their_medians():
    rng = np.random.default_rng(2)
    old, new = rng.lognormal(0, 0.3, 40), rng.lognormal(0.2, 0.3, 50)
    ratio, p_value, _ = compare_requests(old, new, Sensitivity(0.05, 1))
    assert ratio.value == pytest.approx(np.median(new) / np.median(old))
    assert p_value == pytest.approx(stats.mannwhitneyu(old, new).pvalue)
    reference = stats.bootstrap(
        (old, new),
        lambda old, new, axis: np.median(new, axis) / np.median(old, axis),
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (ratio.low, ratio.high) == pytest.approx((reference.low, reference.high), rel=0.05)


@pytest.mark.parametrize(("new", "expected"), [(0.0, 1.0), (2.0, np.inf)])
def test_ratio_to_a_median_of_zero_has_no_interval(new, expected):
    ratio, _, _ = compare_requests(np.zeros(5), np.full(5, new), Sensitivity(0.05, 1))
    assert ratio == statistics.Estimate(expected)


@pytest.mark.parametrize("paired", [True, False])
def test_runs_are_compared_by_the_logarithms_of_their_medians(paired):
    logs = np.array([[0.1, 0.3, 0.2, 0.5], [0.4, 0.4, 0.6, 0.9]])
    old, new = ([np.exp([value - 1, value, value + 2]) for value in side] for side in logs)
    ratio, p_value, detectable = compare_runs(old, new, Sensitivity(0.05, 2), paired=paired)
    test = stats.ttest_rel(*logs[::-1]) if paired else stats.ttest_ind(*logs[::-1], equal_var=False)
    error = 0.3 / test.statistic
    assert (ratio.value, p_value) == pytest.approx((np.exp(0.3), test.pvalue))
    assert (ratio.low, ratio.high) == pytest.approx(np.exp(test.confidence_interval(0.95)))
    assert detectable == pytest.approx(
        Sensitivity(0.05, 2).detectable(error, error, stats.t(test.df).ppf)
    )


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("slower", "p_value"), [(1.0, 1.0), (1.5, 0.0)])
def test_runs_without_spread_differ_or_not(paired, slower, p_value):
    old = [np.array([2.0])] * 3
    found = compare_runs(old, [slower * run for run in old], Sensitivity(0.05, 1), paired=paired)
    assert found == (statistics.Estimate(pytest.approx(slower)), p_value, None)


def test_superiority_counts_ties_half():
    assert superiority(np.array([1.0, 2]), np.array([2.0, 3, 3])) == pytest.approx(5.5 / 6)


@pytest.mark.slow
def test_detectable_slowdown_is_found_with_80_percent_power():
    options = {"n": 50}
    assert share_found(40, detectable(**options), **options) >= 0.8 - 3 * (0.16 / 40) ** 0.5


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [{"n": 50}, {"n": 200}], ids=str)
def test_detectable_slowdown_is_found_with_80_percent_power_in_1000_trials(options):
    assert share_found(1000, detectable(**options), **options) >= 0.8


def test_autocorrelation_is_that_of_neighbors():
    found = statistics.require_intervals().autocorrelation
    # The deviations are -1, 0, 1, 0 and -1, 1, -1, 1.
    assert found([1.0, 2.0, 3.0, 2.0]) == 0.0
    assert found([1.0, 3.0, 1.0, 3.0]) == -3 / 4
    assert found([2.0, 2.0]) == 0.0
