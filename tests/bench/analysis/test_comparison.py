"""Comparisons of benchmarks: verdicts, conditions, and failure rates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamatelemetry.bench import FingerprintMismatchError
from tests.bench.example_results import record, results


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


def test_holm_correction_matches_textbook_example():
    from llamatelemetry.bench.analysis.significance import holm

    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_compare_rejects_unknown_metrics_and_omits_metrics_without_values():
    bare = [replace(each, ttft_s=None) for each in results().requests]
    comparison = results(requests=bare).compare(results())
    assert [metric.name for metric in comparison.metrics] == ["e2e"]
    with pytest.raises(ValueError, match="must be among ttft"):
        results().compare(results(), metrics=["speed"])
