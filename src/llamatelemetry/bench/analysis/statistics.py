"""Estimates of means, quantiles and proportions with the standard library.

Only the intervals of means and quantiles need numpy and SciPy: see `intervals`.
"""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamatelemetry._optional import MissingPackageError

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.random import Generator

CONFIDENCE: Final = 0.95
ALPHA: Final = 0.05
QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)
ENOUGH_RUNS: Final = 10
"""Number of runs from which whole runs are resampled. Fewer allow too few distinct resamples."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate with its 95% interval. An end that the sample cannot bound is `None`.

    `supported` is whether the sample is large enough for this estimate.
    """

    value: float
    low: float | None = None
    high: float | None = None
    supported: bool = True


def require_intervals() -> ModuleType:
    """Return the module that computes intervals, or raise `MissingPackageError`."""
    return importlib.import_module("llamatelemetry.bench.analysis.intervals")


def intervals() -> ModuleType | None:
    """Return the module that computes intervals, or `None` without numpy or SciPy."""
    try:
        return require_intervals()
    except MissingPackageError:
        return None


def missing_intervals() -> str | None:
    """Return what to install for confidence intervals, or `None` if nothing is missing."""
    try:
        require_intervals()
    except MissingPackageError as error:
        return str(error)
    return None


def needed_for(quantile: float) -> int:
    """Return the number of values that a quantile needs: 59 for p95, 299 for p99.

    With fewer, the largest value exceeds the quantile with less than 95% confidence.
    """
    tail = max(quantile, 1 - quantile)
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(tail))


def percentile(values: Sequence[float], q: float) -> float:
    """Return a quantile, interpolated as numpy does by default. `q` is a multiple of 0.01."""
    if len(values) == 1:
        # Before Python 3.13, `statistics.quantiles()` needs two values.
        return float(values[0])
    return float(statistics.quantiles(values, n=100, method="inclusive")[round(q * 100) - 1])


def quantile(values: Sequence[float], q: float) -> Estimate:
    """Estimate a quantile of independent values, with a distribution-free interval.

    A sample that is too small gets no interval, because none would have 95% coverage.
    """
    value = percentile(values, q)
    if len(values) < needed_for(q):
        return Estimate(value, supported=False)
    found = intervals()
    low, high = (None, None) if found is None else found.of_quantile(values, q)
    return Estimate(value, low, high)


def ratio(totals: Sequence[float], weights: Sequence[float], seed: int | Generator = 0) -> Estimate:
    """Estimate the ratio of two sums over units, such as a mean over the values of requests.

    A unit has a sum, in `totals`, and a number of values, in `weights`. The bootstrap resamples
    whole units, because values within a unit are correlated.
    """
    value = math.fsum(totals) / math.fsum(weights)
    found = intervals()
    low, high = (None, None) if found is None else found.of_ratio(totals, weights, seed)
    return Estimate(value, low, high)


def over_runs(estimates: Sequence[float]) -> Estimate:
    """Estimate the mean of one statistic over several runs, with a Student's t interval."""
    center = statistics.fmean(estimates)
    found = intervals() if len(estimates) > 1 else None
    low, high = (None, None) if found is None else found.of_mean(estimates)
    return Estimate(center, low, high)


def proportion(successes: int, trials: int) -> Estimate:
    """Estimate a proportion, with Wilson's interval. It needs no SciPy."""
    if trials == 0:
        raise ValueError("trials must be greater than 0, got 0")
    share = successes / trials
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    half /= 1 + z * z / trials
    # Rounding errors must not exclude the proportion itself, nor exceed 0 or 1.
    return Estimate(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))
