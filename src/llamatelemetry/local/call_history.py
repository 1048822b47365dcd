"""The calls of this process, for `llamatelemetry.summary()`."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.local.records import SpanRecord
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from llamatelemetry.local.calls import RecordedCall
    from llamatelemetry.local.summary_table import CallsSummary

MAX_CALLS: Final = 10_000
"""Number of the newest calls that are kept, some 250 bytes each."""
# So many are read at once, because the caller waits for the end of its span.
_BATCH: Final = 200
_CONTENT: Final = frozenset(
    {
        *(names.GEN_AI_INPUT_MESSAGES, names.GEN_AI_OUTPUT_MESSAGES),
        *(names.GEN_AI_SYSTEM_INSTRUCTIONS, names.GEN_AI_TOOL_DEFINITIONS),
    }
)


class CallHistory(SpanProcessor):
    """Keeps the figures of the newest calls, without prompts and completions.

    Appending to a deque and taking from it are atomic, so that a span may end in a signal handler.
    """

    def __init__(self) -> None:
        self._ended: deque[SpanRecord] = deque()
        self._calls: deque[RecordedCall] = deque(maxlen=MAX_CALLS)
        self._pid = os.getpid()

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span if it may be a call."""
        found = span.attributes or {}
        if names.GEN_AI_OPERATION_NAME in found and names.PHASE not in found:
            self._forget_parent()
            self._ended.append(_record_of(span, found))
            if len(self._ended) >= _BATCH:
                self._read_ended()

    def summary(self) -> CallsSummary:
        """Return the summary of the calls so far."""
        from llamatelemetry.local.calls import summarize_calls
        from llamatelemetry.local.summary_table import CallsSummary

        self._forget_parent()
        self._read_ended()
        return CallsSummary(summarize_calls(list(self._calls)))

    def _forget_parent(self) -> None:
        """Forget the calls of the process that this one was forked from."""
        if self._pid != os.getpid():
            self._ended.clear()
            self._calls.clear()
            self._pid = os.getpid()

    def _read_ended(self) -> None:
        from llamatelemetry.local.calls import calls_from_spans

        taken: list[SpanRecord] = []
        with suppress(IndexError):  # none is left, or another thread has taken it
            while True:
                taken.append(self._ended.popleft())
        self._calls.extend(calls_from_spans(taken))


def _record_of(span: ReadableSpan, found: Any) -> SpanRecord:
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
