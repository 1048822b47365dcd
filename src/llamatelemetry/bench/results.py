"""What a benchmark found: every request, the figures made of them, and the forms to keep it in."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from llamatelemetry._optional import required_by
from llamatelemetry.bench._statistics import missing_intervals
from llamatelemetry.bench.figures import METRICS, Figure, Totals, figure, totals
from llamatelemetry.bench.records import RequestRecord, RunRecord

if TYPE_CHECKING:
    from llamatelemetry.bench.comparison import Comparison

SCHEMA: Final = "llamatelemetry.bench/1"
PAIR: Final = "pair"
"""The setting that two results share which were measured in turns: run by run they belong together."""


@dataclass(frozen=True)
class BenchmarkResults:
    """A finished, or interrupted, benchmark.

    Attributes:
        model: as it was named.
        settings: of the runner: profile, load, lengths, cache, seed.
        fingerprint: the conditions that two benchmarks must share to be compared.
        environment: what else is worth knowing of where it ran.
        requests: all of them, also those that failed.
        runs: one, or several of a repeated benchmark.
        slo: objectives in seconds, by metric.
        warnings: what makes the figures less than they seem.
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
    def figures(self) -> dict[str, Figure]:
        """The estimates of every metric that is known, by its name."""
        seed = int(self.settings.get("seed", 0))
        found = {metric.name: figure(self.requests, metric, seed) for metric in METRICS}
        if _is_same(self.requests):
            found["ttfo"] = None  # nothing reasoned: it says what TTFT says
        return {name: each for name, each in found.items() if each is not None}

    @cached_property
    def totals(self) -> Totals:
        """Throughput, failures, goodput, energy."""
        return totals(self.requests, self.runs, self.slo)

    def is_paired_with(self, other: BenchmarkResults) -> bool:
        """Whether the two were measured in turns, each run beside one of the other."""
        pair = self.settings.get(PAIR)
        return pair is not None and pair == other.settings.get(PAIR)

    @property
    def load_text(self) -> str:
        """How the requests were sent, in words."""
        return str(self.settings.get("load_text", ""))

    def summary(self) -> str:
        """Give a printable table of the figures, and what to know of them."""
        from llamatelemetry.bench._tables import render_text, results_table

        return render_text(results_table(self))

    def __str__(self) -> str:
        return self.summary()

    def compare(
        self,
        other: BenchmarkResults,
        *,
        metrics: Sequence[str] = ("ttft", "tpot", "e2e"),
        min_effect: float = 0.05,
        allow: Iterable[str] = (),
        force: bool = False,
    ) -> Comparison:
        """Compare this benchmark, the candidate, with an earlier one, the baseline.

        Args:
            other: the baseline.
            metrics: what is compared.
            min_effect: the least difference that matters, as a share.
            allow: conditions that may differ, such as ``server.build``.
            force: compare whatever differs.

        Raises:
            FingerprintMismatchError: they were not made under the same conditions.
            ImportError: numpy or SciPy is not installed.
            ValueError: there is nothing to compare.
        """
        from llamatelemetry.bench.comparison import compare

        return compare(
            other, self, metrics=metrics, min_effect=min_effect, allow=allow, force=force
        )

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain data, the figures included."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "settings": dict(self.settings),
            "fingerprint": dict(self.fingerprint),
            "environment": dict(self.environment),
            "slo": dict(self.slo),
            "warnings": list(self.warnings),
            "summary": self._summary_data(),
            "runs": [run.to_dict() for run in self.runs],
            "requests": [record.to_dict() for record in self.requests],
        }

    def _summary_data(self) -> dict[str, Any]:
        missing = missing_intervals()
        return {
            "figures": {name: _figure_data(each) for name, each in self.figures.items()},
            "totals": _plain(self.totals),
            **({"note": missing} if missing else {}),
        }

    def to_json(self) -> str:
        """Give everything as JSON. ``schema`` names its version."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_csv(self) -> str:
        """Give one line for each request; token times are in the JSON alone."""
        names = [each.name for each in fields(RequestRecord) if each.name != "token_times_s"]
        output = io.StringIO()
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow([*names, "tpot_s", "remainder_s"])
        for record in self.requests:
            values = [getattr(record, name) for name in [*names, "tpot_s", "remainder_s"]]
            writer.writerow([round(v, 9) if isinstance(v, float) else v for v in values])
        return output.getvalue()

    def to_markdown(self) -> str:
        """Give the table of `summary` as Markdown."""
        from llamatelemetry.bench._tables import render_markdown, results_table

        return render_markdown(results_table(self))

    def to_html(self, path: str | Path | None = None) -> str:
        """Give a page of its own with plots, which needs no network; written to ``path`` if given.

        Raises:
            ImportError: what draws the plots is not installed.
        """
        from llamatelemetry.bench._page import results_page

        page = results_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def to_dataframe(self) -> Any:
        """Give a pandas ``DataFrame``: a row for each request.

        Raises:
            ImportError: pandas is not installed.
        """
        with required_by("to_dataframe()", "pandas"):
            pandas: Any = importlib.import_module("pandas")
        rows = [
            {
                **{each.name: getattr(record, each.name) for each in fields(record)},
                "tpot_s": record.tpot_s,
                "remainder_s": record.remainder_s,
            }
            for record in self.requests
        ]
        return pandas.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Write a file: JSON, or by its suffix ``.csv``, ``.md`` or ``.html``. Give its path."""
        path = Path(path)
        write = {".csv": self.to_csv, ".md": self.to_markdown, ".html": self.to_html}
        content = write.get(path.suffix.lower(), self.to_json)()
        path.write_text(content, encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote as JSON.

        Raises:
            ValueError: it is no such file, or of a version that is not known here.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            schema = data["schema"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} holds no benchmark: expected JSON with a schema") from error
        if schema != SCHEMA:
            raise ValueError(f"{path} has the schema {schema!r}; this version reads {SCHEMA!r}")
        return cls(
            model=data["model"],
            settings=data["settings"],
            fingerprint=data["fingerprint"],
            environment=data["environment"],
            requests=[RequestRecord.from_dict(record) for record in data["requests"]],
            runs=[RunRecord.from_dict(run) for run in data["runs"]],
            slo=data["slo"],
            warnings=data["warnings"],
        )


def _is_same(records: Sequence[RequestRecord]) -> bool:
    return all(record.ttfo_s == record.ttft_s for record in records if record.ok)


def _figure_data(found: Figure) -> dict[str, Any]:
    return {
        "unit": found.metric.unit,
        "clock": found.metric.clock,
        "count": found.count,
        "mean": _plain(found.mean),
        "sd": found.sd,
        "min": found.minimum,
        "max": found.maximum,
        **{f"p{q * 100:g}": _plain(estimate) for q, estimate in found.quantiles.items()},
    }


def _plain(value: Any) -> dict[str, Any]:
    """Give the known fields of a dataclass as plain data."""
    found = {each.name: getattr(value, each.name) for each in fields(value)}
    return {
        name: _plain(each) if hasattr(each, "__dataclass_fields__") else each
        for name, each in found.items()
        if each is not None
    }
