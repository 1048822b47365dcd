"""Significance tests of one metric in two benchmarks. This module needs numpy and SciPy.

SciPy has no correction by Holm and no power of a Mann-Whitney test, so these are computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

# `intervals` names the pip command if numpy or SciPy is missing.
from llamatelemetry.bench.analysis.intervals import Values, bootstrap_medians, np, stats
from llamatelemetry.bench.analysis.statistics import ALPHA, CONFIDENCE, Estimate

# A verdict needs significance and a relevant effect. With a power of 90% for each, both occur
# together in at least 80% of cases.
_POWER_OF_EACH: Final = 0.9

TestResult = tuple[Estimate, float, float | None]
"""Ratio of the medians, p-value, and smallest slowdown that is detected, as a fraction."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The smallest relevant effect, as a fraction, and the number of tests to correct for."""

    min_effect: float
    tests: int

    def detectable(
        self, error: float, error_of_ratio: float, quantile: Callable[[float], float]
    ) -> float:
        """Return the smallest slowdown that leads to a verdict, as a fraction.

        Args:
            error: Standard error of the test, on a logarithmic scale.
            error_of_ratio: Standard error of the ratio, on a logarithmic scale.
            quantile: Quantile function of their distribution.
        """
        significant = (quantile(1 - ALPHA / 2 / self.tests) + quantile(_POWER_OF_EACH)) * error
        relevant = math.log1p(self.min_effect) + quantile(_POWER_OF_EACH) * error_of_ratio
        return float(math.expm1(max(significant, relevant)))


def compare_requests(old: Values, new: Values, sensitivity: Sensitivity) -> TestResult:
    """Compare requests: Mann-Whitney test, and bootstrap interval of the ratio of medians."""
    rng = np.random.default_rng(0)
    before, after = float(np.median(old)), float(np.median(new))
    value = after / before if before else math.inf if after else 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = bootstrap_medians(new, rng) / bootstrap_medians(old, rng)
    drawn = drawn[np.isfinite(drawn)]
    low, high = map(float, np.quantile(drawn, [0.025, 0.975])) if len(drawn) else (None, None)
    p_value = float(stats.mannwhitneyu(old, new).pvalue)
    return Estimate(value, low, high), p_value, _detectable(old, new, sensitivity)


def _detectable(old: Values, new: Values, sensitivity: Sensitivity) -> float | None:
    """Return the slowdown that the Mann-Whitney test detects, given the spread of the values.

    Assumes log-normal values. The test then needs π/3 times the values of a t-test, and a median
    π/2 times the values of a mean.
    """
    if min(len(old), len(new)) < 3 or min(old.min(), new.min()) <= 0:
        return None
    variance = (float(np.log(old).var(ddof=1)) + float(np.log(new).var(ddof=1))) / 2
    of_means = math.sqrt(variance * (1 / len(old) + 1 / len(new)))
    errors = of_means * math.sqrt(math.pi / 3), of_means * math.sqrt(math.pi / 2)
    return sensitivity.detectable(*errors, stats.norm.ppf)


def compare_runs(
    old: Sequence[Values], new: Sequence[Values], sensitivity: Sensitivity, *, paired: bool
) -> TestResult:
    """Compare the runs' medians on a logarithmic scale: Welch's test, or a paired t-test.

    The ratio of a pair cancels disturbances of the machine that affect both of its runs.
    """
    logs = [np.log([max(float(np.median(run)), 1e-9) for run in runs]) for runs in (old, new)]
    difference = float(logs[1].mean() - logs[0].mean())
    varying = [logs[1] - logs[0]] if paired else logs
    if max(np.ptp(each) for each in varying) < 1e-12:
        # Without any spread a t-test is undefined.
        return Estimate(math.exp(difference)), float(abs(difference) < 1e-12), None
    test = (
        stats.ttest_rel(logs[1], logs[0])
        if paired
        else stats.ttest_ind(logs[1], logs[0], equal_var=False)
    )
    low, high = map(math.exp, test.confidence_interval(CONFIDENCE))
    error = math.sqrt(sum(float(each.var(ddof=1)) / len(each) for each in varying))
    detectable = sensitivity.detectable(error, error, stats.t(test.df).ppf)
    return Estimate(math.exp(difference), low, high), float(test.pvalue), detectable


def superiority(old: Values, new: Values) -> float:
    """Return the probability that a new value is larger than an old one; ties count half."""
    return float(stats.mannwhitneyu(new, old).statistic) / (len(old) * len(new))


def success_p_value(good: Sequence[int], counts: Sequence[int]) -> float:
    """Return the p-value of Fisher's exact test for two success rates."""
    table = [[each, count - each] for each, count in zip(good, counts, strict=True)]
    return float(stats.fisher_exact(table)[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction: the smallest times n, the next times n - 1, ..."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted.tolist()
