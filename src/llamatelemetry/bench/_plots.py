"""The plots of a report as plain data, in the form that `templates/chart.js` draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.bench.figures import METRIC_BY_NAME, samples

if TYPE_CHECKING:
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.results import BenchmarkResults
    from llamatelemetry.bench.sweep import SweepResults

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS: Final = {
    "ttft": "#0072B2",
    "tpot": "#009E73",
    "itl": "#56B4E9",
    "e2e": "#D55E00",
    "lag": "#999999",
    "queue": "#E69F00",
    "prefill": "#0072B2",
    "decode": "#009E73",
    "remainder": "#CC79A7",
}
_DISTRIBUTIONS: Final = ("ttft", "itl", "tpot", "e2e", "queue", "prefill", "decode")
_PHASES: Final = ("lag", "queue", "prefill", "decode", "remainder")
_BINS: Final = 60
# More points draw no clearer a curve, only a slower page.
_POINTS: Final = 2000

Plot = dict[str, Any]


def results_plots(results: BenchmarkResults) -> list[Plot]:
    """Give the plots of a benchmark: those for which something is known."""
    good = [record for record in results.requests if record.ok]
    made = [
        _distributions(good),
        _over_time(results.requests),
        _timeline([record for record in good if record.run == 0]),
        _throughput([record for record in good if record.run == 0]),
    ]
    return [plot for plot in made if plot["series"]]


def _plot(name: str, series: list[Any], x: str, y: str, /, **axes: Any) -> Plot:
    """Return a plot; `axes` are further properties of its axes, by `x` and `y`."""
    return {
        "name": name,
        "series": series,
        "x": {"title": x, **axes.get("x", {})},
        "y": [{"title": y, **axes.get("y", {})}],
    }


def _distributions(good: Sequence[RequestRecord]) -> Plot:
    """How large a share of the values was at most so large."""
    curves: list[Any] = []
    for name in _DISTRIBUTIONS:
        metric = METRIC_BY_NAME[name]
        runs = samples(good, metric).values()
        found = sorted(value * 1000 for run in runs for each in run for value in each)
        if not found:
            continue
        points = min(len(found), _POINTS)
        shares = [place / max(1, points - 1) for place in range(points)]
        curves.append(
            {
                "kind": "step",
                "name": metric.title,
                "x": [round(found[round(share * (len(found) - 1))], 3) for share in shares],
                "y": [round(share, 4) for share in shares],
                "color": _COLOURS[name],
                "off": name not in {"ttft", "tpot", "e2e"},
            }
        )
    y = "share of values at most this large"
    return _plot("Latency distributions", curves, "milliseconds", y, x={"type": "log"})


def _over_time(records: Sequence[RequestRecord]) -> Plot:
    good = [record for record in records if record.ok]
    marks: list[Any] = []
    for name in ("ttft", "e2e"):
        known = [record for record in good if getattr(record, f"{name}_s") is not None]
        if known:
            values = [round(getattr(record, f"{name}_s") * 1000, 3) for record in known]
            marks.append(_marks(METRIC_BY_NAME[name].title, known, values, _COLOURS[name]))
    failed = [record for record in records if not record.ok]
    if failed:
        values = [round(record.e2e_s * 1000, 3) for record in failed]
        marks.append(_marks("failed", failed, values, "#CC3311", "crosses"))
    return _plot("Latency over the run", marks, "seconds since the start", "milliseconds")


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
    """Each request as a bar made of its phases."""
    known = [record for record in good if record.remainder_s is not None]
    bars: list[Any] = []
    base = [record.due_s for record in known]
    for name in _PHASES if known else ():
        # What is left over is microseconds below zero now and then: the clocks are two.
        lengths = [max(0.0, getattr(record, f"{name}_s") or 0.0) for record in known]
        bars.append(_bars(METRIC_BY_NAME[name].title, known, base, lengths, _COLOURS[name]))
        base = [start + length for start, length in zip(base, lengths, strict=True)]
    if not known:
        streamed = [record for record in good if record.ttft_s is not None]
        first = [record.ttft_s or 0.0 for record in streamed]
        base = [record.due_s for record in streamed]
        bars.append(_bars("to first token", streamed, base, first, _COLOURS["prefill"]))
        rest = [record.e2e_s - (record.ttft_s or 0.0) for record in streamed]
        base = [start + length for start, length in zip(base, first, strict=True)]
        bars.append(_bars("to the end", streamed, base, rest, _COLOURS["decode"]))
        bars = bars if streamed else []
    y = {"reversed": True}
    return _plot("Timeline of requests", bars, "seconds since the start", "request", y=y)


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
    """Tokens that came, by the second in which they came."""
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
        "name": "pieces with tokens",
        "x": [round(place * width_s, 4) for place in range(_BINS)],
        "x2": [round((place + 1) * width_s, 4) for place in range(_BINS)],
        "y": [round(bins[place] / width_s, 2) for place in range(_BINS)],
        "y2": [0] * _BINS,
        "color": _COLOURS["decode"],
    }
    y = {"low": 0}
    return _plot(name, [line], "seconds since the start", "pieces per second", y=y)


def sweep_plots(sweep: SweepResults) -> list[Plot]:
    """Throughput against latency, and both against the load."""
    lines: list[Any] = []
    for name, q in (("ttft", 0.5), ("e2e", 0.5), ("e2e", 0.95)):
        known = [point for point in sweep.points if point.latency_s(name, q) is not None]
        if not known:
            continue
        lines.append(
            {
                "kind": "line",
                "name": f"{METRIC_BY_NAME[name].title} p{q * 100:g}",
                "x": [round(point.throughput, 3) for point in known],
                "y": [round((point.latency_s(name, q) or 0.0) * 1000, 3) for point in known],
                "text": [f"{point.level:g}" for point in known],
                "notes": [f"{sweep.parameter} {point.level:g}" for point in known],
                "color": _COLOURS[name],
                "dash": "2 4" if q > 0.5 else "",
            }
        )
    x = "tokens per second" if _knows_tokens(sweep) else "requests per second"
    return [_plot(f"Latency against throughput, by {sweep.parameter}", lines, x, "milliseconds")]


def _knows_tokens(sweep: SweepResults) -> bool:
    return all(point.results.totals.output_rate is not None for point in sweep.points)
