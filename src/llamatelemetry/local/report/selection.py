"""The part of a large recording that fits on a page which still opens fast in a browser."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llamatelemetry.local.calls import recorded_call
from llamatelemetry.local.report.parts import measured_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.records import SpanRecord
    from llamatelemetry.local.report.parts import CallTimes

MAX_SPANS: Final = 100_000
"""Spans of the largest recording that the page has completely."""
DETAILED_SPANS: Final = 48_000
"""Spans that the page has of a larger recording."""
BRIEF_CALLS: Final = 200_000
"""Calls without their details that the page has of a larger recording."""
# One large trace would leave no room for others.
_SPANS_OF_TRACE: Final = 4_000


class Selection(NamedTuple):
    """The part of a recording that its page has.

    Attributes:
        spans: Spans with all their details.
        brief: Spans of further calls. The page has only their figures.
        left_out: Calls that the page does not have.
        note: Sentences about what is left out; empty if nothing is.
    """

    spans: Sequence[SpanRecord]
    brief: Sequence[SpanRecord] = ()
    left_out: Sequence[JoinedCall] = ()
    note: str = ""


def select(spans: Sequence[SpanRecord], calls: Sequence[JoinedCall]) -> Selection:
    """Return the part of a recording that its page has: everything, up to 100,000 spans.

    Of a larger recording the page has some whole traces, and the figures of all calls. One third of
    the traces are those with errors, one third those with the slowest calls, and the others are
    spread evenly. Above 200,000 calls, those without their trace are spread evenly, too.
    """
    if len(spans) <= MAX_SPANS:
        return Selection(spans)
    traces = _by_trace(spans)
    chosen = _choose(traces, calls)
    # In the order of the recording.
    kept = [
        span
        for trace, group in traces.items()
        if trace in chosen
        for span in sorted(group, key=_start)[:_SPANS_OF_TRACE]
    ]
    detailed = {(span.trace_id, span.span_id) for span in kept}
    others = [call for call in calls if (call.span.trace_id, call.span.span_id) not in detailed]
    step = max(1, math.ceil(len(others) / BRIEF_CALLS))
    brief = [call.span for call in others[::step]]
    left_out = [call for at, call in enumerate(others) if at % step]
    return Selection(kept, brief, left_out, _note(len(chosen), len(traces), step))


def _note(chosen: int, traces: int, step: int) -> str:
    which = "all calls" if step == 1 else f"one of {step} calls"
    counted = "" if step == 1 else " The figures and the table count all calls, the charts do not."
    return (
        f"This recording is large. The page has the spans of {chosen:,} of {traces:,} traces: those "
        "with errors and with the slowest calls, as far as there is room, and an even selection. "
        f"Of the other traces it has {which}, without attributes.{counted} "
        "`llamatelemetry why --call ID` explains any call."
    )


def _by_trace(spans: Sequence[SpanRecord]) -> dict[str, list[SpanRecord]]:
    traces: defaultdict[str, list[SpanRecord]] = defaultdict(list)
    for span in spans:
        traces[span.trace_id].append(span)
    return traces


def _choose(traces: Mapping[str, Sequence[SpanRecord]], calls: Sequence[JoinedCall]) -> set[str]:
    slowest: defaultdict[str, float] = defaultdict(float)
    for call in calls:
        trace = call.span.trace_id
        slowest[trace] = max(slowest[trace], call.duration_ms)
    by_duration = sorted(traces, key=lambda trace: -slowest[trace])
    failed = (trace for trace in by_duration if any(span.failed for span in traces[trace]))
    chosen: set[str] = set()
    room = DETAILED_SPANS
    room -= _fill(chosen, traces, failed, DETAILED_SPANS // 3)
    room -= _fill(chosen, traces, by_duration, room - DETAILED_SPANS // 3)
    others = [trace for trace in traces if trace not in chosen]
    step = max(1, math.ceil(sum(_size(traces[trace]) for trace in others) / room))
    _fill(chosen, traces, others[::step], room)
    return chosen


def _fill(
    chosen: set[str],
    traces: Mapping[str, Sequence[SpanRecord]],
    order: Iterable[str],
    room: int,
) -> int:
    """Choose traces in this order, as long as there is room. Return the number of their spans."""
    used = 0
    for trace in order:
        if trace not in chosen:
            if used + _size(traces[trace]) > room:
                break
            chosen.add(trace)
            used += _size(traces[trace])
    return used


def _size(trace: Sequence[SpanRecord]) -> int:
    return min(len(trace), _SPANS_OF_TRACE)


def _start(span: SpanRecord) -> int:
    return span.start_ns


def rest_of(selection: Selection, spans: Sequence[SpanRecord], times: CallTimes) -> dict[str, Any]:
    """Return the counts that the page adds to those of its own records.

    `spans` and `traces` are numbers, `parts` the microseconds by name of part. The other keys are
    the sums of the figures of the left out calls.
    """
    on_page = [*selection.spans, *selection.brief]
    sums: Counter[str] = Counter(calls=len(selection.left_out))
    parts: Counter[str] = Counter()
    for each in selection.left_out:
        call = recorded_call(each)
        sums["failed"] += each.span.failed
        sums["input"] += call.input_tokens or 0
        sums["cached"] += call.cached_tokens or 0
        sums["output"] += call.output_tokens or 0
        for name, ms, _ in (times.calls.get(each.span.span_id) or measured_parts(each)).parts:
            parts[name] += round(ms * 1000)
    return {
        "spans": len(spans) - len(on_page),
        "traces": len({span.trace_id for span in spans} - {span.trace_id for span in on_page}),
        **{name: sums[name] for name in ("calls", "failed", "input", "cached", "output")},
        "parts": parts,
    }
