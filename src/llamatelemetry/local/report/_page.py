"""Fills the template: everything the page needs is in it, and nothing of it is run from data."""

from __future__ import annotations

import base64
import gzip
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamatelemetry._html_page import fill_page
from llamatelemetry.local.report._columns import columns, compact
from llamatelemetry.local.summary import summarise

if TYPE_CHECKING:
    from llamatelemetry.local.report._sources import Recorded
    from llamatelemetry.local.summary import Quantiles, Summary

_UNKNOWN = "\N{EN DASH}"


def write_report(recorded: Recorded, path: Path) -> None:
    """Write the page of what was recorded; a page that was there is replaced as a whole.

    Raises:
        ImportError: Jinja2 is not installed.
        OSError: it cannot be written.
    """
    page = render(recorded)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def render(recorded: Recorded, *, live: bool = False, following: str = "") -> str:
    """Give the page.

    Args:
        recorded: what it shows.
        live: whether it asks for more, at ``data`` beside it.
        following: what it then says it has.

    Raises:
        ImportError: Jinja2 is not installed.
    """
    summary = summarise(recorded.spans, recorded.points)
    found = columns(recorded.spans, recorded.points, recorded.logs)
    data = compact({**found, "next": following})
    return fill_page(
        "llamatelemetry.local.report",
        "report.html",
        feature="An HTML report",
        data=base64.b64encode(gzip.compress(data.encode(), 6)).decode(),
        summary={"lines": summary_lines(summary), "errors": summary.errors.most_common()},
        sources=", ".join(recorded.sources),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        live=live,
    )


def summary_lines(summary: Summary) -> list[dict[str, Any]]:
    """Give the lines of the table of calls, as text where a number may be unknown."""
    return [
        {
            "operation": line.operation,
            "model": line.model or _UNKNOWN,
            "calls": line.calls,
            "errors": line.errors,
            "input_tokens": _whole(line.input_tokens),
            "output_tokens": _whole(line.output_tokens),
            "queue": _quantiles(line.queue_ms),
            "ttft": _quantiles(line.ttft_ms),
            "tpot": _quantiles(line.tpot_ms),
            "total": _quantiles(line.duration_ms),
            "rate": _number(line.tokens_per_s.p50 if line.tokens_per_s else None),
            "energy": _number(line.energy_j),
        }
        for line in summary.lines
    ]


def _quantiles(quantiles: Quantiles | None) -> str:
    if quantiles is None or quantiles.p95 is None:
        return _number(None if quantiles is None else quantiles.p50)
    return f"{_number(quantiles.p50)} / {_number(quantiles.p95)}"


def _whole(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _number(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
