"""Terminal tables of `llamatelemetry demo` and `llamatelemetry run`, for any terminal width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from rich import box
from rich.measure import Measurement
from rich.table import Table

from llamatelemetry.cli._text import safe_text
from llamatelemetry.local.recording import MetricTotal
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console

    from llamatelemetry.local.calls import Quantiles, RecordedCall, Summary, SummaryRow

_UNKNOWN = "–"  # noqa: RUF001 - the usual sign in tables; a hyphen would look like a minus
_STREAMING = "»"

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class TableColumn(Generic[Row]):
    """One column of a table. `short` is the header for narrow terminals."""

    header: str
    cell: Callable[[Row], str]
    short: str = ""
    justify: Literal["left", "right"] = "right"
    is_known: Callable[[Row], bool] = lambda _: True


def whole(value: float | None) -> str:
    """Return a value without decimals, or a dash for `None`."""
    return _UNKNOWN if value is None else f"{value:.0f}"


def decimal(value: float | None) -> str:
    """Return a value with one decimal below 10 and none above, or a dash for `None`."""
    if value is None:
        return _UNKNOWN
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def print_calls(console: Console, calls: Sequence[RecordedCall]) -> None:
    """Print one row for each call. In a narrow terminal, model and error follow below the table."""

    def create(layout: tuple[bool, tuple[TableColumn[RecordedCall], ...]], gap: int) -> Table:
        short, omitted = layout
        columns = [column for column in _CALL_COLUMNS if column not in omitted]
        return _table(calls, columns, lambda call: call.error, short=short, gap=gap, numbered=True)

    _, omitted = _print_first_that_fits(console, _CALL_LAYOUTS, create)
    for line in _call_notes(calls, omitted):
        console.print(safe_text(line, "dim"))


def print_summary(console: Console, summary: Summary) -> None:
    """Print one row for each operation and model. Columns without any known value are hidden."""

    def create(layout: tuple[bool, bool, bool, bool], gap: int) -> Table:
        short, phases, model, pairs = layout
        columns = _summary_columns(phases=phases, model=model, pairs=pairs)
        shown = [column for column in columns if any(map(column.is_known, summary.rows))]
        return _table(summary.rows, shown, lambda line: line.errors, short=short, gap=gap)

    _, _, model, pairs = _print_first_that_fits(console, _SUMMARY_LAYOUTS, create)
    for note in _summary_notes(summary, model=model, pairs=pairs):
        console.print(safe_text(note, "dim"), soft_wrap=True)


def print_metrics(console: Console, totals: Iterable[MetricTotal]) -> None:
    """Print one row for each metric. Input and output tokens have a row each."""
    table = _plain_table("Metrics", gap=2)
    table.add_column("Metric", no_wrap=True)
    for header in ("Count", "Mean", "Total"):
        table.add_column(header, justify="right", no_wrap=True)
    for label, total in sorted(_by_label(totals).items()):
        table.add_row(
            safe_text(label),
            whole(total.count),
            safe_text(_quantity(total.mean, total.unit)),
            # A sum of durations of concurrent calls has no meaning.
            "" if total.unit in {"s", "ms"} else safe_text(_quantity(total.total, total.unit)),
        )
    _print_whole(console, table)


def _operation(call: RecordedCall) -> str:
    return f"{call.operation} {_STREAMING}" if call.streamed else call.operation


def _error(call: RecordedCall) -> str:
    if call.error is None:
        return ""
    status = "" if call.http_status is None else str(call.http_status)
    return f"{call.error} ({status})" if status not in {"", call.error} else call.error


_CALL_MODEL: TableColumn[RecordedCall] = TableColumn(
    "Model", lambda call: call.model or _UNKNOWN, justify="left"
)
_CALL_ERROR: TableColumn[RecordedCall] = TableColumn("Error", _error, justify="left")
_CALL_COLUMNS: tuple[TableColumn[RecordedCall], ...] = (
    TableColumn("Operation", _operation, justify="left"),
    _CALL_MODEL,
    TableColumn("Input\ntokens", lambda call: whole(call.input_tokens), "In\ntok"),
    TableColumn("Cached\ntokens", lambda call: whole(call.cached_tokens), "Cached\ntok"),
    TableColumn("Output\ntokens", lambda call: whole(call.output_tokens), "Out\ntok"),
    TableColumn("Queue\n(ms)", lambda call: decimal(call.queue_ms)),
    TableColumn("Prefill\n(ms)", lambda call: decimal(call.prefill_ms)),
    TableColumn("TTFT\n(ms)", lambda call: decimal(call.ttft_ms)),
    TableColumn("TPOT\n(ms)", lambda call: decimal(call.tpot_ms)),
    TableColumn("Duration\n(ms)", lambda call: decimal(call.duration_ms)),
    TableColumn("Output\ntokens/s", lambda call: decimal(call.tokens_per_s), "Out\ntok/s"),
    _CALL_ERROR,
)
# From wide to narrow: short headers, and the columns that follow below the table.
_CALL_LAYOUTS: tuple[tuple[bool, tuple[TableColumn[RecordedCall], ...]], ...] = (
    (False, ()),
    (True, ()),
    (False, (_CALL_MODEL,)),
    (True, (_CALL_MODEL,)),
    (True, (_CALL_MODEL, _CALL_ERROR)),
)


def _call_notes(
    calls: Sequence[RecordedCall], omitted: Sequence[TableColumn[RecordedCall]]
) -> Iterator[str]:
    if any(call.streamed for call in calls):
        yield f"{_STREAMING} streaming   {_UNKNOWN} unknown"
    if _CALL_MODEL in omitted:
        yield "Model: " + ", ".join(sorted({call.model or _UNKNOWN for call in calls}))
    if _CALL_ERROR in omitted:
        for number, call in enumerate(calls, start=1):
            if call.error:
                yield f"Call {number} failed: {_error(call)}"


def _quantiles(quantiles: Quantiles | None, *, pairs: bool) -> str:
    if quantiles is None or quantiles.p95 is None or not pairs:
        return decimal(None if quantiles is None else quantiles.p50)
    return f"{decimal(quantiles.p50)} / {decimal(quantiles.p95)}"


def _times(
    header: str, of: Callable[[SummaryRow], Quantiles | None], *, pairs: bool
) -> TableColumn[SummaryRow]:
    return TableColumn(
        f"{header}\n(ms)",
        lambda line: _quantiles(of(line), pairs=pairs),
        is_known=lambda line: of(line) is not None,
    )


def _summary_columns(*, phases: bool, model: bool, pairs: bool) -> list[TableColumn[SummaryRow]]:
    return [
        TableColumn("Operation", lambda line: line.operation, justify="left"),
        *([_SUMMARY_MODEL] if model else []),
        TableColumn("Calls", lambda line: str(line.calls)),
        TableColumn("Errors", lambda line: str(line.errors)),
        TableColumn("Input\ntokens", lambda line: whole(line.input_tokens), "In\ntok"),
        TableColumn("Output\ntokens", lambda line: whole(line.output_tokens), "Out\ntok"),
        _times("Queue", lambda line: line.queue_ms, pairs=pairs),
        *(_phase_columns(pairs=pairs) if phases else []),
        _times("TTFT", lambda line: line.ttft_ms, pairs=pairs),
        _times("TPOT", lambda line: line.tpot_ms, pairs=pairs),
        _times("Duration", lambda line: line.duration_ms, pairs=pairs),
        TableColumn(
            "Output\ntokens/s",
            lambda line: _quantiles(line.tokens_per_s, pairs=False),
            "Out\ntok/s",
            is_known=lambda line: line.tokens_per_s is not None,
        ),
        TableColumn(
            "Energy\n(J)",
            lambda line: decimal(line.energy_j),
            is_known=lambda line: line.energy_j is not None,
        ),
    ]


def _phase_columns(*, pairs: bool) -> list[TableColumn[SummaryRow]]:
    return [
        _times("Prefill", lambda line: line.prefill_ms, pairs=pairs),
        _times("Decode", lambda line: line.decode_ms, pairs=pairs),
    ]


def _model_of(line: SummaryRow) -> str:
    return line.model or _UNKNOWN


_SUMMARY_MODEL: TableColumn[SummaryRow] = TableColumn("Model", _model_of, justify="left")

# From wide to narrow: short headers, columns for prefill and decode, a column for the model, p95
# beside p50.
_SUMMARY_LAYOUTS = (
    (False, True, True, True),
    (True, True, True, True),
    (False, False, True, True),
    (True, False, True, True),
    (True, False, False, True),
    (True, False, False, False),
)


def _summary_notes(summary: Summary, *, model: bool, pairs: bool) -> Iterator[str]:
    yield "Times: p50 / p95 (p95 from 20 calls)" if pairs else "Times: p50"
    if not model:
        named = [_model_of(line) for line in summary.rows]
        one = len(set(named)) == 1
        yield f"Model: {named[0]}" if one else f"Models by row: {', '.join(named)}"
    if summary.errors:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in summary.errors.most_common())
        yield f"Errors: {kinds}"
    if summary.processes > 1:
        yield f"Processes: {summary.processes}"
    if summary.gpu_utilization is not None:
        yield f"GPU utilization: {summary.gpu_utilization:.0%} on average"


def _by_label(totals: Iterable[MetricTotal]) -> dict[str, MetricTotal]:
    labelled: dict[str, MetricTotal] = {}
    for total in totals:
        token_type = total.attributes.get(names.GEN_AI_TOKEN_TYPE)
        label = f"{total.name}, {token_type}" if token_type else total.name
        before = labelled.get(label)
        labelled[label] = total if before is None else before + total
    return labelled


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return _UNKNOWN
    if unit == "s":
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    number = f"{value:.0f}" if value == round(value) else f"{value:.1f}"
    return f"{number} {'tokens' if unit == '{token}' else unit}".rstrip()


Layout = TypeVar("Layout")


def _print_first_that_fits(
    console: Console, layouts: Iterable[Layout], create: Callable[[Layout, int], Table]
) -> Layout:
    """Print the first table that fits the terminal, else the last one, and return its layout."""
    candidates = [(layout, create(layout, gap)) for layout in layouts for gap in (2, 1)]
    fitting = (each for each in candidates if _width_of(each[1], console) <= console.width)
    layout, table = next(fitting, candidates[-1])
    _print_whole(console, table)
    return layout


def _print_whole(console: Console, table: Table) -> None:
    """Print a table. A terminal that is too narrow wraps its lines; rich would cut the numbers."""
    width = _width_of(table, console)
    table.width = width if width > console.width else None
    console.print()
    console.print(table, crop=False)


def _width_of(table: Table, console: Console) -> int:
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _table(
    rows: Sequence[Row],
    columns: Sequence[TableColumn[Row]],
    failed: Callable[[Row], object],
    *,
    short: bool,
    gap: int,
    numbered: bool = False,
) -> Table:
    table = _plain_table("Calls", gap)
    if numbered:
        table.add_column("#", justify="right", style="dim")
    for column in columns:
        header = (column.short or column.header) if short else column.header
        table.add_column(header, justify=column.justify, no_wrap=True)
    for number, row in enumerate(rows, start=1):
        cells = [safe_text(column.cell(row)) for column in columns]
        index = [str(number)] if numbered else []
        table.add_row(*index, *cells, style="red" if failed(row) else None)
    return table


def _plain_table(title: str, gap: int) -> Table:
    """Return an empty table with a line below its header and `gap` spaces between its columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, gap - 1),  # the box adds one space between the columns
    )
