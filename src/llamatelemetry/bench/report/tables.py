"""Tables of results, sweeps and comparisons, for rendering as text, Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamatelemetry.bench.analysis.metrics import METRIC_BY_NAME
from llamatelemetry.bench.analysis.statistics import missing_intervals
from llamatelemetry.genai.engines.catalog import ENGINE_BY_PROVIDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.bench.analysis.comparison import Comparison, MetricComparison
    from llamatelemetry.bench.analysis.metrics import Metric, MetricSummary, Totals
    from llamatelemetry.bench.analysis.statistics import Estimate
    from llamatelemetry.bench.results import BenchmarkResults
    from llamatelemetry.bench.sweep import SweepResults

UNKNOWN: Final = "–"  # noqa: RUF001 - the usual sign in tables
UNSUPPORTED: Final = "?"
_INTERVAL: Final = "p50 95% CI"
_PHASES: Final = frozenset({"queue", "prefill", "decode"})
_ROUTE: Final = "/v1/chat/completions"
_SWEPT: Final = (("ttft", 0.5), ("ttft", 0.95), ("tpot", 0.5), ("e2e", 0.5), ("e2e", 0.95))


@dataclass(frozen=True, slots=True)
class Table:
    """Formatted cells. The first column holds text, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def results_table(results: BenchmarkResults) -> Table:
    """Return the table of a benchmark's metrics."""
    rows = [_metric_row(summary) for summary in results.figures.values()]
    notes = [*total_lines(results.totals), *_prompt_lines(results), *_engine_lines(results)]
    if any(UNSUPPORTED in cell for row in rows for cell in row):
        notes.append(
            f"{UNSUPPORTED} too few requests for a reliable percentile (p90: 29, p95: 59, p99: 299)"
        )
    missing = missing_intervals()
    if missing:
        notes.append(missing)
    notes += [f"Warning: {warning}" for warning in results.warnings]
    header = ("Metric", "Count", "Mean", "p50", _INTERVAL, "p90", "p95", "p99")
    shown = [at for at, name in enumerate(header) if name != _INTERVAL or not missing]
    return Table(
        title=f"{results.model}: {results.load_text}",
        header=tuple(header[at] for at in shown),
        rows=tuple(tuple(row[at] for at in shown) for row in rows),
        notes=tuple(notes),
    )


def _prompt_lines(results: BenchmarkResults) -> list[str]:
    """Return how long synthetic prompts were meant to be, and what the server measured."""
    wanted = results.settings.get("input_tokens")
    if wanted is None:
        return []
    known = {r.input_tokens for r in results.requests if r.ok and r.input_tokens is not None}
    measured = f"{min(known)} to {max(known)}" if len(known) > 1 else next(map(str, known), "not")
    reported = f"{measured} reported by the server"
    return [f"Prompts of {wanted} tokens, {results.settings['input_tokens_method']}; {reported}"]


def _engine_lines(results: BenchmarkResults) -> list[str]:
    """Return what makes the engine report its phases, if it reported none."""
    engine = ENGINE_BY_PROVIDER.get(results.fingerprint.get("server", ""))
    if engine is None or not _PHASES.isdisjoint(results.figures):
        return []
    return [
        f"{engine.name} reports {', '.join(source.figures)} with {source.needs.replace('`', '')}"
        for route in engine.routes
        if _ROUTE in route.paths
        for source in route.sources
        if source.needs and source.on_streams is not None and _PHASES & {*source.figures}
    ]


def _metric_row(summary: MetricSummary) -> tuple[str, ...]:
    scale = _scale(summary.metric)
    median = summary.quantiles[0.5]
    return (
        metric_label(summary.metric),
        str(summary.count),
        number(summary.mean.value * scale),
        number(median.value * scale),
        interval(median, scale),
        *(_quantile(summary.quantiles[q], scale) for q in (0.9, 0.95, 0.99)),
    )


def metric_label(metric: Metric) -> str:
    """Return the title of a metric with its display unit, such as `TTFT (ms)`."""
    return f"{metric.title} ({'ms' if metric.unit == 's' else metric.unit})"


def _scale(metric: Metric) -> float:
    return 1000.0 if metric.unit == "s" else 1.0


def _quantile(estimate: Estimate, scale: float) -> str:
    return number(estimate.value * scale) + ("" if estimate.supported else UNSUPPORTED)


def interval(estimate: Estimate, scale: float = 1.0) -> str:
    """Return an interval as text. An unknown end is left open."""
    if estimate.low is None and estimate.high is None:
        return UNKNOWN
    low = "" if estimate.low is None else number(estimate.low * scale)
    high = "" if estimate.high is None else number(estimate.high * scale)
    return f"{low} to {high}".strip()


def number(value: float) -> str:
    """Return a number with three or four significant digits."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or value == 0 else f"{value:.2g}"


def total_lines(totals: Totals) -> list[str]:
    """Return throughput, failures, SLO attainment and energy as lines of text."""
    rates = {
        "requests/s": totals.request_rate,
        "output tokens/s": totals.output_rate,
        "input tokens/s": totals.input_rate,
    }
    known = [f"{number(rate)} {unit}" for unit, rate in rates.items() if rate is not None]
    lines = [", ".join([f"{totals.requests} requests in {totals.duration_s:.1f} s", *known])]
    if totals.failures and totals.success is not None:
        kinds = ", ".join(f"{kind} {count}" for kind, count in totals.failures.items())
        lines.append(f"Success rate {_share(totals.success)}; failures: {kinds}")
    if totals.goodput is not None and totals.goodput_rate is not None:
        lines.append(
            f"SLO attainment {_share(totals.goodput)}; goodput {number(totals.goodput_rate)} requests/s"
        )
    if totals.energy_per_token_j is not None:
        lines.append(f"GPU energy {number(totals.energy_per_token_j)} J per output token")
    if totals.energy_above_idle_per_token_j is not None:
        lines[-1] += f", {number(totals.energy_above_idle_per_token_j)} J above idle"
    return lines


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} (95% CI {interval(estimate, 100)}%)"


def sweep_table(sweep: SweepResults) -> Table:
    """Return the table of throughput and latency at each load of a sweep."""
    rows: list[tuple[str, ...]] = []
    for point in sweep.points:
        totals = point.results.totals
        rate, success = totals.output_rate, totals.success
        latencies_s = (point.latency_s(name, q) for name, q in _SWEPT)
        rows.append(
            (
                f"{point.level:g}" + (" ← knee" if point.level == sweep.knee else ""),
                number(totals.request_rate),
                UNKNOWN if rate is None else number(rate),
                *(UNKNOWN if each is None else number(each * 1000) for each in latencies_s),
                UNKNOWN if success is None else f"{success.value:.1%}",
            )
        )
    knee = "none up to the highest load" if sweep.knee is None else f"{sweep.knee:g}"
    warnings = dict.fromkeys(w for point in sweep.points for w in point.results.warnings)
    latencies = [f"{METRIC_BY_NAME[name].title} p{q * 100:g} (ms)" for name, q in _SWEPT]
    parameter = sweep.parameter.capitalize()
    return Table(
        title=f"Sweep of the {sweep.parameter}",
        header=(parameter, "Requests/s", "Output tokens/s", *latencies, "Success rate"),
        rows=tuple(rows),
        notes=(f"Knee: {knee}", *(f"Warning: {warning}" for warning in warnings)),
    )


def comparison_table(comparison: Comparison) -> Table:
    """Return the table that compares the medians of two benchmarks."""
    notes = [_conclusion(comparison)]
    if comparison.differences:
        pairs = (f"{name} {old} → {new}" for name, (old, new) in comparison.differences.items())
        notes.append("Allowed differences: " + "; ".join(pairs))
    if not all(metric.by_runs for metric in comparison.metrics):
        notes.append(
            "Only one run per side: use repeats=3 or more to separate noise of the machine from "
            "a change."
        )
    if all(metric.paired for metric in comparison.metrics):
        notes.append("Interleaved runs: each run was compared with the run next to it.")
    return Table(
        title="Candidate compared with baseline (medians)",
        header=(
            *("Metric", "Baseline", "Candidate", "Ratio", "Ratio 95% CI", "p-value (Holm)"),
            *("Detectable", "Verdict"),
        ),
        rows=tuple(_comparison_row(metric) for metric in comparison.metrics),
        notes=tuple(notes),
    )


def _comparison_row(compared: MetricComparison) -> tuple[str, ...]:
    metric = METRIC_BY_NAME[compared.name]
    scale = _scale(metric)
    return (
        metric_label(metric),
        number(compared.baseline * scale),
        number(compared.candidate * scale),
        f"{compared.ratio.value:.3f}",
        interval(compared.ratio),
        f"{compared.p_adjusted:.3f}" if compared.p_adjusted >= 0.001 else "<0.001",
        UNKNOWN if compared.detectable is None else f"{compared.detectable:.0%}",
        compared.verdict,
    )


def _conclusion(comparison: Comparison) -> str:
    slower = [metric.name for metric in comparison.metrics if metric.verdict == "slower"]
    parts = [f"is slower in {', '.join(slower)}"] if slower else []
    if comparison.fails_more:
        old, new = comparison.success
        parts.append(f"fails more often ({1 - new:.1%} of requests, baseline {1 - old:.1%})")
    if parts:
        return f"The candidate {' and '.join(parts)}."
    return f"No regression of {comparison.min_effect:.0%} or more detected."


def render_markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = [f"**{_escaped(table.title)}**", "", _markdown_row(table.header)]
    lines.append(_markdown_row(["---", *["---:"] * (len(table.header) - 1)]))
    lines += map(_markdown_row, table.rows)
    lines += ["", *(f"- {_escaped(note)}" for note in table.notes), ""]
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    for sign in ("\\", "|", "<", "*", "_", "`", "["):
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
