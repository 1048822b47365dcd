"""Plots of a report as plain data for `templates/chart.js`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.bench.analysis.metrics import METRIC_BY_NAME

if TYPE_CHECKING:
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.results import BenchmarkResults
    from llamatelemetry.bench.sweep import SweepResults

# Colors of templates/page.css, which are safe for color-blind readers.
_COLORS: Final = {
    "ttft": "var(--prefill)",
    "tpot": "var(--decode)",
    "itl": "var(--network)",
    "e2e": "var(--again)",
    "lag": "var(--other)",
    "queue": "var(--queue)",
    "prefill": "var(--prefill)",
    "decode": "var(--decode)",
    "remainder": "var(--shared)",
}
_DISTRIBUTIONS: Final = ("ttft", "itl", "tpot", "e2e", "queue", "prefill", "decode")
_PHASES: Final = ("lag", "queue", "prefill", "decode", "remainder")
_TIME_TITLE: Final = "Time since start (s)"
_BINS: Final = 60
# More points slow the page down without a visible difference.
_MAX_POINTS: Final = 2000

Plot = dict[str, Any]


def results_plots(results: BenchmarkResults) -> list[Plot]:
    """Return the plots of a benchmark that have data."""
    good = [record for record in results.requests if record.ok]
    plots = [
        _distributions(good),
        _over_time(results.requests),
        _timeline([record for record in good if record.run == 0]),
        _throughput([record for record in good if record.run == 0]),
    ]
    return [plot for plot in plots if plot["series"]]


def _plot(name: str, series: list[Any], x: str, y: str, /, **axes: Any) -> Plot:
    """Return a plot. `axes` holds further properties of its axes `x` and `y`."""
    return {
        "name": name,
        "series": series,
        "x": {"title": x, **axes.get("x", {})},
        "y": [{"title": y, **axes.get("y", {})}],
    }


def _distributions(good: Sequence[RequestRecord]) -> Plot:
    """Return the empirical cumulative distribution of each latency."""
    curves: list[Any] = []
    for name in _DISTRIBUTIONS:
        metric = METRIC_BY_NAME[name]
        found = sorted(value * 1000 for record in good for value in metric.values_of(record))
        if not found:
            continue
        points = min(len(found), _MAX_POINTS)
        shares = [point / max(1, points - 1) for point in range(points)]
        curves.append(
            {
                "kind": "step",
                "name": metric.title,
                "x": [round(found[round(share * (len(found) - 1))], 3) for share in shares],
                "y": [round(share, 4) for share in shares],
                "color": _COLORS[name],
                "off": name not in {"ttft", "tpot", "e2e"},
            }
        )
    y = "Cumulative share"
    return _plot("Latency distributions", curves, "Latency (ms)", y, x={"type": "log"})


def _over_time(records: Sequence[RequestRecord]) -> Plot:
    good = [record for record in records if record.ok]
    marks: list[Any] = []
    for name in ("ttft", "e2e"):
        known = [record for record in good if getattr(record, f"{name}_s") is not None]
        if known:
            values = [round(getattr(record, f"{name}_s") * 1000, 3) for record in known]
            marks.append(_marks(METRIC_BY_NAME[name].title, known, values, _COLORS[name]))
    failed = [record for record in records if not record.ok]
    if failed:
        values = [round(record.e2e_s * 1000, 3) for record in failed]
        marks.append(_marks("Failed", failed, values, "var(--bad)", "crosses"))
    return _plot("Latency over the run", marks, _TIME_TITLE, "Latency (ms)")


def _marks(
    name: str,
    records: Sequence[RequestRecord],
    values: list[float],
    color: str,
    kind: str = "dots",
) -> Any:
    return {
        "kind": kind,
        "name": name,
        "x": [round(record.due_s, 4) for record in records],
        "y": values,
        "notes": [f"request {record.index}, run {record.run}" for record in records],
        "color": color,
        "width": 7 if kind == "dots" else 2,
    }


def _timeline(good: Sequence[RequestRecord]) -> Plot:
    """Return each request as a stacked bar of its phases, or of TTFT and the rest."""
    known = [record for record in good if record.remainder_s is not None]
    pieces: list[tuple[str, str, list[float]]] = []
    if known:
        for name in _PHASES:
            # The remainder can be slightly negative, because it combines two clocks.
            lengths = [max(0.0, getattr(record, f"{name}_s") or 0.0) for record in known]
            pieces.append((METRIC_BY_NAME[name].title, _COLORS[name], lengths))
    elif known := [record for record in good if record.ttft_s is not None]:
        first = [record.ttft_s or 0.0 for record in known]
        rest = [record.e2e_s - each for record, each in zip(known, first, strict=True)]
        pieces.append(("To first token", _COLORS["prefill"], first))
        pieces.append(("First token to end", _COLORS["decode"], rest))
    bars: list[Any] = []
    base = [record.due_s for record in known]
    for name, color, lengths in pieces:
        bars.append(_bars(name, known, base, lengths, color))
        base = [start + length for start, length in zip(base, lengths, strict=True)]
    return _plot("Timeline of requests", bars, _TIME_TITLE, "Request", y={"reversed": True})


def _bars(
    name: str,
    records: Sequence[RequestRecord],
    base: Sequence[float],
    lengths: Sequence[float],
    color: str,
) -> Any:
    return {
        "kind": "bars",
        "name": name,
        "x": [round(start, 6) for start in base],
        "x2": [round(start + length, 6) for start, length in zip(base, lengths, strict=True)],
        "y": [record.index - 0.4 for record in records],
        "y2": [record.index + 0.4 for record in records],
        "color": color,
        "notes": [
            f"{length:.4f} s, request {record.index}"
            for record, length in zip(records, lengths, strict=True)
        ],
    }


def _throughput(good: Sequence[RequestRecord]) -> Plot:
    """Return the rate of received chunks with tokens over time."""
    times = [
        record.due_s + record.lag_s + time_s for record in good for time_s in record.token_times_s
    ]
    name = "Throughput over the run"
    if len(times) < 2:
        return _plot(name, [], "", "")
    width_s = max(times) / _BINS
    bins = Counter(min(_BINS - 1, math.floor(time_s / width_s)) for time_s in times)
    line = {
        "kind": "bars",
        "name": "Chunks with tokens",
        "x": [round(index * width_s, 4) for index in range(_BINS)],
        "x2": [round((index + 1) * width_s, 4) for index in range(_BINS)],
        "y": [round(bins[index] / width_s, 2) for index in range(_BINS)],
        "y2": [0] * _BINS,
        "color": _COLORS["decode"],
    }
    return _plot(name, [line], _TIME_TITLE, "Chunks/s", y={"low": 0})


def sweep_plots(sweep: SweepResults) -> list[Plot]:
    """Return the plot of latency against throughput at each load."""
    lines: list[Any] = []
    for name, q in (("ttft", 0.5), ("e2e", 0.5), ("e2e", 0.95)):
        latencies_s = ((point, point.latency_s(name, q)) for point in sweep.points)
        known = [(point, time_s) for point, time_s in latencies_s if time_s is not None]
        if not known:
            continue
        lines.append(
            {
                "kind": "line",
                "name": f"{METRIC_BY_NAME[name].title} p{q * 100:g}",
                "x": [round(point.rate(in_tokens=sweep.has_tokens), 3) for point, _ in known],
                "y": [round(time_s * 1000, 3) for _, time_s in known],
                "text": [f"{point.level:g}" for point, _ in known],
                "notes": [f"{sweep.parameter} {point.level:g}" for point, _ in known],
                "color": _COLORS[name],
                "dash": "2 4" if q > 0.5 else "",
            }
        )
    x = "Output tokens/s" if sweep.has_tokens else "Requests/s"
    return [_plot(f"Latency against throughput, by {sweep.parameter}", lines, x, "Latency (ms)")]
