"""Arrival times and validation of loads."""

from __future__ import annotations

import numpy as np
import pytest

from llamatelemetry.bench import Ramp
from llamatelemetry.bench.load.schedule import Load, arrival_times


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.5, 10.0, Ramp(1, 9)])
def test_arrival_times_span_requests_divided_by_rate(rate, seed):
    due = arrival_times(Load(rate=rate), 100, seed)
    mean_rate = (rate.start + rate.stop) / 2 if isinstance(rate, Ramp) else rate
    assert list(due) == sorted(due)
    assert 0 <= due[0] <= due[-1] <= 100 / mean_rate


def test_poisson_arrivals_have_exponential_intervals():
    from scipy import stats

    gaps = np.diff(arrival_times(Load(rate=5.0), 5000, 1))
    assert stats.kstest(gaps, "expon", args=(0, 0.2)).pvalue > 0.01


def test_constant_arrivals_have_equal_intervals():
    assert arrival_times(Load(rate=4.0, arrival="constant"), 4, 0) == [0, 0.25, 0.5, 0.75]


def test_ramp_changes_rate_linearly():
    due = np.array(arrival_times(Load(rate=Ramp(1, 9), arrival="constant"), 1000, 0))
    first, second = (due < 100).sum(), ((due >= 100) & (due < 200)).sum()
    assert first == pytest.approx(300, abs=2)  # rate 1 to 5 in the first 100 of 200 s
    assert second == pytest.approx(700, abs=2)


def test_arrival_times_are_reproducible_by_seed():
    load = Load(rate=3.0)
    assert arrival_times(load, 50, 4) == arrival_times(load, 50, 4)
    assert arrival_times(load, 50, 4) != arrival_times(load, 50, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"rate": 0}, "rate must be greater than 0"),
        ({"rate": float("nan")}, "rate must be greater than 0"),
        ({"arrival": "gamma"}, "'poisson' or 'constant'"),
    ],
)
def test_load_rejects_invalid_values(options, message):
    with pytest.raises(ValueError, match=message):
        Load(**options)


def test_ramp_rejects_rate_of_zero():
    with pytest.raises(ValueError, match="greater than 0"):
        Ramp(0, 3)
