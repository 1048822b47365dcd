"""The report as one self-contained HTML page. Recorded data never becomes markup or code."""

from __future__ import annotations

import base64
import gzip
import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Any

from llamatelemetry._html_page import fill_page
from llamatelemetry._private_files import make_private_directory, write_private_text
from llamatelemetry.local.calls import summarize
from llamatelemetry.local.report.columns import columns, compact
from llamatelemetry.local.report.parts import MEASURED, explained_times

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from llamatelemetry.local.calls import Quantiles, Summary
    from llamatelemetry.local.recording import Recording
    from llamatelemetry.local.records import Run

_UNKNOWN = "\N{EN DASH}"
_COLUMNS = (
    *("Operation", "Model", "Calls", "Errors", "Input tokens", "Output tokens", "Queue (ms)"),
    *("TTFT (ms)", "TPOT (ms)", "Duration (ms)", "Output tokens/s", "Energy (J)"),
)


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
    summary = summarize(recorded.spans, recorded.points)
    # An explanation needs all calls, so the live page shows what was measured.
    times = MEASURED if live else explained_times(recorded)
    found = columns(recorded.spans, recorded.points, recorded.logs, times)
    data = compact(
        {**found, "titles": times.titles, "summary": summary_table(summary), "next": position}
    )
    return fill_page(
        "llamatelemetry.local.report",
        "report.html",
        feature="An HTML report",
        data=base64.b64encode(gzip.compress(data.encode(errors="replace"), 9)).decode(),
        title=_title(recorded.runs),
        facts=[*_facts(recorded.runs), *([", ".join(recorded.sources)] if recorded.sources else [])],
        spans=len(recorded.spans),
        notes=times.notes,
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


def summary_table(summary: Summary) -> dict[str, Any]:
    """Return the table of calls: `columns` and `rows`."""
    return {"columns": _COLUMNS, "rows": _summary_rows(summary)}


def _summary_rows(summary: Summary) -> list[list[Any]]:
    return [
        [
            row.operation,
            row.model or _UNKNOWN,
            row.calls,
            row.errors,
            _whole(row.input_tokens),
            _whole(row.output_tokens),
            *map(_quantiles, (row.queue_ms, row.ttft_ms, row.tpot_ms, row.duration_ms)),
            _number(row.tokens_per_s.p50 if row.tokens_per_s else None),
            _number(row.energy_j),
        ]
        for row in summary.rows
    ]


def _quantiles(quantiles: Quantiles | None) -> str:
    if quantiles is None or quantiles.p95 is None:
        return _number(None if quantiles is None else quantiles.p50)
    return f"{_number(quantiles.p50)} / {_number(quantiles.p95)}"


def _whole(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
