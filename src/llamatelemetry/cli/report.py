"""`llamatelemetry report`: write the HTML report of recorded telemetry."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from llamatelemetry.cli._text import print_line, safe_text
from llamatelemetry.local.recording import latest_run
from llamatelemetry.local.report import page_beside, read_recorded, write_report
from llamatelemetry.local.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def report_command(source: Path | None, output: Path | None) -> int:
    """Write the HTML report of recorded telemetry. Return the exit status: 0, or 1 on an error.

    Without a source it is the latest run.
    """
    console = Console(stderr=True, highlight=False)
    try:
        source = source or latest_run()
        page = output or page_beside(source)
        with _without_garbage_collection():
            recorded = read_recorded(source)
            folder = source if source.is_dir() else source.parent
            if page.name in recorded.sources and page.parent.resolve() == folder.resolve():
                raise ValueError(f"{page} is a recording. Give the page another name")
            write_report(recorded, page)
    except (OSError, ImportError, StoreError, ValueError) as error:
        print_line(console, f"error: {error}", "red")
        return 1
    Console(highlight=False).print(safe_text(str(page)), soft_wrap=True)
    return 0


@contextmanager
def _without_garbage_collection() -> Generator[None]:
    """Save a quarter of the time: each collection visits all records, which have no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
