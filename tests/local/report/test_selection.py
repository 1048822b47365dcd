"""The part of a large recording that its page has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.records import SpanRecord
from llamatelemetry.local.report import Recording, render
from llamatelemetry.local.report.parts import MEASURED
from llamatelemetry.local.report.selection import Selection, rest_of, select
from tests.local.many_records import many_spans
from tests.local.report_in_browser import in_browser
from tests.support.example_records import call

LIMITS = "llamatelemetry.local.report.selection"


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_SPANS": 500, "DETAILED_SPANS": 240, "BRIEF_CALLS": 1000}.items():
        monkeypatch.setattr(f"{LIMITS}.{name}", value)


def selected(spans: list[SpanRecord]) -> Selection:
    return select(spans, join_calls(spans))


def test_small_recording_is_complete() -> None:
    spans = many_spans(500)
    found = selected(spans)
    assert (found.spans, found.brief, found.left_out, found.note) == (spans, (), (), "")


def test_large_recording_keeps_errors_and_slowest_calls_and_spreads_the_others() -> None:
    spans = many_spans(4000)
    roots = [at for at, span in enumerate(spans) if span.parent_span_id is None]
    failed, slow = roots[100:102], roots[300]
    for at in failed:
        spans[at] = replace(spans[at], status=2)
    spans[slow] = replace(spans[slow], end_ns=spans[slow].start_ns + 10**12)
    found = selected(spans)
    traces = {span.trace_id for span in found.spans}
    assert {spans[at].trace_id for at in (*failed, slow)} <= traces
    assert len(found.spans) == 240 == 5 * len(traces)
    # The even part reaches from the start to the end of the recording.
    at = [number for number, root in enumerate(roots) if spans[root].trace_id in traces]
    assert min(at) < 30
    assert max(at) > 700
    # Every other call has a row.
    assert len(found.brief) == 800 - len(traces)
    assert {span.trace_id for span in found.brief} | traces == {span.trace_id for span in spans}
    assert "has the spans of 48 of 800 traces" in found.note
    assert "it has all calls, without attributes. `llama" in found.note


def test_calls_beyond_the_limit_are_spread_evenly_and_counted() -> None:
    spans = [call(n, trace=n, **{"gen_ai.usage.output_tokens": n}) for n in range(1, 3001)]
    found = selected(spans)
    kept = [*found.spans, *found.brief]
    assert 230 < len(found.spans) <= 240
    assert 900 < len(found.brief) <= 1000
    assert "one of 3 calls" in found.note
    rest = rest_of(found, spans, MEASURED)
    assert rest["spans"] == rest["calls"] == rest["traces"] == 3000 - len(kept)
    tokens = sum(span.attributes["gen_ai.usage.output_tokens"] for span in kept)
    assert rest["output"] + tokens == sum(range(1, 3001))
    assert sum(rest["parts"].values()) == sum(
        (each.span.end_ns - each.span.start_ns) // 1000 for each in found.left_out
    )


def test_trace_larger_than_the_page_does_not_take_all_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{LIMITS}._SPANS_OF_TRACE", 50)
    large = [call(n, trace=1) for n in range(1, 2001)]
    found = selected([*many_spans(1000), *large])
    sizes = [span.trace_id for span in found.spans].count(f"{1:032x}")
    assert sizes in {0, 50}
    assert len({span.trace_id for span in found.spans}) > 20


def test_single_trace_has_its_first_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{LIMITS}._SPANS_OF_TRACE", 50)
    spans = [call(n, trace=1) for n in range(600, 0, -1)]
    found = selected(spans)
    assert [*found.spans] == [*reversed(spans[-50:])]
    assert len(found.brief) == 550


@pytest.mark.slow
@pytest.mark.needs("chromium")
def test_page_counts_the_whole_recording_and_opens_each_call(tmp_path: Path) -> None:
    said = in_browser(
        tmp_path,
        render(Recording([call(n, trace=n) for n in range(1, 3001)])),
        """
        said.counts = $("counts").textContent;
        said.figures = $("figures").innerText.replace(/\\n+/g, " ");
        said.note = document.querySelector(".top .note").textContent;
        said.shown = $("shown").textContent;
        const brief = spans.find((span) => span.brief);
        openSpan(brief);
        said.details = $("details").innerText;
        said.id = brief.id;
        """,
    )
    assert said["counts"] == "3,000 spans in 3,000 traces"
    assert said["figures"].startswith("3,000 Calls 0 Errors 30,000 Input tokens 15,000 Output")
    assert "p50" not in said["figures"]
    assert said["note"].startswith("This recording is large.")
    assert said["shown"] == "1,160 of 1,160"
    assert f"llamatelemetry why --call {said['id']}" in said["details"]
