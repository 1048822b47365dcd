"""The same benchmark at one load after the other, and where more load stops paying."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from llamatelemetry.bench.results import BenchmarkResults

# The knee: from here on a step in the load brings less than this share of it in throughput.
_WORTH: Final = 0.5


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One load, and what was measured at it."""

    level: float
    results: BenchmarkResults

    @property
    def throughput(self) -> float:
        """Output tokens per second where they are known, else requests per second."""
        totals = self.results.totals
        return totals.request_rate if totals.output_rate is None else totals.output_rate

    def latency_s(self, name: str = "e2e", q: float = 0.5) -> float | None:
        """Give a quantile of a metric."""
        found = self.results.figures.get(name)
        return None if found is None else found.quantiles[q].value


@dataclass(frozen=True, slots=True)
class SweepResults:
    """A sweep, from light to heavy load.

    Attributes:
        parameter: ``concurrency`` or ``rate``.
        points: one for each load.
    """

    parameter: str
    points: Sequence[SweepPoint]

    @property
    def knee(self) -> float | None:
        """The last load that was worth its step: half as much throughput was gained as load.

        ``None`` when the heaviest load was still worth it: the knee lies further out.
        """
        for before, after in pairwise(sorted(self.points, key=lambda point: point.level)):
            more_load = after.level / before.level - 1
            more_throughput = after.throughput / before.throughput - 1 if before.throughput else 0.0
            if more_throughput < _WORTH * more_load:
                return before.level
        return None

    def summary(self) -> str:
        """Give a printable table: throughput and latency at each load."""
        from llamatelemetry.bench._tables import render_text, sweep_table

        return render_text(sweep_table(self))

    def __str__(self) -> str:
        return self.summary()

    def to_markdown(self) -> str:
        """Give the same as Markdown."""
        from llamatelemetry.bench._tables import render_markdown, sweep_table

        return render_markdown(sweep_table(self))

    def to_json(self) -> str:
        """Give everything as JSON: the parameter, the knee, and each point's results."""
        points: list[dict[str, Any]] = [
            {"level": point.level, "results": point.results.to_dict()} for point in self.points
        ]
        data = {"parameter": self.parameter, "knee": self.knee, "points": points}
        return json.dumps({"schema": "llamatelemetry.bench.sweep/1", **data}, indent=1)

    def to_html(self, path: str | Path | None = None) -> str:
        """Give a page of its own with throughput against latency; written to ``path`` if given."""
        from llamatelemetry.bench._page import sweep_page

        page = sweep_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def save(self, path: str | Path) -> Path:
        """Write a file: JSON, or by its suffix ``.md`` or ``.html``. Give its path."""
        path = Path(path)
        write = {".md": self.to_markdown, ".html": self.to_html}
        path.write_text(write.get(path.suffix.lower(), self.to_json)(), encoding="utf-8")
        return path
