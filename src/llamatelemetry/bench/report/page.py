"""The report of a benchmark or sweep as one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._html_page import fill_page
from llamatelemetry.bench.analysis.metrics import METRICS
from llamatelemetry.bench.report.plots import results_plots, sweep_plots
from llamatelemetry.bench.report.tables import number, results_table, sweep_table

if TYPE_CHECKING:
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.report.plots import Plot
    from llamatelemetry.bench.report.tables import Table
    from llamatelemetry.bench.results import BenchmarkResults
    from llamatelemetry.bench.sweep import SweepResults

_MAX_ROWS: Final = 500


def results_page(results: BenchmarkResults) -> str:
    """Return the HTML page of a benchmark."""
    return _render(
        heading=f"Benchmark of {results.model or 'a model'}",
        table=results_table(results),
        plots=results_plots(results),
        conditions=_conditions(results),
        requests=[_request_row(record) for record in results.requests[:_MAX_ROWS]],
        omitted=max(0, len(results.requests) - _MAX_ROWS),
        has_prompts=any(record.prompt_text for record in results.requests),
        started=_start_time(results),
    )


def sweep_page(sweep: SweepResults) -> str:
    """Return the HTML page of a sweep."""
    first = sweep.points[0].results
    return _render(
        heading=f"Sweep of {first.model or 'a model'}",
        table=sweep_table(sweep),
        plots=sweep_plots(sweep),
        conditions=_conditions(first),
        requests=[],
        omitted=0,
        has_prompts=False,
        started=_start_time(first),
    )


def _conditions(results: BenchmarkResults) -> list[tuple[str, str]]:
    merged = {**results.fingerprint, **results.settings, **results.environment}
    return [(name, str(value)) for name, value in merged.items() if value is not None]


def _start_time(results: BenchmarkResults) -> str:
    if not results.runs:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(results.runs[0].started_unix_s))


def _request_row(record: RequestRecord) -> dict[str, Any]:
    times = (record.due_s, record.lag_s, record.ttft_s, record.tpot_s, record.e2e_s)
    scales = (1.0, 1000.0, 1000.0, 1000.0, 1000.0)
    cells = [
        "" if value is None else number(value * scale)
        for value, scale in zip(times, scales, strict=True)
    ]
    return {
        "name": f"{record.run}/{record.index}",
        "cells": [*cells, record.input_tokens, record.cached_tokens, record.output_tokens],
        "outcome": record.error or record.finish_reason or "",
        "failed": not record.ok,
        "trace_id": record.trace_id or "",
        "prompt": record.prompt_text or "",
    }


def _render(*, table: Table, plots: Sequence[Plot], requests: Sequence[Any], **fields: Any) -> str:
    return fill_page(
        "llamatelemetry.bench.report",
        "report.html",
        feature="An HTML report",
        table=table,
        plots=plots,
        metrics=METRICS,
        requests=requests,
        **fields,
    )
