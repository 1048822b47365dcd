"""The table at the end of ``llamatelemetry run``: one line for each operation and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from llamatelemetry.cli._table import decimal, natural_width, plain_table, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.table import Table

    from llamatelemetry.local.calls import Quantiles, Summary, SummaryLine


@dataclass(frozen=True, slots=True)
class _Column:
    header: str
    cell: Callable[[SummaryLine], str]
    is_known: Callable[[SummaryLine], bool] = lambda _: True
    justify: Literal["left", "right"] = "right"


def _pair(quantiles: Quantiles | None) -> str:
    if quantiles is None or quantiles.p95 is None:
        return _median(quantiles)
    return f"{decimal(quantiles.p50)} / {decimal(quantiles.p95)}"


def _median(quantiles: Quantiles | None) -> str:
    return decimal(None if quantiles is None else quantiles.p50)


def _times(header: str, of: Callable[[SummaryLine], Quantiles | None], *, pairs: bool) -> _Column:
    show = _pair if pairs else _median
    return _Column(f"{header}\nms", lambda line: show(of(line)), lambda line: of(line) is not None)


_MODEL = _Column("model", lambda line: line.model or whole(None), justify="left")


def _columns(*, model: bool, pairs: bool) -> list[_Column]:
    return [
        _Column("operation", lambda line: line.operation, justify="left"),
        *([_MODEL] if model else []),
        _Column("calls", lambda line: str(line.calls)),
        _Column("errors", lambda line: str(line.errors)),
        _Column("in\ntok", lambda line: whole(line.input_tokens)),
        _Column("out\ntok", lambda line: whole(line.output_tokens)),
        _times("queue", lambda line: line.queue_ms, pairs=pairs),
        _times("1st tok", lambda line: line.ttft_ms, pairs=pairs),
        _times("per tok", lambda line: line.tpot_ms, pairs=pairs),
        _times("total", lambda line: line.duration_ms, pairs=pairs),
        _Column(
            "tok/s",
            lambda line: _median(line.tokens_per_s),
            lambda line: line.tokens_per_s is not None,
        ),
        _Column(
            "energy\nJ",
            lambda line: decimal(line.energy_j),
            lambda line: line.energy_j is not None,
        ),
    ]


# What a narrow terminal has no room for is left out, and models are named by the line above.
_LAYOUTS = ((True, True), (False, True), (False, False))


def print_summary(console: Console, summary: Summary) -> None:
    """Print the calls, times as median / 95th percentile; columns that nobody knows are left out."""
    if not summary.lines:
        console.print(Text(_nothing(summary), "yellow"), soft_wrap=True)
        return
    tables = [
        (model, pairs, _table(summary, model=model, pairs=pairs, gap=gap))
        for model, pairs in _LAYOUTS
        for gap in (2, 1)
    ]
    model, pairs, table = next(
        (each for each in tables if natural_width(console, each[2]) <= console.width), tables[-1]
    )
    console.print()
    console.print(table)
    for note in _notes(summary, model=model, pairs=pairs):
        console.print(Text(note, "dim"), soft_wrap=True)


def _table(summary: Summary, *, model: bool, pairs: bool, gap: int) -> Table:
    table = plain_table("Calls", gap)
    columns = _columns(model=model, pairs=pairs)
    shown = [column for column in columns if any(map(column.is_known, summary.lines))]
    for column in shown:
        table.add_column(column.header, justify=column.justify, no_wrap=True)
    for line in summary.lines:
        cells = (Text(column.cell(line)) for column in shown)
        table.add_row(*cells, style="red" if line.errors else None)
    return table


def _nothing(summary: Summary) -> str:
    if summary.spans:
        return f"No call to a model was seen, among {summary.spans} spans."
    return (
        "Nothing was received. `llamatelemetry doctor`, run by the same Python as the command, "
        "says what would load."
    )


def _notes(summary: Summary, *, model: bool, pairs: bool) -> Iterator[str]:
    yield "times: median / 95th percentile, from 20 calls on" if pairs else "times: median"
    if not model:
        named = [line.model or whole(None) for line in summary.lines]
        one = len(set(named)) == 1
        yield f"model: {named[0]}" if one else f"models, line by line: {', '.join(named)}"
    if summary.errors:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in summary.errors.most_common())
        yield f"errors: {kinds}"
    if summary.processes > 1:
        yield f"from {summary.processes} processes"
    if summary.gpu_utilization is not None:
        yield f"GPU load: {summary.gpu_utilization:.0%} on average"
