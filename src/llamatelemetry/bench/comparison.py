"""Whether one benchmark is slower than another: effect, test, correction, and what could be seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from llamatelemetry.bench._statistics import CONFIDENCE, Estimate, require_intervals
from llamatelemetry.bench.figures import METRIC_BY_NAME, samples

if TYPE_CHECKING:
    from llamatelemetry.bench._intervals import Values
    from llamatelemetry.bench.results import BenchmarkResults

COMPARED: Final = ("ttft", "tpot", "e2e")
ALPHA: Final = 0.05
# A verdict needs proof and an effect that matters. Where each of them comes about in nine of ten
# cases, both together do in at least eight.
_POWER_OF_EACH: Final = 0.9
Verdict = Literal["slower", "faster", "equal", "no difference shown"]


class FingerprintMismatchError(ValueError):
    """Two benchmarks were not made under the same conditions.

    Attributes:
        differences: what differs: the baseline's value and the candidate's, by name.
    """

    def __init__(self, differences: Mapping[str, tuple[Any, Any]]) -> None:
        told = "; ".join(f"{name}: {old!r} and {new!r}" for name, (old, new) in differences.items())
        super().__init__(
            f"these benchmarks differ in more than what is compared: {told}. Name what may differ, "
            "as in compare(other, allow=['server.build']), or compare all the same with force=True"
        )
        self.differences = dict(differences)


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric of two benchmarks.

    Attributes:
        name: of the metric.
        baseline: its median.
        candidate: likewise.
        ratio: the candidate's over the baseline's, with a 95 % interval.
        p_value: how easily such a difference comes by chance.
        p_adjusted: the same, after Holm, for the number of metrics compared.
        superiority: how often a candidate's value is the larger of two; 0.5 is no difference.
        detectable: a slow-down, as a share, that is found in at least four of five cases.
        verdict: ``slower`` and ``faster`` need both proof and a difference that matters;
            ``equal`` an interval that has room for none that matters.
        by_runs: whether runs were compared, or the requests of one run with those of another.
        paired: whether each run was compared with the one beside it, of two measured in turns.
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
    """What came of comparing a candidate with a baseline.

    Attributes:
        metrics: one after the other.
        differences: in which conditions the two differ, where that was allowed.
        min_effect: the least difference that matters, as a share.
        success: shares of requests that got a whole reply: the baseline's and the candidate's.
        success_p: how easily a difference of these comes by chance.
    """

    metrics: tuple[MetricComparison, ...]
    differences: dict[str, tuple[Any, Any]]
    min_effect: float
    success: tuple[float, float]
    success_p: float

    @property
    def fails_more(self) -> bool:
        """Whether the candidate is shown to fail more often."""
        return self.success_p < ALPHA and self.success[1] < self.success[0]

    @property
    def is_worse(self) -> bool:
        """Whether the candidate is shown to be slower in any metric, or to fail more often."""
        return self.fails_more or any(metric.verdict == "slower" for metric in self.metrics)

    @property
    def exit_code(self) -> int:
        """1 when the candidate is worse, for a shell: ``sys.exit(comparison.exit_code)``."""
        return int(self.is_worse)

    def __getitem__(self, name: str) -> MetricComparison:
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{name!r} was not compared; these were: {[m.name for m in self.metrics]}")

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {**asdict(self), "is_worse": self.is_worse}

    def summary(self) -> str:
        """Give a printable table, and a sentence."""
        from llamatelemetry.bench._tables import comparison_table, render_text

        return render_text(comparison_table(self))

    def to_markdown(self) -> str:
        """Give the same as Markdown."""
        from llamatelemetry.bench._tables import comparison_table, render_markdown

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
    """Compare a candidate with a baseline; see `BenchmarkResults.compare`."""
    require_intervals()
    differences = _differences(baseline.fingerprint, candidate.fingerprint)
    unwanted = {name: pair for name, pair in differences.items() if name not in set(allow)}
    if unwanted and not force:
        raise FingerprintMismatchError(unwanted)
    found = [
        each
        for name in metrics
        if (each := _compare_metric(baseline, candidate, name, _Aim(min_effect, len(metrics))))
        is not None
    ]
    if not found:
        raise ValueError(f"neither {' nor '.join(metrics)} is known of both benchmarks")
    good = [sum(record.ok for record in results.requests) for results in (baseline, candidate)]
    counts = [len(results.requests) for results in (baseline, candidate)]
    return Comparison(
        metrics=_judged(found, min_effect),
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
    from llamatelemetry.bench import _intervals as intervals

    table = [[good[0], counts[0] - good[0]], [good[1], counts[1] - good[1]]]
    return float(intervals.stats.fisher_exact(table)[1])


@dataclass(frozen=True, slots=True)
class _Aim:
    """The least effect that matters, and the number of tests that may each be wrong."""

    min_effect: float
    tests: int

    def detectable(
        self, error: float, error_of_ratio: float, quantile: Callable[[float], float]
    ) -> float:
        """Give the slow-down that is found: by standard errors of the test and of the ratio.

        Both are on a logarithmic scale; ``quantile`` is of their distribution.
        """
        proven = (quantile(1 - ALPHA / 2 / self.tests) + quantile(_POWER_OF_EACH)) * error
        matters = math.log1p(self.min_effect) + quantile(_POWER_OF_EACH) * error_of_ratio
        return math.expm1(max(proven, matters))


def _compare_metric(
    baseline: BenchmarkResults, candidate: BenchmarkResults, name: str, aim: _Aim
) -> MetricComparison | None:
    import numpy as np

    times = [metric.name for metric in METRIC_BY_NAME.values() if metric.unit == "s"]
    if name not in times:
        raise ValueError(f"no time {name!r} to compare; accepted: {', '.join(times)}")
    by_run = [
        {
            run: np.concatenate([np.asarray(each) for each in values])
            for run, values in found.items()
        }
        for results in (baseline, candidate)
        if (found := samples(results.requests, METRIC_BY_NAME[name]))
    ]
    if len(by_run) < 2:
        return None
    beside = [run for run in by_run[0] if run in by_run[1]]
    paired = candidate.is_paired_with(baseline) and len(beside) > 1
    old, new = ([runs[run] for run in (beside if paired else runs)] for runs in by_run)
    by_runs = min(len(old), len(new)) > 1
    pooled_old, pooled_new = np.concatenate(old), np.concatenate(new)
    test = (
        _by_runs(old, new, aim, paired=paired)
        if by_runs
        else _by_requests(pooled_old, pooled_new, aim)
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


def _by_requests(old: Values, new: Values, aim: _Aim) -> _Test:
    """Mann-Whitney's test, and the bootstrap for the ratio of the medians."""
    import numpy as np

    from llamatelemetry.bench import _intervals as intervals

    stats = intervals.stats
    rng = np.random.default_rng(0)
    value = _over(float(np.median(new)), float(np.median(old)))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = intervals.bootstrap_medians(new, rng) / intervals.bootstrap_medians(old, rng)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (None, None)
    p_value = float(stats.mannwhitneyu(old, new).pvalue) if len(old) and len(new) else 1.0
    ratio = Estimate(value, _float(low), _float(high))
    return _Test(ratio, p_value, _detectable(old, new, aim))


def _by_runs(old: Sequence[Values], new: Sequence[Values], aim: _Aim, *, paired: bool) -> _Test:
    """Welch's test of the runs' medians on a logarithmic scale; of pairs, Student's of their ratios.

    What the machine does to both runs of a pair is not in their ratio.
    """
    import numpy as np

    from llamatelemetry.bench import _intervals as intervals

    stats = intervals.stats
    logs = [np.log([max(float(np.median(run)), 1e-9) for run in runs]) for runs in (old, new)]
    difference = float(logs[1].mean() - logs[0].mean())
    varying = [logs[1] - logs[0]] if paired else logs
    if max(np.ptp(each) for each in varying) < 1e-12:  # no spread: nothing to test against
        return _Test(Estimate(math.exp(difference)), float(abs(difference) < 1e-12), None)
    test = (
        stats.ttest_rel(logs[1], logs[0])
        if paired
        else stats.ttest_ind(logs[1], logs[0], equal_var=False)
    )
    interval = test.confidence_interval(CONFIDENCE)
    error = math.sqrt(sum(float(each.var(ddof=1)) / len(each) for each in varying))
    detectable = aim.detectable(error, error, lambda share: float(stats.t.ppf(share, test.df)))
    ratio = Estimate(
        math.exp(difference), math.exp(float(interval.low)), math.exp(float(interval.high))
    )
    return _Test(ratio, float(test.pvalue), detectable)


def _detectable(old: Values, new: Values, aim: _Aim) -> float | None:
    """What Mann-Whitney's test finds, for values spread like these on a logarithmic scale.

    Where they are normal there, it needs π/3 times the values of a t-test, and a median π/2 times
    those of a mean.
    """
    import numpy as np

    from llamatelemetry.bench import _intervals as intervals

    if min(len(old), len(new)) < 3 or min(old.min(), new.min()) <= 0:
        return None
    norm = intervals.stats.norm
    variance = (float(np.log(old).var(ddof=1)) + float(np.log(new).var(ddof=1))) / 2
    of_means = math.sqrt(variance * (1 / len(old) + 1 / len(new)))
    return aim.detectable(
        of_means * math.sqrt(math.pi / 3),
        of_means * math.sqrt(math.pi / 2),
        lambda share: float(norm.ppf(share)),
    )


def _superiority(old: Values, new: Values) -> float:
    from llamatelemetry.bench import _intervals as intervals

    wins = intervals.stats.mannwhitneyu(new, old).statistic
    return float(wins) / (len(old) * len(new))


def _over(value: float, base: float) -> float:
    if base == 0:
        return 1.0 if value == 0 else math.inf
    return value / base


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _judged(found: Sequence[MetricComparison], min_effect: float) -> tuple[MetricComparison, ...]:
    adjusted = _holm([metric.p_value for metric in found])
    return tuple(
        _with_verdict(metric, p_adjusted, min_effect)
        for metric, p_adjusted in zip(found, adjusted, strict=True)
    )


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the smallest is multiplied by their number, the next by one less, ..."""
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
