"""Comparisons of benchmarks: verdicts, conditions, and failure rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llamatelemetry.bench import FingerprintMismatchError
from llamatelemetry.bench.analysis.comparison import _verdict
from llamatelemetry.bench.analysis.statistics import Estimate
from tests.support.example_results import record, results


def test_compare_reports_slower_candidate_and_exit_code():
    comparison = results(slower=1.2, seed=1).compare(results())
    assert comparison["ttft"].verdict == "slower"
    assert comparison["ttft"].ratio.value == pytest.approx(1.2, rel=0.05)
    assert comparison["ttft"].ratio.low < 1.2 < comparison["ttft"].ratio.high
    assert (comparison.is_worse, comparison.exit_code) == (True, 1)
    assert "slower in ttft" in comparison.summary()


def test_compare_returns_exit_code_0_for_faster_candidate():
    comparison = results(slower=0.8, seed=1).compare(results())
    assert comparison["e2e"].verdict == "faster"
    assert comparison.exit_code == 0


def test_compare_reports_irrelevant_difference_as_equal():
    comparison = results(n=2000, slower=1.02, seed=1).compare(results(n=2000))
    assert comparison["e2e"].p_adjusted < 0.05
    assert comparison["e2e"].verdict == "equal"
    assert comparison.exit_code == 0


def test_compare_reports_higher_failure_rate():
    broken = [
        replace(each, error="500") if each.index % 3 == 0 else each for each in results().requests
    ]
    comparison = results(requests=broken).compare(results())
    assert comparison.fails_more
    assert comparison.exit_code == 1
    assert "fails more often" in comparison.to_markdown()
    assert results().compare(results(requests=broken)).exit_code == 0


def with_empty_responses(made):
    """Return results with a response without tokens after each fourth request."""
    empty = [
        replace(each, error="empty_response", e2e_s=0.001, ttft_s=None, token_times_s=())
        for each in made.requests
        if each.index % 4 == 0
    ]
    return replace(made, requests=[*made.requests, *empty])


def test_empty_responses_change_no_latency_interval_or_p_value():
    baseline, candidate = results(), results(slower=1.1, seed=1)
    mixed = with_empty_responses(candidate)
    assert mixed.figures == candidate.figures
    expected, comparison = candidate.compare(baseline), mixed.compare(baseline)
    assert comparison.metrics == expected.metrics
    assert comparison.success == (1.0, 0.8)
    assert comparison.success_p == pytest.approx(stats.fisher_exact([[60, 0], [60, 15]])[1])
    assert comparison.fails_more


def test_empty_responses_leave_few_runs_without_values_out_of_the_comparison():
    def repeated(slower, seed):
        made = [
            replace(record(i, slower=slower, seed=seed * 10 + run), run=run)
            for run in range(4)
            for i in range(20)
        ]
        return results(requests=made, runs=[results().runs[0]] * 4, settings={"pair": "p"})

    candidate, baseline = repeated(1.3, 2), repeated(1.0, 1)
    without_values = [
        replace(each, error="empty_response") if each.run == 3 else each
        for each in candidate.requests
    ]
    comparison = replace(candidate, requests=without_values).compare(baseline)
    first_three = [each for each in baseline.requests if each.run < 3]
    expected = replace(
        candidate, requests=[each for each in candidate.requests if each.run < 3]
    ).compare(replace(baseline, requests=first_three))
    assert all(metric.paired for metric in comparison.metrics)
    assert comparison.metrics == expected.metrics


def test_compare_rejects_different_conditions_unless_allowed():
    other = results(fingerprint={"server.build": "b2", "max_tokens": 8, "gpus": ["x"]})
    with pytest.raises(FingerprintMismatchError, match=r"gpus: None and \['x'\]") as raised:
        other.compare(results(), allow=["server.build"])
    assert set(raised.value.differences) == {"gpus"}
    allowed = other.compare(results(), allow=["server.build", "gpus"])
    assert "server.build b1 → b2" in allowed.summary()
    assert set(other.compare(results(), force=True).differences) == {"server.build", "gpus"}


def test_compare_uses_runs_when_both_sides_have_several():
    def repeated(slower, seed):
        runs = [
            replace(record(i, slower=slower, seed=seed * 10 + run), run=run)
            for run in range(4)
            for i in range(20)
        ]
        return results(requests=runs, runs=[results().runs[0]] * 4)

    comparison = repeated(1.3, 2).compare(repeated(1.0, 1))
    assert all(metric.by_runs for metric in comparison.metrics)
    assert comparison["ttft"].verdict == "slower"
    assert "Only one run per side" not in comparison.summary()


def runs_of(*medians):
    """Return a benchmark with three requests in each run, the second one with the run's median."""
    requests = [
        replace(record(i), run=run, e2e_s=e2e_s * (1 + (i - 1) / 10))
        for run, e2e_s in enumerate(medians)
        for i in range(3)
    ]
    return results(requests=requests, runs=[results().runs[0]] * len(medians))


def test_compare_uses_two_runs_of_each_side():
    (metric,) = runs_of(1.0, 1.1).compare(runs_of(1.0, 1.2), metrics=["e2e"]).metrics
    assert (metric.by_runs, metric.paired) == (True, False)
    assert metric.detectable > 0.05
    (metric,) = runs_of(1.0).compare(runs_of(1.0, 1.2), metrics=["e2e"]).metrics
    assert not metric.by_runs


def test_comparison_of_runs_that_are_not_interleaved_uses_every_run():
    baseline, candidate = (1.0, 1.2, 1.1), (1.5, 1.3, 1.45, 1.6)
    (metric,) = runs_of(*candidate).compare(runs_of(*baseline), metrics=["e2e"]).metrics
    expected = stats.ttest_ind(np.log(candidate), np.log(baseline), equal_var=False)
    assert metric.p_value == pytest.approx(expected.pvalue)
    assert (metric.baseline, metric.candidate) == pytest.approx(
        (1.1, np.median(candidate)), abs=0.05
    )
    assert metric.superiority > 0.9


def test_interleaved_runs_are_compared_in_pairs_from_two_pairs_on():
    def paired(*medians):
        return replace(runs_of(*medians), settings={"pair": "p"})

    baseline, candidate = (1.0, 1.2, 1.1), (1.3, 1.45, 1.5, 1.6)
    (metric,) = paired(*candidate).compare(paired(*baseline), metrics=["e2e"]).metrics
    expected = stats.ttest_rel(np.log(candidate[:3]), np.log(baseline))
    assert metric.paired
    assert metric.p_value == pytest.approx(expected.pvalue)
    (metric,) = paired(1.0).compare(paired(1.1), metrics=["e2e"]).metrics
    assert not metric.paired


@pytest.mark.parametrize(
    ("ratio", "p_adjusted", "expected"),
    [
        (Estimate(1.25), 0.049, "slower"),
        (Estimate(1.24), 0.049, "no difference shown"),
        (Estimate(1.3), 0.05, "no difference shown"),
        (Estimate(0.8), 0.049, "faster"),
        (Estimate(0.81), 0.049, "no difference shown"),
        (Estimate(0.7), 0.05, "no difference shown"),
        (Estimate(1.0, 0.81, 1.24), 1.0, "equal"),
        (Estimate(1.0, 0.8, 1.24), 1.0, "no difference shown"),
        (Estimate(1.0, 0.81, 1.25), 1.0, "no difference shown"),
        (Estimate(1.0, None, 1.1), 1.0, "no difference shown"),
        (Estimate(1.0, 0.9, None), 1.0, "no difference shown"),
    ],
)
def test_verdict_needs_significance_and_a_relevant_effect(ratio, p_adjusted, expected):
    """The smallest relevant difference is 25%: a ratio of 1.25, or of 0.8."""
    assert _verdict(ratio, p_adjusted, 0.25) == expected


def test_comparison_as_plain_data_has_its_conclusion():
    comparison = results(slower=1.2, seed=1).compare(results())
    data = comparison.to_dict()
    assert data["is_worse"] is True
    assert data["metrics"][0]["ratio"]["value"] == comparison.metrics[0].ratio.value
    assert data["metrics"][0]["p_adjusted"] == comparison.metrics[0].p_adjusted
    with pytest.raises(KeyError, match=r"one of \['ttft', 'tpot', 'e2e'\], got 'speed'"):
        comparison["speed"]


def test_holm_correction_matches_textbook_example():
    from llamatelemetry.bench.analysis.significance import holm

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_compare_rejects_unknown_metrics_and_omits_metrics_without_values():
    bare = [replace(each, ttft_s=None) for each in results().requests]
    comparison = results(requests=bare).compare(results())
    assert [metric.name for metric in comparison.metrics] == ["e2e"]
    with pytest.raises(ValueError, match="must be among ttft"):
        results().compare(results(), metrics=["speed"])


@pytest.mark.parametrize("min_effect", [-0.5, -1, float("nan"), float("inf")])
def test_compare_rejects_effect_that_is_not_a_fraction(min_effect):
    with pytest.raises(ValueError, match=r"min_effect must be a fraction such as 0\.05, got"):
        results().compare(results(), min_effect=min_effect)
