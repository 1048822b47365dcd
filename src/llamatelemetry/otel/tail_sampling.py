"""TailSampler: holds the spans of a trace back until it is known whether the trace is kept.

It stands in a provider's chain of span processors behind those that change spans and in front
of those that export them. Nothing here is a thread: every decision falls in the call that
brings the last fact for it.
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

from llamatelemetry.semconv.attributes import SAMPLING_DECISION
from llamatelemetry.semconv.metrics import SAMPLING_SPANS, SAMPLING_TRACES

from .sampling import Kept, Policy, marked

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.trace import ReadableSpan, Span

MAX_BYTES: Final = 64 * 2**20
_REMEMBERED: Final = 10_000

# Measured, rounded up: what the SDK's objects take beside the text in them.
_TRACE_BYTES: Final = 700
_SPAN_BYTES: Final = 2_500
_ATTRIBUTE_BYTES: Final = 150
_EVENT_BYTES: Final = 700

KEPT, DROPPED, EVICTED = "kept", "dropped", "evicted"

_logger = logging.getLogger("llamatelemetry.otel")


class _Trace:
    """What is known of a trace that has open spans in this process."""

    __slots__ = ("bytes", "had_root", "kept", "open", "roots", "spans")

    def __init__(self, kept: Kept | None) -> None:
        self.open = 0
        self.roots = 0
        self.had_root = False
        self.spans: list[ReadableSpan] = []
        self.bytes = 0
        self.kept = kept

    def take(self) -> list[ReadableSpan]:
        """The spans held back, which the trace forgets."""
        spans, self.spans, self.bytes = self.spans, [], 0
        return spans


class _Outbox:
    """What was decided under the lock, to be passed on outside it."""

    def __init__(self) -> None:
        self.spans: list[tuple[ReadableSpan, Kept]] = []
        self.has_evicted = False

    def add(self, spans: Sequence[ReadableSpan], kept: Kept) -> None:
        _counts.spans[KEPT] += len(spans)
        self.spans += [(span, kept) for span in spans]


class TailSampler(SpanProcessor):
    """Passes the spans of kept traces on to other processors, and no others.

    A span that a rule is met by keeps its trace at once: those held back are passed on, those
    to come pass straight through. Any other trace is judged when none of its spans is open in
    this process any more, which is when the local root has ended, or the last of its children
    that outlived it. A child that begins later still follows a trace that was kept, and is
    judged by itself when it was not.

    Args:
        policy: what is kept.
        max_bytes: of spans held back, estimated. When there are more, the oldest trace is
            judged by what is known, and a warning says so once.
    """

    def __init__(self, policy: Policy, *, max_bytes: int = MAX_BYTES) -> None:
        self.policy = policy
        self._next = SynchronousMultiSpanProcessor()
        self._max_bytes = max_bytes
        self._has_warned = False
        self._reset()
        if hasattr(os, "register_at_fork"):
            method = weakref.WeakMethod(self._reset)
            os.register_at_fork(after_in_child=lambda: (reset := method()) and reset())

    def _reset(self) -> None:
        # A span may be ended by a finaliser, which can run within our own critical section.
        # After a fork, what is held back is the parent's to send.
        self._lock = threading.RLock()
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._recently_kept: OrderedDict[int, Kept] = OrderedDict()
        self._bytes = 0

    @property
    def downstream(self) -> tuple[SpanProcessor, ...]:
        """The processors that get the spans of kept traces."""
        return self._next._span_processors  # pyright: ignore[reportPrivateUsage]

    @property
    def held_bytes(self) -> int:
        """Estimated size of what is held back."""
        return self._bytes

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Adds one that gets the spans of kept traces."""
        self._next.add_span_processor(span_processor)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Counts the open spans of each trace; the start itself is passed on."""
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
        self._next._on_ending(span)  # pyright: ignore[reportPrivateUsage] - part of the protocol

    def on_end(self, span: ReadableSpan) -> None:
        """Passes the span on, holds it back, or lets it and its trace go."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            self._next.on_end(span)
            return
        kept, outbox = self._judged(span), _Outbox()
        with self._lock:
            # Its start was before this processor: a trace of its own, if there is none.
            trace = self._trace(context.trace_id)
            trace.open = max(0, trace.open - 1)
            if _is_local_root(span):
                trace.roots = max(0, trace.roots - 1)
                trace.had_root = True
            trace.kept = trace.kept or kept
            self._hold(trace, span)
            if trace.kept is None and trace.open == 0:
                trace.kept = self.policy.at_end(context)
            self._settle(context.trace_id, trace, outbox)
            self._make_room(outbox)
        self._send(outbox)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Judges the traces whose local root has ended, and flushes the processors behind.

        A trace whose root is open stays: nothing is known of it yet.
        """
        self.judge(with_open_roots=False)
        return self._next.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Judges every trace by what is known, and shuts the processors behind down."""
        self.judge()
        self._next.shutdown()

    def judge(self, *, with_open_roots: bool = True) -> None:
        """Judges what is held back by what is known, and lets go of it."""
        outbox = _Outbox()
        with self._lock:
            for trace in list(self._traces.values()):
                if with_open_roots or trace.roots == 0:
                    self._judge_by_what_is_known(trace, outbox, DROPPED)
        self._send(outbox)

    def _judged(self, span: ReadableSpan) -> Kept | None:
        try:
            return self.policy.of_span(span)
        except Exception:
            # Somebody else's span, of whatever shape: rather one too many.
            _logger.debug("sampling: %r could not be judged", span, exc_info=True)
            return Kept("unknown", 1.0)

    def _trace(self, trace_id: int) -> _Trace:
        trace = self._traces.get(trace_id)
        if trace is None:
            trace = self._traces[trace_id] = _Trace(self._recently_kept.pop(trace_id, None))
            self._bytes += _TRACE_BYTES
        return trace

    def _hold(self, trace: _Trace, span: ReadableSpan) -> None:
        # Nothing to estimate for what is decided at once.
        size = 0 if trace.kept or not trace.open else _size(span)
        trace.spans.append(span)
        trace.bytes += size
        self._bytes += size

    def _settle(self, trace_id: int, trace: _Trace, outbox: _Outbox) -> None:
        """Lets go of what has been decided."""
        if trace.kept is not None:
            self._bytes -= trace.bytes
            outbox.add(trace.take(), trace.kept)
        if trace.open > 0:
            return
        self._bytes -= trace.bytes + _TRACE_BYTES
        if trace.had_root:
            _counts.traces[DROPPED if trace.kept is None else KEPT] += 1
        _counts.spans[DROPPED] += len(trace.take())
        del self._traces[trace_id]
        if trace.kept is not None:
            self._recently_kept[trace_id] = trace.kept
            if len(self._recently_kept) > _REMEMBERED:
                self._recently_kept.popitem(last=False)

    def _make_room(self, outbox: _Outbox) -> None:
        while self._bytes > self._max_bytes and self._traces:
            trace_id, trace = next(iter(self._traces.items()))
            if trace.spans:
                outbox.has_evicted = True
                self._judge_by_what_is_known(trace, outbox, EVICTED)
                # What is left of it may yet meet a rule.
                self._traces.move_to_end(trace_id)
            else:
                del self._traces[trace_id]
                self._bytes -= _TRACE_BYTES

    def _judge_by_what_is_known(self, trace: _Trace, outbox: _Outbox, otherwise: str) -> None:
        if not trace.spans:
            return
        self._bytes -= trace.bytes
        context = trace.spans[0].context
        kept = self.policy.at_end(context) if context is not None else None
        spans = trace.take()
        if kept is None:
            _counts.spans[otherwise] += len(spans)
            return
        trace.kept = kept
        outbox.add(spans, kept)

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "Sampling holds back more than %d MiB of spans whose traces are not finished: the "
                "oldest are dropped, unless a rule is met by what follows. The metric %s counts "
                "them as evicted",
                self._max_bytes >> 20,
                SAMPLING_SPANS.name,
            )

    def _send(self, outbox: _Outbox) -> None:
        # Outside our lock: a handler of logs may wait for one that another thread holds while
        # it ends a span.
        if outbox.has_evicted:
            self._warn_once()
        for span, kept in outbox.spans:
            self._next.on_end(marked(span, kept))


def _is_local_root(span: ReadableSpan) -> bool:
    return span.parent is None or span.parent.is_remote


def _size(span: ReadableSpan) -> int:
    """About how much memory a finished span takes, in bytes."""
    size = _SPAN_BYTES + _size_of_values(span.attributes)
    for event in span.events:
        size += _EVENT_BYTES + _size_of_values(event.attributes)
    return size


def _size_of_values(attributes: Any) -> int:
    if not attributes:
        return 0
    # A copy is a plain dict, ten times as fast to walk. Of a sequence the length is near enough.
    sized = (len(value) for value in attributes.copy().values() if hasattr(value, "__len__"))
    return _ATTRIBUTE_BYTES * len(attributes) + sum(sized)


class _Counts:
    """What all tail samplers of this process have decided.

    Observed, not recorded: a measurement takes locks of the SDK, and spans may end in a
    finaliser, on a thread that holds one of them.
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
        """Makes the two instruments."""
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
    """Whether two metrics of the global meter provider count what tail samplers decide.

    The instruments outlive the SDK, so they are made once, and silent when nothing is sampled.
    """
    _counts.is_shown = shown
    if shown:
        _make_instruments()


@functools.cache
def _make_instruments() -> None:
    _counts.observe(metrics.get_meter("llamatelemetry.sampling"))
