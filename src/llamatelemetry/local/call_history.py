"""The calls of this process, for `llamatelemetry.summary()`."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from llamatelemetry._limits import Limit
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from llamatelemetry.local.records import SpanRecord
    from llamatelemetry.local.summary_table import CallsSummary

_CALLS: Final = Limit("call_history", 2_000, "Calls of `summary()`, about 4 kB each")
_CONTENT: Final = frozenset(
    {
        *(names.GEN_AI_INPUT_MESSAGES, names.GEN_AI_OUTPUT_MESSAGES),
        *(names.GEN_AI_SYSTEM_INSTRUCTIONS, names.GEN_AI_TOOL_DEFINITIONS),
    }
)


class CallHistory(SpanProcessor):
    """Keeps the newest calls without prompts and completions, which are read only for a summary.

    A span may end in any thread, and in a signal handler.
    """

    def __init__(self) -> None:
        self._ended: deque[ReadableSpan | SpanRecord] = deque(maxlen=_CALLS.most)
        self._pid = os.getpid()

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span if it may be a call."""
        found = span.attributes or {}
        if names.GEN_AI_OPERATION_NAME in found and names.PHASE not in found:
            self._forget_parent()
            # A copy costs the caller more time than the span itself, which other processors keep.
            _CALLS.append(self._ended, span if _CONTENT.isdisjoint(found) else _record_of(span))

    def summary(self) -> CallsSummary:
        """Return the summary of the calls so far."""
        from llamatelemetry.local.calls import calls_from_spans, summarize_calls
        from llamatelemetry.local.summary_table import CallsSummary

        self._forget_parent()
        ended = (
            _record_of(each) if isinstance(each, ReadableSpan) else each
            for each in _CALLS.copy(self._ended)
        )
        return CallsSummary(summarize_calls(calls_from_spans(ended)))

    def _forget_parent(self) -> None:
        """Forget the calls of the process that this one was forked from."""
        if self._pid != os.getpid():
            self._ended.clear()
            self._pid = os.getpid()


def _record_of(span: ReadableSpan) -> SpanRecord:
    from llamatelemetry.local.records import SpanRecord

    found = span.attributes or {}
    context = span.get_span_context()
    return SpanRecord(
        trace_id=f"{context.trace_id:032x}" if context else "",
        span_id=f"{context.span_id:016x}" if context else "",
        parent_span_id=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name,
        kind=span.kind.value + 1,  # OTLP's number
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        attributes={name: value for name, value in found.items() if name not in _CONTENT},
        status=span.status.status_code.value,
    )
