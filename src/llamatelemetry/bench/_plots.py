"""The plots of a report, as plotly's plain data: what is drawn, not how."""

from __future__ import annotations

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

# Of a logarithmic axis, where plotly would write 5 for 500.
_TICKS: Final = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]

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
    return [plot for plot in made if plot["data"]]


def _plot(title: str, data: list[Any], x: str, y: str, **layout: Any) -> Plot:
    return {
        "title": title,
        "data": data,
        "layout": {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}} | layout,
    }


def _distributions(good: Sequence[RequestRecord]) -> Plot:
    """How large a share of the values was at most so large."""
    import numpy as np

    curves: list[Any] = []
    for name in _DISTRIBUTIONS:
        metric = METRIC_BY_NAME[name]
        found = [value for run in samples(good, metric).values() for each in run for value in each]
        if not found:
            continue
        shares = np.linspace(0, 1, min(len(found), _POINTS))
        values = np.quantile(np.array(found), shares) * 1000
        curves.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": metric.title,
                "x": [round(float(value), 3) for value in values],
                "y": [round(float(share), 4) for share in shares],
                "line": {"color": _COLOURS[name], "shape": "hv"},
                "visible": True if name in {"ttft", "tpot", "e2e"} else "legendonly",
            }
        )
    x: dict[str, Any] = {"title": {"text": "milliseconds"}, "type": "log", "tickvals": _TICKS}
    x["ticktext"] = [f"{tick:g}" for tick in _TICKS]
    y = "share of values at most this large"
    return _plot("Latency distributions", curves, "", y, xaxis=x)


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
        marks.append(_marks("failed", failed, values, "#CC3311", symbol="x"))
    return _plot("Latency over the run", marks, "seconds since the start", "milliseconds")


def _marks(
    name: str, records: Sequence[RequestRecord], values: list[float], colour: str, **mark: Any
) -> Any:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [round(record.due_s, 4) for record in records],
        "y": values,
        "text": [f"request {record.index}, run {record.run}" for record in records],
        "marker": {"color": colour, "size": 7, "opacity": 0.75, **mark},
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
    y = {"title": {"text": "request"}, "autorange": "reversed"}
    return _plot(
        "Timeline of requests", bars, "seconds since the start", "", barmode="overlay", yaxis=y
    )


def _bars(
    name: str,
    records: Sequence[RequestRecord],
    base: Sequence[float],
    lengths: Sequence[float],
    colour: str,
) -> Any:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [record.index for record in records],
        "base": [round(start, 6) for start in base],
        "x": [round(length, 6) for length in lengths],
        "marker": {"color": colour},
        "hovertemplate": "%{fullData.name}: %{x:.4f} s<extra>request %{y}</extra>",
    }


def _throughput(good: Sequence[RequestRecord]) -> Plot:
    """Tokens that came, by the second in which they came."""
    import numpy as np

    times = [
        record.due_s + record.lag_s + time_s for record in good for time_s in record.token_times_s
    ]
    if len(times) < 2:
        return _plot("Throughput over the run", [], "", "")
    counts, edges = np.histogram(times, bins=_BINS, range=(0.0, max(times)))
    width_s = float(edges[1] - edges[0])
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "pieces with tokens",
        "x": [round(float(edge) + width_s / 2, 4) for edge in edges[:-1]],
        "y": [round(float(count) / width_s, 2) for count in counts],
        "line": {"color": _COLOURS["decode"], "shape": "hvh"},
    }
    return _plot("Throughput over the run", [line], "seconds since the start", "pieces per second")


def sweep_plots(sweep: SweepResults) -> list[Plot]:
    """Throughput against latency, and both against the load."""
    lines: list[Any] = []
    for name, q in (("ttft", 0.5), ("e2e", 0.5), ("e2e", 0.95)):
        known = [point for point in sweep.points if point.latency_s(name, q) is not None]
        if not known:
            continue
        title = f"{METRIC_BY_NAME[name].title} p{q * 100:g}"
        lines.append(
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "name": title,
                "x": [round(point.throughput, 3) for point in known],
                "y": [round((point.latency_s(name, q) or 0.0) * 1000, 3) for point in known],
                "text": [f"{point.level:g}" for point in known],
                "textposition": "top center",
                "line": {"color": _COLOURS[name], "dash": "dot" if q > 0.5 else "solid"},
            }
        )
    x = "tokens per second" if _knows_tokens(sweep) else "requests per second"
    return [_plot(f"Latency against throughput, by {sweep.parameter}", lines, x, "milliseconds")]


def _knows_tokens(sweep: SweepResults) -> bool:
    return all(point.results.totals.output_rate is not None for point in sweep.points)
