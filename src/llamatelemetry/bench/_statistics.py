"""Estimates of means, quantiles and shares, from the standard library alone.

The intervals of means and quantiles need numpy and SciPy: see `_intervals`.
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
QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)
ENOUGH_RUNS: Final = 10
"""From here on whole runs can be resampled; there are too few different ways to with fewer."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval; an end that the values cannot tell is ``None``.

    Attributes:
        value: the figure.
        low: lower end of the 95 % interval.
        high: upper end.
        supported: whether there are values enough for such a figure at all.
    """

    value: float
    low: float | None = None
    high: float | None = None
    supported: bool = True


def require_intervals() -> ModuleType:
    """Import what computes intervals.

    Raises:
        MissingPackageError: numpy or SciPy is not installed.
    """
    return importlib.import_module("llamatelemetry.bench._intervals")


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
    """How many values a quantile needs: with fewer, even the largest is not surely above it.

    59 for a 95 % quantile, 299 for a 99 % one.
    """
    tail = max(quantile, 1 - quantile)
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(tail))


def percentile(values: Sequence[float], q: float) -> float:
    """Return the quantile of values, interpolated between neighbors as numpy does by default.

    Args:
        values: In any order, at least one.
        q: In whole hundredths.
    """
    if len(values) == 1:  # before Python 3.13 the standard library wants two
        return float(values[0])
    return float(statistics.quantiles(values, n=100, method="inclusive")[round(q * 100) - 1])


def quantile(values: Sequence[float], q: float) -> Estimate:
    """Estimate a quantile of independent values, with an interval that assumes no distribution.

    Of values too few for the quantile there is no interval: none would be what it claims to be.
    """
    value = percentile(values, q)
    if len(values) < needed_for(q):
        return Estimate(value, supported=False)
    found = intervals()
    low, high = (None, None) if found is None else found.of_quantile(values, q)
    return Estimate(value, low, high)


def ratio(totals: Sequence[float], weights: Sequence[float], seed: int | Generator = 0) -> Estimate:
    """Estimate a sum over another, both by unit: gaps by request, say, and their number.

    The units are resampled whole, since what is inside one is not independent.
    """
    value = math.fsum(totals) / math.fsum(weights)
    found = intervals()
    low, high = (None, None) if found is None else found.of_ratio(totals, weights, seed)
    return Estimate(value, low, high)


def over_runs(estimates: Sequence[float]) -> Estimate:
    """Put together the same figure of several runs: their mean, and Student's t over them."""
    center = statistics.fmean(estimates)
    found = intervals() if len(estimates) > 1 else None
    if found is None:
        return Estimate(center)
    half = found.t_quantile((1 + CONFIDENCE) / 2, len(estimates) - 1)
    half *= statistics.stdev(estimates) / math.sqrt(len(estimates))
    return Estimate(center, center - half, center + half)


def proportion(successes: int, trials: int) -> Estimate:
    """Estimate a share, with Wilson's interval."""
    if trials == 0:
        raise ValueError("a share of nothing")
    share = successes / trials
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    half /= 1 + z * z / trials
    # Rounding must not take an interval beyond the share itself, nor beyond 0 or 1.
    return Estimate(share, max(0.0, min(share, center - half)), min(1.0, max(share, center + half)))
