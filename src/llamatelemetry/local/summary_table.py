"""The summary of calls as a table: in the report, and as the result of `llamatelemetry.summary()`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._table import html_table, text_table

if TYPE_CHECKING:
    from llamatelemetry.local.calls import Quantiles, Summary

_UNKNOWN: Final = "\N{EN DASH}"
_COLUMNS: Final = (
    *("Operation", "Model", "Calls", "Errors", "Input tokens", "Output tokens", "Queue (ms)"),
    *("TTFT (ms)", "TPOT (ms)", "Duration (ms)", "Output tokens/s", "Energy (J)"),
)
_TEXTS: Final = 2
_NOTE: Final = "Times: p50 / p95 (p95 from 20 calls)"


def summary_table(summary: Summary) -> dict[str, Any]:
    """Return the table of calls: `columns` and `rows`, with unknown numbers as a dash."""
    return {"columns": _COLUMNS, "rows": _rows(summary)}


class CallsSummary:
    """The calls of this process so far. It prints as a table, and is a table in a notebook.

    Attributes:
        summary: The figures by operation and model.
    """

    def __init__(self, summary: Summary) -> None:
        self.summary = summary

    @property
    def calls(self) -> int:
        """Number of calls."""
        return self.summary.calls

    @property
    def errors(self) -> int:
        """Number of failed calls."""
        return sum(row.errors for row in self.summary.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data. Times are in milliseconds."""
        return {
            "calls": self.calls,
            "errors": self.errors,
            "errors_by_type": dict(self.summary.errors),
            "by_operation_and_model": [asdict(row) for row in self.summary.rows],
        }

    def __str__(self) -> str:
        if not self.calls:
            return "No LLM calls recorded yet."
        header, rows = self._shown()
        return "\n".join([text_table(header, rows, _TEXTS), *self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if not self.calls:
            return str(self)
        header, rows = self._shown()
        return html_table("Calls", header, rows, texts=_TEXTS, notes=self._notes())

    def _notes(self) -> list[str]:
        errors = ", ".join(f"{kind} ({n})" for kind, n in self.summary.errors.most_common())
        return [_NOTE, *([f"Errors: {errors}"] if errors else [])]

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows without columns that no row knows."""
        rows = [[str(cell) for cell in row] for row in _rows(self.summary)]
        known = [at for at in range(len(_COLUMNS)) if any(row[at] != _UNKNOWN for row in rows)]
        return [_COLUMNS[at] for at in known], [[row[at] for at in known] for row in rows]


def _rows(summary: Summary) -> list[list[Any]]:
    return [
        [
            row.operation,
            row.model or _UNKNOWN,
            row.calls,
            row.errors,
            _whole(row.input_tokens),
            _whole(row.output_tokens),
            *map(_quantiles, (row.queue_ms, row.ttft_ms, row.tpot_ms, row.duration_ms)),
            _number(row.tokens_per_s.p50 if row.tokens_per_s else None),
            _number(row.energy_j),
        ]
        for row in summary.rows
    ]


def _quantiles(quantiles: Quantiles | None) -> str:
    if quantiles is None or quantiles.p95 is None:
        return _number(None if quantiles is None else quantiles.p50)
    return f"{_number(quantiles.p50)} / {_number(quantiles.p95)}"


def _whole(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
