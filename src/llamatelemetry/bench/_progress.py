"""A progress bar on the terminal, if there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llamatelemetry.bench.records import RequestRecord


@contextmanager
def progress_bar(
    title: str, total: int, *, shown: bool
) -> Generator[Callable[[RequestRecord], None]]:
    """Give what is to be told of each request that has ended."""
    if not shown or not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda _record: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(escape(title), total=total, told="warming up")
        failures = 0

        def advance(record: RequestRecord) -> None:
            nonlocal failures
            failures += not record.ok
            told = f"last {record.e2e_s:.2f} s" + (f", {failures} failed" if failures else "")
            progress.update(task, advance=1, told=told)

        yield advance
