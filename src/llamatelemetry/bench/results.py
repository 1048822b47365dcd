"""The results of a benchmark: requests, summary statistics, and export formats."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from llamatelemetry._optional import required_by
from llamatelemetry.bench.analysis.comparison import COMPARED, Comparison, compare
from llamatelemetry.bench.analysis.metrics import (
    METRICS,
    MetricSummary,
    Totals,
    compute_totals,
    summarize_metric,
)
from llamatelemetry.bench.analysis.statistics import missing_intervals
from llamatelemetry.bench.records import RequestRecord, RunRecord, known_fields
from llamatelemetry.bench.report.export import Exportable, write_page
from llamatelemetry.bench.report.page import results_page
from llamatelemetry.bench.report.tables import results_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.bench.report.tables import Table

SCHEMA: Final = "llamatelemetry.bench/1"
_COLUMNS: Final = (*(each.name for each in fields(RequestRecord)), "tpot_s", "remainder_s")
_PLAIN_FIELDS: Final = ("model", "settings", "fingerprint", "environment", "slo", "warnings")
PAIR: Final = "pair"
"""Name of the setting whose value two interleaved benchmarks share."""


@dataclass(frozen=True)
class BenchmarkResults(Exportable):
    """A finished or interrupted benchmark.

    Attributes:
        model: Requested model name.
        settings: Settings of the runner: profile, load, lengths, cache, seed.
        fingerprint: Conditions that must be equal in two benchmarks to compare them.
        environment: Further facts about the machine.
        requests: All requests, including failed ones.
        runs: The runs; several for a repeated benchmark.
        slo: Latency limits in seconds, by metric name.
        warnings: Warnings about the validity of the results.

    Examples:
        >>> results = BenchmarkRunner(client, BenchmarkProfile.QUICK).run("my-model", ["Hello"])
        >>> results.figures["e2e"].count, len(results.to_csv().splitlines()), len(results.to_dataframe())
        (10, 11, 10)
        >>> results.to_markdown().splitlines()[2]
        '| Metric | Count | Mean | ...'
        >>> path = results.save("new.json")
        >>> comparison = results.compare(BenchmarkResults.load(path))
        >>> page = results.to_html("report.html", comparison=comparison)
        >>> results.to_dict()["schema"], len(results.to_json()) > 1000
        ('llamatelemetry.bench/1', True)
    """

    model: str
    settings: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    environment: Mapping[str, Any]
    requests: Sequence[RequestRecord]
    runs: Sequence[RunRecord]
    slo: Mapping[str, float] = field(default_factory=dict[str, float])
    warnings: Sequence[str] = ()

    @cached_property
    def figures(self) -> dict[str, MetricSummary]:
        """Summary statistics of every metric with values, by metric name."""
        seed = int(self.settings.get("seed", 0))
        found = {metric.name: summarize_metric(self.requests, metric, seed) for metric in METRICS}
        if all(record.ttfo_s == record.ttft_s for record in self.requests if record.ok):
            # Without reasoning tokens, TTFO repeats TTFT.
            found["ttfo"] = None
        return {name: each for name, each in found.items() if each is not None}

    @cached_property
    def totals(self) -> Totals:
        """Throughput, failures, SLO attainment and energy."""
        return compute_totals(self.requests, self.runs, self.slo)

    def is_paired_with(self, other: BenchmarkResults) -> bool:
        """Return whether the runs of the two benchmarks were interleaved."""
        pair = self.settings.get(PAIR)
        return pair is not None and pair == other.settings.get(PAIR)

    @property
    def load_text(self) -> str:
        """Load model as text, such as `concurrency 4`."""
        return str(self.settings.get("load_text", ""))

    def _table(self) -> Table:
        return results_table(self)

    def _page(self) -> str:
        return results_page(self)

    def to_html(
        self, path: str | Path | None = None, *, comparison: Comparison | None = None
    ) -> str:
        """Return a self-contained HTML page with plots, and write it to `path` if given.

        Args:
            path: File to write.
            comparison: Result of `compare()`, which the page then shows, too.

        Raises:
            ImportError: Jinja2 is not installed.
        """
        return write_page(results_page(self, comparison), path)

    def _formats(self) -> dict[str, Callable[[], str]]:
        return {**super()._formats(), ".csv": self.to_csv}

    def compare(
        self,
        other: BenchmarkResults,
        *,
        metrics: Sequence[str] = COMPARED,
        min_effect: float = 0.05,
        allow: Iterable[str] = (),
        force: bool = False,
    ) -> Comparison:
        """Compare this benchmark, the candidate, with a baseline.

        Args:
            other: Baseline.
            metrics: Names of the metrics to compare.
            min_effect: Smallest relevant difference, as a fraction.
            allow: Conditions that may differ, such as `server.build`.
            force: Allow all differences of conditions.

        Raises:
            FingerprintMismatchError: The benchmarks were made under different conditions.
            ImportError: numpy or SciPy is not installed.
            ValueError: A metric name or `min_effect` is invalid, or no metric has values in both
                benchmarks.
        """
        return compare(
            other, self, metrics=metrics, min_effect=min_effect, allow=allow, force=force
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, including the summary statistics."""
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in _PLAIN_FIELDS},
            "summary": self._summary_data(),
            "runs": [run.to_dict() for run in self.runs],
            "requests": [record.to_dict() for record in self.requests],
        }

    def _summary_data(self) -> dict[str, Any]:
        missing = missing_intervals()
        return {
            "figures": {name: _summary_data(each) for name, each in self.figures.items()},
            "totals": _plain(self.totals),
            **({"note": missing} if missing else {}),
        }

    def to_json(self) -> str:
        """Return everything as JSON. `schema` names the version of the format."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_csv(self) -> str:
        """Return CSV with one row per request. Only the JSON format contains token times."""
        output = io.StringIO()
        writer = csv.writer(output, lineterminator="\n")
        names = [name for name in _COLUMNS if name != "token_times_s"]
        writer.writerow(names)
        for record in self.requests:
            values = [getattr(record, name) for name in names]
            writer.writerow([round(v, 9) if isinstance(v, float) else v for v in values])
        return output.getvalue()

    def to_dataframe(self) -> Any:
        """Return a pandas `DataFrame` with one row per request.

        Raises:
            ImportError: pandas is not installed.
        """
        with required_by("to_dataframe()", "pandas"):
            pandas: Any = importlib.import_module("pandas")
        rows = [{name: getattr(record, name) for name in _COLUMNS} for record in self.requests]
        return pandas.DataFrame(rows)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read results that `save()` wrote as JSON.

        Raises:
            ValueError: The file is not such JSON, or has an unsupported schema.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            schema = data["schema"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} must be the JSON of a benchmark, with a schema") from error
        if schema != SCHEMA:
            raise ValueError(f"the schema of {path} must be {SCHEMA!r}, got {schema!r}")
        try:
            return cls(
                **{name: data[name] for name in _PLAIN_FIELDS},
                requests=[RequestRecord.from_dict(record) for record in data["requests"]],
                runs=[RunRecord.from_dict(run) for run in data["runs"]],
            )
        except (LookupError, TypeError) as error:
            raise ValueError(f"{path} lacks a part of a benchmark: {error}") from error


def _summary_data(summary: MetricSummary) -> dict[str, Any]:
    return {
        "unit": summary.metric.unit,
        "clock": summary.metric.clock,
        "count": summary.count,
        "mean": _plain(summary.mean),
        "sd": summary.sd,
        "min": summary.minimum,
        "max": summary.maximum,
        **{f"p{q * 100:g}": _plain(estimate) for q, estimate in summary.quantiles.items()},
    }


def _plain(value: Any) -> dict[str, Any]:
    return asdict(value, dict_factory=known_fields)
