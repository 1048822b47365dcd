"""The report as one self-contained HTML page. Recorded data never becomes markup or code."""

from __future__ import annotations

import base64
import gzip
import shlex
from datetime import datetime
from typing import TYPE_CHECKING

from llamatelemetry._html_page import fill_page
from llamatelemetry._private_files import make_private_directory, write_private_text
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.report.columns import columns, compact
from llamatelemetry.local.report.parts import MEASURED, explained_times
from llamatelemetry.local.report.selection import rest_of, select
from llamatelemetry.local.summary_table import summary_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from llamatelemetry.local.recording import Recording
    from llamatelemetry.local.records import Run


def page_beside(recording: Path) -> Path:
    """Return the path of the page of a file, next to it, or of a directory, in it."""
    if recording.is_dir():
        return recording / "report.html"
    page = recording.with_suffix(".html")
    return recording.with_name(f"{recording.name}.html") if page == recording else page


def write_report(recorded: Recording, path: Path) -> None:
    """Write the page of a recording, readable only by this user. Replace an existing file atomically.

    Raises:
        ImportError: Jinja2 is not installed.
        OSError: The file cannot be written.
    """
    page = render(recorded)
    make_private_directory(path.parent)
    write_private_text(path, page)


def render(recorded: Recording, *, live: bool = False, position: str = "") -> str:
    """Return the page of a recording as HTML.

    A `live` page polls `data`, relative to its own URL, for records after a position.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    calls = join_calls(recorded.spans)
    summary = summarize(recorded.spans, recorded.points, calls=calls)
    part = select(recorded.spans, calls)
    detailed = {span.span_id for span in part.spans}
    # An explanation needs all calls, so the live page shows what was measured.
    times = MEASURED if live else explained_times(recorded, calls, detailed)
    found = columns(
        part.spans, recorded.points, recorded.logs, calls=calls, times=times, brief=part.brief
    )
    more = {
        "titles": times.titles,
        "summary": summary_table(summary),
        "rest": rest_of(part, recorded.spans, times),
        "next": position,
    }
    data = compact({**found, **more})
    return fill_page(
        "llamatelemetry.local.report",
        "report.html",
        feature="An HTML report",
        data=base64.b64encode(gzip.compress(data.encode(errors="replace"), 9)).decode(),
        title=_title(recorded.runs),
        facts=[
            *_facts(recorded.runs),
            *([", ".join(recorded.sources)] if recorded.sources else []),
        ],
        spans=len(recorded.spans),
        notes=times.notes,
        left_out=part.note,
        errors=summary.errors.most_common(),
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        live=live,
    )


def _title(runs: Sequence[Run]) -> str:
    if not runs:
        return "Recorded telemetry"
    return shlex.join(runs[-1].command) + (f" and {len(runs) - 1} runs before" * (len(runs) > 1))


def _facts(runs: Sequence[Run]) -> Iterator[str]:
    """Yield when the newest command ran, for how long, and its exit status."""
    for run in runs[-1:]:
        started = datetime.fromtimestamp(run.started_ns / 1e9).astimezone()
        yield started.strftime("%Y-%m-%d %H:%M:%S %Z")
        if run.ended_ns is not None:
            yield f"ran for {(run.ended_ns - run.started_ns) / 1e9:.1f} s"
        if run.exit_status is not None:
            yield f"exit status {run.exit_status}"
