"""TailSampler: buffers the spans of a trace until it is decided whether the trace is kept.

It runs after the processors that change spans and before the exporters. It has no thread: each
decision is made in the call that brings the last fact for it.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor

from llamatelemetry._limits import Limit
from llamatelemetry.otel._sdk_private import call_on_ending
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler
from llamatelemetry.otel.sampling.rules import KeepDecision, Policy, with_decision
from llamatelemetry.semconv.attributes import SAMPLING_DECISION
from llamatelemetry.semconv.metrics import SAMPLING_SPANS, SAMPLING_TRACES

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.trace import ReadableSpan, Span

MAX_BYTES: Final = 64 * 2**20
_KEPT_TRACES: Final = Limit("kept_traces", 10_000, "Decisions of the tail sampler on ended traces")

# Measured and rounded up: size of the SDK's objects without the text in them.
_TRACE_BYTES: Final = 700
_SPAN_BYTES: Final = 2_500
_ATTRIBUTE_BYTES: Final = 150
_EVENT_BYTES: Final = 700

KEPT, DROPPED, EVICTED = "kept", "dropped", "evicted"

_logger = logging.getLogger("llamatelemetry.otel")


class _Trace:
    """State of a trace that has open spans in this process."""

    __slots__ = ("bytes", "decision", "had_root", "open", "roots", "spans")

    def __init__(self, decision: KeepDecision | None) -> None:
        self.open = 0
        self.roots = 0
        self.had_root = False
        self.spans: list[ReadableSpan] = []
        self.bytes = 0
        self.decision = decision

    def take(self) -> list[ReadableSpan]:
        """Remove and return the buffered spans."""
        spans, self.spans, self.bytes = self.spans, [], 0
        return spans


class _Outbox:
    """Decisions that were made under the lock, to be carried out without it."""

    def __init__(self) -> None:
        self.spans: list[tuple[ReadableSpan, KeepDecision]] = []
        self.has_evicted = False

    def add(self, spans: Sequence[ReadableSpan], decision: KeepDecision) -> None:
        _counts.spans[KEPT] += len(spans)
        self.spans += [(span, decision) for span in spans]


class TailSampler(SpanProcessor):
    """Passes the spans of kept traces to its downstream processors, and drops all others.

    A span that matches a rule keeps its trace at once: its buffered spans are passed on, and
    later ones pass without buffering. Any other trace is decided when it has no open span in
    this process any more. That is when the local root has ended, or the last child that
    outlived it. A child that starts later follows a trace that was kept. If the trace was
    dropped, the child is decided on its own.

    Args:
        policy: Rules that keep a trace.
        max_bytes: Limit on the estimated size of buffered spans. Beyond it, the oldest trace is
            decided early, and a warning is logged once.
    """

    def __init__(self, policy: Policy, *, max_bytes: int = MAX_BYTES) -> None:
        self.policy = policy
        self.downstream: tuple[SpanProcessor, ...] = ()
        """The processors that receive the spans of kept traces."""
        self._next = SynchronousMultiSpanProcessor()
        self._max_bytes = max_bytes
        self._has_warned = False
        self._reset()
        if hasattr(os, "register_at_fork"):
            method = weakref.WeakMethod(self._reset)
            os.register_at_fork(after_in_child=lambda: (reset := method()) and reset())

    def _reset(self) -> None:
        # A finalizer can end a span within a critical section of the same thread, so the lock is
        # reentrant. After a fork, the parent sends the buffered spans.
        self._lock = threading.RLock()
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._recently_kept: OrderedDict[int, KeepDecision] = OrderedDict()
        self._bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """Estimated size of the buffered spans, in bytes."""
        return self._bytes

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add a processor that receives the spans of kept traces."""
        with self._lock:
            self.downstream = (*self.downstream, span_processor)
        self._next.add_span_processor(span_processor)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Count the open spans of each trace, and pass the start on."""
        context = span.get_span_context()
        if context.trace_flags.sampled:
            outbox = _Outbox()
            with self._lock:
                trace = self._trace(context.trace_id)
                trace.open += 1
                if _is_local_root(span):
                    trace.roots += 1
                self._make_room(outbox)
            self._send(outbox)
        self._next.on_start(span, parent_context)

    def _on_ending(self, span: Span) -> None:
        call_on_ending(self._next, span)

    def on_end(self, span: ReadableSpan) -> None:
        """Buffer the span, or pass it on if its trace is kept."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            self._next.on_end(span)
            return
        decision, outbox = self._decide(span), _Outbox()
        with self._lock:
            # If the span started before this processor was added, it may have a trace of its own.
            trace = self._trace(context.trace_id)
            trace.open = max(0, trace.open - 1)
            if _is_local_root(span):
                trace.roots = max(0, trace.roots - 1)
                trace.had_root = True
            trace.decision = trace.decision or decision
            self._buffer(trace, span)
            if trace.decision is None and trace.open == 0:
                trace.decision = self.policy.at_end(context)
            self._finish(context.trace_id, trace, outbox)
            self._make_room(outbox)
        self._send(outbox)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Decide the traces with an ended local root, then flush the downstream processors.

        A trace whose root is open stays in the buffer, because nothing is known about it yet.
        """
        self.decide_all(with_open_roots=False)
        return self._next.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Decide every trace, then shut the downstream processors down."""
        self.decide_all()
        self._next.shutdown()

    def decide_all(self, *, with_open_roots: bool = True) -> None:
        """Decide the buffered traces by their ended spans, and empty the buffer."""
        outbox = _Outbox()
        with self._lock:
            for trace in list(self._traces.values()):
                if with_open_roots or trace.roots == 0:
                    self._decide_early(trace, outbox, DROPPED)
        self._send(outbox)

    def _decide(self, span: ReadableSpan) -> KeepDecision | None:
        try:
            return self.policy.of_span(span)
        except Exception as error:
            raise_if_from_signal_handler(error)
            # An application's span can have any shape. Keep it rather than lose it.
            _logger.debug("Cannot apply the sampling rules to %r; kept", span, exc_info=True)
            return KeepDecision("unknown", 1.0)

    def _trace(self, trace_id: int) -> _Trace:
        trace = self._traces.get(trace_id)
        if trace is None:
            trace = self._traces[trace_id] = _Trace(self._recently_kept.pop(trace_id, None))
            self._bytes += _TRACE_BYTES
        return trace

    def _buffer(self, trace: _Trace, span: ReadableSpan) -> None:
        # A trace that is decided at once needs no estimate.
        size = 0 if trace.decision or not trace.open else _size(span)
        trace.spans.append(span)
        trace.bytes += size
        self._bytes += size

    def _finish(self, trace_id: int, trace: _Trace, outbox: _Outbox) -> None:
        """Apply the decision of a trace, and forget the trace if it has no open span."""
        if trace.decision is not None:
            self._bytes -= trace.bytes
            outbox.add(trace.take(), trace.decision)
        if trace.open > 0:
            return
        self._bytes -= trace.bytes
        if trace.had_root:
            _counts.traces[DROPPED if trace.decision is None else KEPT] += 1
        _counts.spans[DROPPED] += len(trace.take())
        self._forget(trace_id, trace)

    def _forget(self, trace_id: int, trace: _Trace) -> None:
        """Remove a trace without buffered spans. If it was kept, its later spans are kept, too."""
        # A finalizer may have ended the last span of the trace within this critical section.
        self._traces.pop(trace_id, None)
        self._bytes -= _TRACE_BYTES
        if trace.decision is not None:
            self._recently_kept[trace_id] = trace.decision
            _KEPT_TRACES.trim(self._recently_kept)

    def _make_room(self, outbox: _Outbox) -> None:
        while self._bytes > self._max_bytes and self._traces:
            trace_id, trace = next(iter(self._traces.items()))
            if trace.spans:
                outbox.has_evicted = True
                self._decide_early(trace, outbox, EVICTED)
                # Its later spans may still match a rule.
                self._traces.move_to_end(trace_id)
            else:
                self._forget(trace_id, trace)

    def _decide_early(self, trace: _Trace, outbox: _Outbox, otherwise: str) -> None:
        """Decide a trace that has open spans; `otherwise` counts the spans that are not kept."""
        if not trace.spans:
            return
        self._bytes -= trace.bytes
        context = trace.spans[0].context
        decision = self.policy.at_end(context) if context is not None else None
        spans = trace.take()
        if decision is None:
            _counts.spans[otherwise] += len(spans)
            return
        trace.decision = decision
        outbox.add(spans, decision)

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "The tail sampler buffers more than %d MiB of spans of unfinished traces: the "
                "oldest are dropped unless their later spans match a rule. The metric %s counts "
                "them as evicted",
                self._max_bytes >> 20,
                SAMPLING_SPANS.name,
            )

    def _send(self, outbox: _Outbox) -> None:
        # Called without the lock: a logging handler may wait for a lock that another thread
        # holds while it ends a span.
        if outbox.has_evicted:
            self._warn_once()
        for span, decision in outbox.spans:
            self._next.on_end(with_decision(span, decision))


def _is_local_root(span: ReadableSpan) -> bool:
    return span.parent is None or span.parent.is_remote


def _size(span: ReadableSpan) -> int:
    """Estimate the memory of an ended span, in bytes."""
    size = _SPAN_BYTES + _size_of_values(span.attributes)
    for event in span.events:
        size += _EVENT_BYTES + _size_of_values(event.attributes)
    return size


def _size_of_values(attributes: Any) -> int:
    if not attributes:
        return 0
    # A copy is a plain dict, ten times as fast to iterate. For a sequence, the length is precise
    # enough.
    sized = (len(value) for value in attributes.copy().values() if hasattr(value, "__len__"))
    return _ATTRIBUTE_BYTES * len(attributes) + sum(sized)


class _Counts:
    """Decisions of all tail samplers of this process, as two observable counters.

    Recording a measurement takes locks of the SDK. A finalizer can end a span on a thread that
    holds one of them. Therefore the counts are observed instead.
    """

    def __init__(self) -> None:
        self.spans: Counter[str] = Counter()
        self.traces: Counter[str] = Counter()
        self.is_shown = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.clear)

    def clear(self) -> None:
        self.spans.clear()
        self.traces.clear()

    def observe(self, meter: metrics.Meter) -> None:
        """Create the two instruments."""
        for spec, counts in ((SAMPLING_SPANS, self.spans), (SAMPLING_TRACES, self.traces)):
            observer = functools.partial(self._observed, counts)
            meter.create_observable_counter(spec.name, [observer], spec.unit, spec.description)

    def _observed(self, counts: Counter[str], _: CallbackOptions) -> Sequence[Observation]:
        if not self.is_shown:
            return ()
        return [
            metrics.Observation(n, {SAMPLING_DECISION: name}) for name, n in dict(counts).items()
        ]


_counts = _Counts()


def count_decisions(shown: bool) -> None:
    """Show or hide the two metrics that count the decisions of tail samplers.

    The instruments outlive the SDK, so they are created once, and observe nothing while no tail
    sampler is installed.
    """
    _counts.is_shown = shown
    if shown:
        _create_instruments()


@functools.cache
def _create_instruments() -> None:
    _counts.observe(metrics.get_meter("llamatelemetry.sampling"))
