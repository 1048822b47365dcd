"""Tables and the progress bar on a terminal, with Rich."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from llamatelemetry._optional import required_by
from llamatelemetry._terminal import printable

if TYPE_CHECKING:
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.report.tables import Table


def render_text(table: Table) -> str:
    """Return a table as plain text, or raise `MissingPackageError` if Rich is not installed."""
    with required_by("A table of a benchmark", "llamatelemetry-core[cli]"):
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

    rich_table = RichTable(
        title=Text(printable(table.title, lines=False), "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, header in enumerate(table.header):
        justify = "left" if index == 0 else "right"
        rich_table.add_column(header, justify=justify, no_wrap=True)
    for row in table.rows:
        rich_table.add_row(*(Text(printable(cell, lines=False)) for cell in row))
    console = Console(width=200, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(rich_table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    notes = [printable(note, lines=False) for note in table.notes]
    return "\n".join([*lines, "", *notes])


@contextmanager
def progress_bar(
    title: str, total: int, *, shown: bool
) -> Generator[Callable[[RequestRecord], None]]:
    """Show a progress bar if stderr is a terminal and Rich is installed.

    Yields the function to call with each finished request.
    """
    if not shown or not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda _record: None
        return
    from rich import progress
    from rich.console import Console
    from rich.markup import escape

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[status]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(title, lines=False)), total=total, status="warming up")
        failures = 0

        def advance(record: RequestRecord) -> None:
            nonlocal failures
            failures += not record.ok
            status = f"last {record.e2e_s:.2f} s" + (f", {failures} failed" if failures else "")
            bar.update(task, advance=1, status=status)

        yield advance
