"""The tables of results and comparisons: built once, shown as text, Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llamatelemetry._optional import required_by
from llamatelemetry.bench._statistics import missing_intervals
from llamatelemetry.bench.figures import METRIC_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.bench._statistics import Estimate
    from llamatelemetry.bench.comparison import Comparison, MetricComparison
    from llamatelemetry.bench.figures import Figure, Totals
    from llamatelemetry.bench.results import BenchmarkResults
    from llamatelemetry.bench.sweep import SweepResults

UNKNOWN: Final = "–"  # noqa: RUF001 - the usual sign in tables
UNSUPPORTED: Final = "?"
_INTERVAL: Final = "95 % of p50"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are shown; the first column is text, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def results_table(results: BenchmarkResults) -> Table:
    """The figures of a benchmark, times in milliseconds."""
    rows = [_row(figure) for figure in results.figures.values()]
    flagged = any(UNSUPPORTED in cell for row in rows for cell in row)
    notes = [*total_lines(results.totals)]
    if flagged:
        notes.append(f"{UNSUPPORTED} too few requests for this quantile to mean much")
    missing = missing_intervals()
    if missing:
        notes.append(missing)
    notes += [f"warning: {warning}" for warning in results.warnings]
    header = ("", "n", "mean", "p50", _INTERVAL, "p90", "p95", "p99")
    shown = [at for at, name in enumerate(header) if name != _INTERVAL or not missing]
    return Table(
        title=f"{results.model}: {results.load_text}, times in ms",
        header=tuple(header[at] for at in shown),
        rows=tuple(tuple(row[at] for at in shown) for row in rows),
        notes=tuple(notes),
    )


def _row(figure: Figure) -> tuple[str, ...]:
    scale = 1000.0 if figure.metric.unit == "s" else 1.0
    title = figure.metric.title
    if figure.metric.unit != "s":
        title += f" ({figure.metric.unit})"
    median = figure.quantiles[0.5]
    return (
        title,
        str(figure.count),
        number(figure.mean.value * scale),
        number(median.value * scale),
        interval(median, scale),
        *(_quantile(figure.quantiles[q], scale) for q in (0.9, 0.95, 0.99)),
    )


def _quantile(estimate: Estimate, scale: float) -> str:
    return number(estimate.value * scale) + ("" if estimate.supported else UNSUPPORTED)


def interval(estimate: Estimate, scale: float = 1.0) -> str:
    """Show an interval; an end that is not known is left open."""
    if estimate.low is None and estimate.high is None:
        return UNKNOWN
    low = "" if estimate.low is None else number(estimate.low * scale)
    high = "" if estimate.high is None else number(estimate.high * scale)
    return f"{low} to {high}".strip()


def number(value: float) -> str:
    """Show a figure with three or four digits that count."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or value == 0 else f"{value:.2g}"


def total_lines(totals: Totals) -> list[str]:
    """Throughput, failures, goodput and energy in a few lines."""
    parts = [f"{totals.requests} requests in {totals.duration_s:.1f} s"]
    parts.append(f"{number(totals.request_rate)} requests/s")
    if totals.output_rate is not None:
        parts.append(f"{number(totals.output_rate)} output tokens/s")
    if totals.input_rate is not None:
        parts.append(f"{number(totals.input_rate)} input tokens/s")
    lines = [", ".join(parts)]
    if totals.failures and totals.success is not None:
        kinds = ", ".join(f"{kind} {count}" for kind, count in totals.failures.items())
        lines.append(f"success {_share(totals.success)}; failures: {kinds}")
    if totals.goodput is not None and totals.goodput_rate is not None:
        lines.append(
            f"within objectives {_share(totals.goodput)}: {number(totals.goodput_rate)} requests/s"
        )
    if totals.energy_per_token_j is not None:
        lines.append(f"GPU energy {number(totals.energy_per_token_j)} J per output token")
    if totals.energy_above_idle_per_token_j is not None:
        lines[-1] += f", {number(totals.energy_above_idle_per_token_j)} J above idle"
    return lines


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({interval(estimate, 100)} %)"


def sweep_table(sweep: SweepResults) -> Table:
    """Throughput and latency at each load of a sweep."""
    rows: list[tuple[str, ...]] = []
    for point in sweep.points:
        totals = point.results.totals
        rate = totals.output_rate
        success = totals.success
        rows.append(
            (
                f"{point.level:g}" + (" ← knee" if point.level == sweep.knee else ""),
                number(totals.request_rate),
                UNKNOWN if rate is None else number(rate),
                *(_milliseconds(point.latency_s(name, q)) for name, q in _SWEPT),
                UNKNOWN if success is None else f"{success.value:.1%}",
            )
        )
    knee = "none up to the heaviest load" if sweep.knee is None else f"{sweep.knee:g}"
    warnings = dict.fromkeys(w for point in sweep.points for w in point.results.warnings)
    header = [f"{METRIC_BY_NAME[name].title} p{q * 100:g}" for name, q in _SWEPT]
    return Table(
        title=f"Load: {sweep.parameter}, times in ms",
        header=(sweep.parameter, "requests/s", "tokens/s", *header, "success"),
        rows=tuple(rows),
        notes=(f"knee: {knee}", *(f"warning: {warning}" for warning in warnings)),
    )


_SWEPT: Final = (("ttft", 0.5), ("ttft", 0.95), ("tpot", 0.5), ("e2e", 0.5), ("e2e", 0.95))


def _milliseconds(value_s: float | None) -> str:
    return UNKNOWN if value_s is None else number(value_s * 1000)


def comparison_table(comparison: Comparison) -> Table:
    """Two benchmarks beside each other, medians in milliseconds."""
    notes = [_conclusion(comparison)]
    if comparison.differences:
        told = (f"{name} {old} → {new}" for name, (old, new) in comparison.differences.items())
        notes.append("differs by intent: " + "; ".join(told))
    if not all(metric.by_runs for metric in comparison.metrics):
        notes.append(
            "One run was compared with one: what changed on the machine between them counts as a "
            "difference, too. Repeated runs (repeats=3 or more) tell the two apart."
        )
    if all(metric.paired for metric in comparison.metrics):
        notes.append("Measured in turns: each run was compared with the one beside it.")
    return Table(
        title="Candidate against baseline, medians in ms",
        header=("", "baseline", "candidate", "ratio", "95 %", "p", "detectable", "verdict"),
        rows=tuple(_compared(metric) for metric in comparison.metrics),
        notes=tuple(notes),
    )


def _compared(metric: MetricComparison) -> tuple[str, ...]:
    scale = 1000.0 if METRIC_BY_NAME[metric.name].unit == "s" else 1.0
    return (
        METRIC_BY_NAME[metric.name].title,
        number(metric.baseline * scale),
        number(metric.candidate * scale),
        f"{metric.ratio.value:.3f}",
        interval(metric.ratio),
        f"{metric.p_adjusted:.3f}" if metric.p_adjusted >= 0.001 else "<0.001",
        UNKNOWN if metric.detectable is None else f"{metric.detectable:.0%}",
        metric.verdict,
    )


def _conclusion(comparison: Comparison) -> str:
    slower = [metric.name for metric in comparison.metrics if metric.verdict == "slower"]
    parts = [f"slower in {', '.join(slower)}"] if slower else []
    if comparison.fails_more:
        old, new = comparison.success
        parts.append(f"fails more often ({1 - new:.1%} of requests, {1 - old:.1%} before)")
    if parts:
        return (
            f"The candidate is {' and '.join(parts)}." if slower else f"The candidate {parts[0]}."
        )
    return f"The candidate is not shown to be worse by {comparison.min_effect:.0%} or more."


def render_text(table: Table, width: int | None = None) -> str:
    """Show a table as text, for a terminal or a log."""
    with required_by("A table of a benchmark", "llamatelemetry-core[cli]"):
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

    shown = RichTable(
        title=Text(table.title, "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, header in enumerate(table.header):
        shown.add_column(header, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console = Console(width=width or 200, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(shown)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, "", *table.notes])


def render_markdown(table: Table) -> str:
    """Show a table as Markdown."""
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
