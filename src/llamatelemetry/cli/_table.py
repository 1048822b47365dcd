"""The tables of ``llamatelemetry demo``: calls and metric totals, for narrow and wide terminals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from llamatelemetry.local.recording import MetricTotal
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console

    from llamatelemetry.local.calls import RecordedCall

_UNKNOWN = "–"  # noqa: RUF001 - the usual sign in tables; a hyphen would look like a minus
_STREAMED = "»"


@dataclass(frozen=True, slots=True)
class _Column:
    header: str
    cell: Callable[[RecordedCall], str]
    justify: Literal["left", "right"] = "right"


def whole(value: float | None) -> str:
    """A whole number, a dash for what is not known."""
    return _UNKNOWN if value is None else f"{value:.0f}"


def decimal(value: float | None) -> str:
    """One decimal below ten, where it matters."""
    if value is None:
        return _UNKNOWN
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _operation(call: RecordedCall) -> str:
    return f"{call.operation} {_STREAMED}" if call.streamed else call.operation


def _error(call: RecordedCall) -> str:
    if call.error is None:
        return ""
    status = "" if call.http_status is None else str(call.http_status)
    return f"{call.error} ({status})" if status not in {"", call.error} else call.error


_MODEL = _Column("model", lambda call: call.model or _UNKNOWN, "left")
_ERROR = _Column("error", _error, "left")
_COLUMNS = (
    _Column("operation", _operation, "left"),
    _MODEL,
    _Column("in\ntok", lambda call: whole(call.input_tokens)),
    _Column("cached\ntok", lambda call: whole(call.cached_tokens)),
    _Column("out\ntok", lambda call: whole(call.output_tokens)),
    _Column("queue\nms", lambda call: decimal(call.queue_ms)),
    _Column("prefill\nms", lambda call: decimal(call.prefill_ms)),
    _Column("1st tok\nms", lambda call: decimal(call.ttft_ms)),
    _Column("per tok\nms", lambda call: decimal(call.tpot_ms)),
    _Column("tok/s", lambda call: decimal(call.tokens_per_s)),
    _Column("total\nms", lambda call: decimal(call.duration_ms)),
    _ERROR,
)

# What a narrow terminal has no room for follows under the table instead.
_LAYOUTS: tuple[tuple[_Column, ...], ...] = ((), (_MODEL,), (_MODEL, _ERROR))


def print_calls(console: Console, calls: Sequence[RecordedCall]) -> None:
    """Print one line for each call, with as many columns as the terminal has room for."""
    below, gap = next(
        (
            (below, gap)
            for below in _LAYOUTS
            for gap in (2, 1)
            if natural_width(console, _calls_table(calls, below, gap)) <= console.width
        ),
        (_LAYOUTS[-1], 1),
    )
    console.print()
    console.print(_calls_table(calls, below, gap))
    for line in _notes(calls, below):
        console.print(Text(line, "dim"))


def _calls_table(calls: Sequence[RecordedCall], below: Sequence[_Column], gap: int) -> Table:
    columns = [column for column in _COLUMNS if column not in below]
    table = plain_table("Calls", gap)
    table.add_column("#", justify="right", style="dim")
    for column in columns:
        table.add_column(column.header, justify=column.justify, no_wrap=True)
    for number, call in enumerate(calls, start=1):
        cells = (Text(column.cell(call)) for column in columns)
        table.add_row(str(number), *cells, style="red" if call.error else None)
    return table


def _notes(calls: Sequence[RecordedCall], below: Sequence[_Column]) -> Iterator[str]:
    if any(call.streamed for call in calls):
        yield f"{_STREAMED} streamed   {_UNKNOWN} not known"
    if _MODEL in below:
        yield "model: " + ", ".join(sorted({call.model or _UNKNOWN for call in calls}))
    if _ERROR in below:
        for number, call in enumerate(calls, start=1):
            if call.error:
                yield f"call {number} failed: {_error(call)}"


def print_metrics(console: Console, totals: Iterable[MetricTotal]) -> None:
    """Print one line for each metric, tokens apart for input and output."""
    table = plain_table("Metrics", gap=2)
    table.add_column("metric", no_wrap=True)
    for header in ("count", "mean", "total"):
        table.add_column(header, justify="right", no_wrap=True)
    for label, total in sorted(_by_label(totals).items()):
        table.add_row(
            label,
            whole(total.count),
            _quantity(total.mean, total.unit),
            # Seconds of several calls, some at once, add up to nothing that anybody waited.
            "" if total.unit == "s" else _quantity(total.total, total.unit),
        )
    console.print()
    console.print(table)


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


def natural_width(console: Console, table: Table) -> int:
    """How many columns of a terminal a table takes when nothing of it is cut."""
    unbounded = console.options.update(max_width=10_000)
    return Measurement.get(console, unbounded, table).maximum


def plain_table(title: str, gap: int) -> Table:
    """An empty table with a line under its header and ``gap`` blanks between its columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, gap - 1),  # the box has a blank of its own between the columns
    )
