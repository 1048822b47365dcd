"""A sweep: the same benchmark at increasing loads, and the knee of its throughput."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.bench.report.export import Exportable
from llamatelemetry.bench.report.page import sweep_page
from llamatelemetry.bench.report.tables import sweep_table
from llamatelemetry.bench.results import BenchmarkResults

if TYPE_CHECKING:
    from llamatelemetry.bench.report.tables import Table

# A step of the load must raise the throughput by at least this fraction of the load increase.
_MIN_GAIN: Final = 0.5


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """The results at one load."""

    level: float
    results: BenchmarkResults

    @property
    def throughput(self) -> float:
        """Output tokens per second if known, otherwise requests per second."""
        return self.rate(in_tokens=self.results.totals.output_rate is not None)

    def rate(self, *, in_tokens: bool) -> float:
        """Return the throughput in output tokens, 0 if unknown, or requests per second."""
        totals = self.results.totals
        return (totals.output_rate or 0.0) if in_tokens else totals.request_rate

    def latency_s(self, name: str = "e2e", q: float = 0.5) -> float | None:
        """Return a quantile of a metric in seconds, or `None` if it is unknown."""
        summary = self.results.figures.get(name)
        return None if summary is None else summary.quantiles[q].value


@dataclass(frozen=True, slots=True)
class SweepResults(Exportable):
    """The results of a sweep.

    Attributes:
        parameter: `concurrency` or `rate`.
        points: Results at each load.
    """

    parameter: str
    points: Sequence[SweepPoint]

    @property
    def has_tokens(self) -> bool:
        """Whether the output tokens are known at each load with a successful request."""
        totals = [point.results.totals for point in self.points]
        return all(each.output_rate is not None for each in totals if each.request_rate)

    @property
    def knee(self) -> float | None:
        """Highest load up to which each step raised throughput by at least half of its increase.

        `None` if this holds up to the highest load: the knee is beyond the sweep.
        """
        for before, after in pairwise(sorted(self.points, key=lambda point: point.level)):
            more_load = after.level / before.level - 1
            old, new = (point.rate(in_tokens=self.has_tokens) for point in (before, after))
            more_throughput = new / old - 1 if old else 0.0
            if more_throughput < _MIN_GAIN * more_load:
                return before.level
        return None

    def _table(self) -> Table:
        return sweep_table(self)

    def _page(self) -> str:
        return sweep_page(self)

    def to_json(self) -> str:
        """Return everything as JSON: the parameter, the knee, and the results at each load."""
        points: list[dict[str, Any]] = [
            {"level": point.level, "results": point.results.to_dict()} for point in self.points
        ]
        data = {"parameter": self.parameter, "knee": self.knee, "points": points}
        return json.dumps({"schema": "llamatelemetry.bench.sweep/1", **data}, indent=1)
