"""The report of a benchmark or sweep as one self-contained HTML page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry._html_page import fill_page
from llamatelemetry.bench.analysis.metrics import METRICS
from llamatelemetry.bench.report.plots import results_plots, sweep_plots
from llamatelemetry.bench.report.tables import (
    comparison_table,
    number,
    results_table,
    sweep_table,
)

if TYPE_CHECKING:
    from llamatelemetry.bench.analysis.comparison import Comparison
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.report.plots import Plot
    from llamatelemetry.bench.report.tables import Table
    from llamatelemetry.bench.results import BenchmarkResults
    from llamatelemetry.bench.sweep import SweepResults

_MAX_ROWS: Final = 500


def results_page(results: BenchmarkResults, comparison: Comparison | None = None) -> str:
    """Return the HTML page of a benchmark, with its comparison if there is one."""
    heading = f"Benchmark of {results.model or 'a model'}"
    table, plots = results_table(results), results_plots(results)
    compared = None if comparison is None else comparison_table(comparison)
    return _render(heading, table, plots, results, results.requests, comparison=compared)


def sweep_page(sweep: SweepResults) -> str:
    """Return the HTML page of a sweep, with the conditions of its first load."""
    first = sweep.points[0].results
    heading = f"Sweep of {first.model or 'a model'}"
    return _render(heading, sweep_table(sweep), sweep_plots(sweep), first, ())


def _start_time(results: BenchmarkResults) -> str:
    if not results.runs:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(results.runs[0].started_unix_s))


def _request_row(record: RequestRecord) -> dict[str, Any]:
    times_s = (record.lag_s, record.ttft_s, record.tpot_s, record.e2e_s)
    times_ms = ["" if time_s is None else number(time_s * 1000) for time_s in times_s]
    tokens = (record.input_tokens, record.cached_tokens, record.output_tokens)
    return {
        "name": f"{record.run}/{record.index}",
        "cells": [number(record.due_s), *times_ms, *tokens],
        "outcome": record.error or record.finish_reason or "",
        "failed": not record.ok,
        "trace_id": record.trace_id or "",
        "prompt": record.prompt_text or "",
    }


def _render(
    heading: str,
    table: Table,
    plots: Sequence[Plot],
    results: BenchmarkResults,
    requests: Sequence[RequestRecord],
    *,
    comparison: Table | None = None,
) -> str:
    conditions = {**results.fingerprint, **results.settings, **results.environment}
    return fill_page(
        "llamatelemetry.bench.report",
        "report.html",
        feature="An HTML report",
        heading=heading,
        table=table,
        comparison=comparison,
        server_url=results.environment.get("server.url", ""),
        plots=plots,
        metrics=METRICS,
        conditions=[(name, str(each)) for name, each in conditions.items() if each is not None],
        requests=[_request_row(record) for record in requests[:_MAX_ROWS]],
        omitted=max(0, len(requests) - _MAX_ROWS),
        has_prompts=any(record.prompt_text for record in requests),
        started=_start_time(results),
    )
