"""The table that summarizes the calls of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llamatelemetry.cli._tables import print_summary
from llamatelemetry.local.calls import Summary, summarize
from tests.support.recorded_calls import chat


def printed(summary: Summary, width: int) -> str:
    out = io.StringIO()
    print_summary(Console(file=out, width=width), summary)
    return out.getvalue()


def test_summary_table_hides_unknown_columns_and_fits_width() -> None:
    summary = summarize([chat(number) for number in range(1, 22)])
    wide = printed(summary, 120)
    assert "energy" not in wide
    assert "queue" not in wide
    assert "11 / 20" in wide
    assert "Processes: 2" in wide
    narrow = printed(summary, 60)
    assert "11 / 20" not in narrow
    assert "Model: m" in narrow
    assert all(len(line) <= 60 for line in narrow.splitlines())


@pytest.mark.parametrize("width", [10, 40, 60])
def test_summary_table_cuts_no_number_in_a_narrow_terminal(width: int) -> None:
    phases = {"llamatelemetry.queue_duration": 0.0062, "gen_ai.prefill_ms": 1234.0}
    summary = summarize([chat(number, **phases) for number in range(1, 22)])
    line = next(each for each in printed(summary, width).splitlines() if each.startswith("chat"))
    assert line.split() == ["chat", "21", "0", "210", "231", "6.2", "11", "2.0", "11", "500"]


def test_summary_table_shows_prefill_and_decode_where_they_fit() -> None:
    phases = {"gen_ai.prefill_ms": 40.0, "gen_ai.decode_ms": 300.0}
    summary = summarize([chat(number, **phases) for number in range(1, 22)])
    wide, narrow = printed(summary, 160), printed(summary, 80)
    assert "Prefill" in wide
    assert "40 / 40" in wide
    assert "300 / 300" in wide
    assert "Prefill" not in narrow
    assert "Decode" not in narrow
