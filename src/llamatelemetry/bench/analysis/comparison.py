"""Comparison of two benchmarks: effect size, significance test, correction, detectable effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from llamatelemetry.bench.analysis.metrics import METRIC_BY_NAME, values_by_run
from llamatelemetry.bench.analysis.statistics import CONFIDENCE, Estimate, require_intervals

if TYPE_CHECKING:
    from llamatelemetry.bench.analysis.intervals import Values
    from llamatelemetry.bench.results import BenchmarkResults

COMPARED: Final = ("ttft", "tpot", "e2e")
ALPHA: Final = 0.05
# A verdict needs significance and a relevant effect. With a power of 90% for each, both occur
# together in at least 80% of cases.
_POWER_OF_EACH: Final = 0.9
Verdict = Literal["slower", "faster", "equal", "no difference shown"]


class FingerprintMismatchError(ValueError):
    """Two benchmarks were made under different conditions.

    Attributes:
        differences: Values of the baseline and of the candidate, by name of the condition.
    """

    def __init__(self, differences: Mapping[str, tuple[Any, Any]]) -> None:
        pairs = "; ".join(
            f"{name}: {old!r} and {new!r}" for name, (old, new) in differences.items()
        )
        super().__init__(
            f"the conditions of the two benchmarks must be equal, got {pairs}. Allow a difference, "
            "as in compare(other, allow=['server.build']), or allow all with force=True"
        )
        self.differences = dict(differences)


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of two benchmarks.

    Attributes:
        name: Metric name, such as `ttft`.
        baseline: Median of the baseline, in seconds.
        candidate: Median of the candidate, in seconds.
        ratio: Candidate divided by baseline, with a 95% interval.
        p_value: p-value of the significance test.
        p_adjusted: p-value after Holm's correction for the number of compared metrics.
        superiority: Probability that a value of the candidate is larger; 0.5 means no difference.
        detectable: Smallest slowdown, as a fraction, that is detected with a power of 80%.
        verdict: `slower` and `faster` need significance and a relevant difference. `equal`
            needs an interval that excludes any relevant difference.
        by_runs: Whether runs were compared; otherwise the requests of one run with another's.
        paired: Whether each run was compared with the interleaved run next to it.
    """

    name: str
    baseline: float
    candidate: float
    ratio: Estimate
    p_value: float
    p_adjusted: float
    superiority: float
    detectable: float | None
    verdict: Verdict
    by_runs: bool
    paired: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of a candidate with a baseline.

    Attributes:
        metrics: Compared metrics.
        differences: Allowed differences of conditions: baseline and candidate, by name.
        min_effect: Smallest relevant difference, as a fraction.
        success: Success rates of the baseline and of the candidate.
        success_p: p-value of the difference of the success rates.
    """

    metrics: tuple[MetricComparison, ...]
    differences: dict[str, tuple[Any, Any]]
    min_effect: float
    success: tuple[float, float]
    success_p: float

    @property
    def fails_more(self) -> bool:
        """Whether the candidate fails significantly more often."""
        return self.success_p < ALPHA and self.success[1] < self.success[0]

    @property
    def is_worse(self) -> bool:
        """Whether the candidate is slower in any metric, or fails more often."""
        return self.fails_more or any(metric.verdict == "slower" for metric in self.metrics)

    @property
    def exit_code(self) -> int:
        """Exit code for a shell, 1 if the candidate is worse: `sys.exit(comparison.exit_code)`."""
        return int(self.is_worse)

    def __getitem__(self, name: str) -> MetricComparison:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"metric must be one of {[m.name for m in self.metrics]}, got {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {**asdict(self), "is_worse": self.is_worse}

    def summary(self) -> str:
        """Return a printable table with a conclusion."""
        from llamatelemetry.bench.report.tables import comparison_table
        from llamatelemetry.bench.report.terminal import render_text

        return render_text(comparison_table(self))

    def to_markdown(self) -> str:
        """Return the table of `summary()` as Markdown."""
        from llamatelemetry.bench.report.tables import comparison_table, render_markdown

        return render_markdown(comparison_table(self))

    def __str__(self) -> str:
        return self.summary()


def compare(
    baseline: BenchmarkResults,
    candidate: BenchmarkResults,
    *,
    metrics: Sequence[str] = COMPARED,
    min_effect: float = 0.05,
    allow: Iterable[str] = (),
    force: bool = False,
) -> Comparison:
    """Compare a candidate with a baseline, as documented at `BenchmarkResults.compare`."""
    require_intervals()
    differences = _differences(baseline.fingerprint, candidate.fingerprint)
    unwanted = {name: pair for name, pair in differences.items() if name not in set(allow)}
    if unwanted and not force:
        raise FingerprintMismatchError(unwanted)
    found = [
        each
        for name in metrics
        if (
            each := _compare_metric(
                baseline, candidate, name, _Sensitivity(min_effect, len(metrics))
            )
        )
        is not None
    ]
    if not found:
        raise ValueError(f"both benchmarks must have values of one of {', '.join(metrics)}")
    good = [sum(record.ok for record in results.requests) for results in (baseline, candidate)]
    counts = [len(results.requests) for results in (baseline, candidate)]
    return Comparison(
        metrics=_with_verdicts(found, min_effect),
        differences=differences,
        min_effect=min_effect,
        success=(good[0] / counts[0], good[1] / counts[1]),
        success_p=_fisher(good, counts),
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted({*old, *new})
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }


def _fisher(good: Sequence[int], counts: Sequence[int]) -> float:
    from llamatelemetry.bench.analysis import intervals

    table = [[good[0], counts[0] - good[0]], [good[1], counts[1] - good[1]]]
    return float(intervals.stats.fisher_exact(table)[1])


@dataclass(frozen=True, slots=True)
class _Sensitivity:
    """The smallest relevant effect, and the number of tests to correct for."""

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
        return math.expm1(max(significant, relevant))


def _compare_metric(
    baseline: BenchmarkResults, candidate: BenchmarkResults, name: str, sensitivity: _Sensitivity
) -> MetricComparison | None:
    import numpy as np

    times = [metric.name for metric in METRIC_BY_NAME.values() if metric.unit == "s"]
    if name not in times:
        raise ValueError(f"metrics must be among {', '.join(times)}, got {name!r}")
    by_run = [
        {
            run: np.concatenate([np.asarray(each) for each in values])
            for run, values in found.items()
        }
        for results in (baseline, candidate)
        if (found := values_by_run(results.requests, METRIC_BY_NAME[name]))
    ]
    if len(by_run) < 2:
        return None
    common = [run for run in by_run[0] if run in by_run[1]]
    paired = candidate.is_paired_with(baseline) and len(common) > 1
    old, new = ([runs[run] for run in (common if paired else runs)] for runs in by_run)
    by_runs = min(len(old), len(new)) > 1
    pooled_old, pooled_new = np.concatenate(old), np.concatenate(new)
    test = (
        _by_runs(old, new, sensitivity, paired=paired)
        if by_runs
        else _by_requests(pooled_old, pooled_new, sensitivity)
    )
    return MetricComparison(
        name=name,
        baseline=float(np.median(pooled_old)),
        candidate=float(np.median(pooled_new)),
        ratio=test.ratio,
        p_value=test.p_value,
        p_adjusted=test.p_value,
        superiority=_superiority(pooled_old, pooled_new),
        detectable=test.detectable,
        verdict="no difference shown",
        by_runs=by_runs,
        paired=paired,
    )


@dataclass(frozen=True, slots=True)
class _Test:
    ratio: Estimate
    p_value: float
    detectable: float | None


def _by_requests(old: Values, new: Values, sensitivity: _Sensitivity) -> _Test:
    """Compare requests: Mann-Whitney test, and bootstrap interval of the ratio of medians."""
    import numpy as np

    from llamatelemetry.bench.analysis import intervals

    stats = intervals.stats
    rng = np.random.default_rng(0)
    value = _safe_ratio(float(np.median(new)), float(np.median(old)))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = intervals.bootstrap_medians(new, rng) / intervals.bootstrap_medians(old, rng)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (None, None)
    p_value = float(stats.mannwhitneyu(old, new).pvalue) if len(old) and len(new) else 1.0

    ratio = Estimate(value, _float(low), _float(high))
    return _Test(ratio, p_value, _detectable(old, new, sensitivity))


def _by_runs(
    old: Sequence[Values], new: Sequence[Values], sensitivity: _Sensitivity, *, paired: bool
) -> _Test:
    """Compare the runs' medians on a logarithmic scale: Welch's test, or a paired t-test.

    The ratio of a pair cancels disturbances of the machine that affect both of its runs.
    """
    import numpy as np

    from llamatelemetry.bench.analysis import intervals

    stats = intervals.stats
    logs = [np.log([max(float(np.median(run)), 1e-9) for run in runs]) for runs in (old, new)]
    difference = float(logs[1].mean() - logs[0].mean())
    varying = [logs[1] - logs[0]] if paired else logs
    if max(np.ptp(each) for each in varying) < 1e-12:
        # Without any spread a t-test is undefined.
        return _Test(Estimate(math.exp(difference)), float(abs(difference) < 1e-12), None)
    test = (
        stats.ttest_rel(logs[1], logs[0])
        if paired
        else stats.ttest_ind(logs[1], logs[0], equal_var=False)
    )
    interval = test.confidence_interval(CONFIDENCE)
    error = math.sqrt(sum(float(each.var(ddof=1)) / len(each) for each in varying))
    detectable = sensitivity.detectable(
        error, error, lambda share: float(stats.t.ppf(share, test.df))
    )
    ratio = Estimate(
        math.exp(difference), math.exp(float(interval.low)), math.exp(float(interval.high))
    )
    return _Test(ratio, float(test.pvalue), detectable)


def _detectable(old: Values, new: Values, sensitivity: _Sensitivity) -> float | None:
    """Return the slowdown that the Mann-Whitney test detects, given the spread of the values.

    Assumes log-normal values. The test then needs π/3 times the values of a t-test, and a median
    π/2 times the values of a mean.
    """
    import numpy as np

    from llamatelemetry.bench.analysis import intervals

    if min(len(old), len(new)) < 3 or min(old.min(), new.min()) <= 0:
        return None
    norm = intervals.stats.norm
    variance = (float(np.log(old).var(ddof=1)) + float(np.log(new).var(ddof=1))) / 2
    of_means = math.sqrt(variance * (1 / len(old) + 1 / len(new)))
    return sensitivity.detectable(
        of_means * math.sqrt(math.pi / 3),
        of_means * math.sqrt(math.pi / 2),
        lambda share: float(norm.ppf(share)),
    )


def _superiority(old: Values, new: Values) -> float:
    from llamatelemetry.bench.analysis import intervals

    wins = intervals.stats.mannwhitneyu(new, old).statistic
    return float(wins) / (len(old) * len(new))


def _safe_ratio(value: float, base: float) -> float:
    if base == 0:
        return 1.0 if value == 0 else math.inf
    return value / base


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _with_verdicts(
    found: Sequence[MetricComparison], min_effect: float
) -> tuple[MetricComparison, ...]:
    adjusted = _holm([metric.p_value for metric in found])
    return tuple(
        _with_verdict(metric, p_adjusted, min_effect)
        for metric, p_adjusted in zip(found, adjusted, strict=True)
    )


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction: the smallest times n, the next times n - 1, ..."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def _with_verdict(metric: MetricComparison, p_adjusted: float, effect: float) -> MetricComparison:
    ratio = metric.ratio
    verdict: Verdict = "no difference shown"
    if p_adjusted < ALPHA and ratio.value >= 1 + effect:
        verdict = "slower"
    elif p_adjusted < ALPHA and ratio.value <= 1 / (1 + effect):
        verdict = "faster"
    elif _is_within(ratio, effect):
        verdict = "equal"
    return replace(metric, p_adjusted=p_adjusted, verdict=verdict)


def _is_within(ratio: Estimate, effect: float) -> bool:
    if ratio.low is None or ratio.high is None:
        return False
    return 1 / (1 + effect) < ratio.low and ratio.high < 1 + effect
