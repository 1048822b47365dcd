"""Comparison of two benchmarks: conditions, effect sizes, and a verdict for each metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from llamatelemetry.bench.analysis.metrics import METRIC_BY_NAME, METRICS, values_by_run
from llamatelemetry.bench.analysis.statistics import ALPHA, Estimate, require_intervals
from llamatelemetry.bench.report.export import Printable
from llamatelemetry.bench.report.tables import comparison_table

if TYPE_CHECKING:
    from llamatelemetry.bench.analysis.significance import Sensitivity
    from llamatelemetry.bench.report.tables import Table
    from llamatelemetry.bench.results import BenchmarkResults

COMPARED: Final = ("ttft", "tpot", "e2e")
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
        p_value: p-value of the Mann-Whitney test of the requests; of Welch's test of the runs, or of
            the paired t-test of interleaved runs, if both benchmarks have several.
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
class Comparison(Printable):
    """The comparison of a candidate with a baseline.

    Attributes:
        metrics: Compared metrics.
        differences: Allowed differences of conditions: baseline and candidate, by name.
        min_effect: Smallest relevant difference, as a fraction.
        success: Success rates of the baseline and of the candidate.
        success_p: p-value of the difference of the success rates.

    Examples:
        >>> results = BenchmarkRunner(client, BenchmarkProfile.QUICK).run("my-model", ["Hello"])
        >>> comparison = results.compare(results)
        >>> [(metric.name, metric.ratio.value) for metric in comparison.metrics]
        [('e2e', 1.0)]
        >>> comparison.is_worse, comparison.fails_more, comparison.exit_code
        (False, False, 0)
        >>> print(comparison)
        Candidate compared with baseline (medians)
        ...
        >>> comparison.to_dict()["min_effect"]
        0.05
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

    def _table(self) -> Table:
        return comparison_table(self)


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
    check_min_effect(min_effect)
    from llamatelemetry.bench.analysis.significance import Sensitivity, holm, success_p_value

    names = sorted({*baseline.fingerprint, *candidate.fingerprint})
    conditions = {
        name: (baseline.fingerprint.get(name), candidate.fingerprint.get(name)) for name in names
    }
    differences = {name: (old, new) for name, (old, new) in conditions.items() if old != new}
    unwanted = {name: pair for name, pair in differences.items() if name not in set(allow)}
    if unwanted and not force:
        raise FingerprintMismatchError(unwanted)
    sensitivity = Sensitivity(min_effect, len(metrics))
    compared = [_compare_metric(baseline, candidate, name, sensitivity) for name in metrics]
    found = [metric for metric in compared if metric is not None]
    if not found:
        raise ValueError(f"both benchmarks must have values of one of {', '.join(metrics)}")
    good = [sum(record.ok for record in results.requests) for results in (baseline, candidate)]
    counts = [len(results.requests) for results in (baseline, candidate)]
    adjusted = holm([metric.p_value for metric in found])
    return Comparison(
        metrics=tuple(
            replace(metric, p_adjusted=p_value, verdict=_verdict(metric.ratio, p_value, min_effect))
            for metric, p_value in zip(found, adjusted, strict=True)
        ),
        differences=differences,
        min_effect=min_effect,
        success=(good[0] / counts[0], good[1] / counts[1]),
        success_p=success_p_value(good, counts),
    )


def check_min_effect(value: float) -> None:
    """Raise `ValueError` unless the value is a fraction of 0 or more."""
    if not 0 <= value < math.inf:
        raise ValueError(f"min_effect must be a fraction such as 0.05, got {value!r}")


def _compare_metric(
    baseline: BenchmarkResults, candidate: BenchmarkResults, name: str, sensitivity: Sensitivity
) -> MetricComparison | None:
    """Return the comparison of one metric without a verdict, or `None` if a side has no values."""
    import numpy as np

    from llamatelemetry.bench.analysis.significance import (
        compare_requests,
        compare_runs,
        superiority,
    )

    times = [metric.name for metric in METRICS if metric.unit == "s"]
    if name not in times:
        raise ValueError(f"metrics must be among {', '.join(times)}, got {name!r}")
    sides = [
        {run: np.concatenate(values) for run, values in found.items()}
        for results in (baseline, candidate)
        if (found := values_by_run(results.requests, METRIC_BY_NAME[name]))
    ]
    if len(sides) < 2:
        return None
    common = sides[0].keys() & sides[1].keys()
    paired = candidate.is_paired_with(baseline) and len(common) > 1
    old, new = ([side[run] for run in (sorted(common) if paired else side)] for side in sides)
    pooled_old, pooled_new = np.concatenate(old), np.concatenate(new)
    by_runs = min(len(old), len(new)) > 1
    ratio, p_value, detectable = (
        compare_runs(old, new, sensitivity, paired=paired)
        if by_runs
        else compare_requests(pooled_old, pooled_new, sensitivity)
    )
    return MetricComparison(
        name=name,
        baseline=float(np.median(pooled_old)),
        candidate=float(np.median(pooled_new)),
        ratio=ratio,
        p_value=p_value,
        p_adjusted=p_value,
        superiority=superiority(pooled_old, pooled_new),
        detectable=detectable,
        verdict="no difference shown",
        by_runs=by_runs,
        paired=paired,
    )


def _verdict(ratio: Estimate, p_adjusted: float, min_effect: float) -> Verdict:
    faster, slower = 1 / (1 + min_effect), 1 + min_effect
    if p_adjusted < ALPHA and ratio.value >= slower:
        return "slower"
    if p_adjusted < ALPHA and ratio.value <= faster:
        return "faster"
    if (
        ratio.low is not None
        and ratio.high is not None
        and faster < ratio.low <= ratio.high < slower
    ):
        return "equal"
    return "no difference shown"
