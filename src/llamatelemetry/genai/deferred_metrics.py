"""Deferred recording of measurements, through OpenTelemetry's public metrics API only.

`Histogram.record()` costs 12 µs of CPU in a loop, and 28 µs after other code has filled the
processor's caches. A call has three or more measurements, so the calling thread only queues
them. They are recorded when a metric reader collects: the SDK runs the callbacks of observable
instruments before it reads any aggregation, and one such callback records the queue. If the
queue fills up between two collections, a background thread records it.

The exported data is what recording at once would have produced, with two differences. An
exemplar has the time of recording, and the context that an exemplar filter receives holds the
call's span and nothing else. The first measurement of a series is recorded at once, because a
cumulative series starts when its first measurement is recorded. In a signal handler or finalizer
that interrupts the SDK, it is queued too: the SDK may hold a lock that recording would wait for.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from opentelemetry.context import Context
from opentelemetry.metrics import NoOpHistogram, get_meter_provider
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

from llamatelemetry._limits import Limit
from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import AttributeValue

    Attributes = Mapping[str, AttributeValue]
    # `record` of a histogram or `add` of a counter, and the attributes of the measurement.
    Target = tuple[Callable[[float, Attributes, Context], None], Attributes]

COLLECTION_HOOK: Final = "llamatelemetry.collected"
"""Name of the observable instrument whose callback runs at each collection. It exports nothing."""

THREAD_NAME: Final = "llamatelemetry-metrics"

# A batch is the measurements of one call, or up to 64 intervals between chunks of a stream.
_DRAIN_AT: Final = 128  # batches in the queue at which the thread starts
_FULL_AT: Final = 2048  # batches in the queue at which callers help
_SLICE: Final = 16  # batches that the thread records before it lets other threads run
_PAUSE_S: Final = 0.001
_SERIES: Final = Limit("metric_series", 2048, "Started series of a meter's metrics")


class When(Enum):
    """When a measurement is recorded."""

    NEVER = auto()  # No SDK is installed.
    NOW = auto()  # The provider is not known to run callbacks at collection.
    AT_COLLECTION = auto()


class SeriesLayout(NamedTuple):
    """Targets of the measurements of a series' calls, and the function that reads their values."""

    targets: Sequence[Target]
    read: Callable[[Any], Sequence[float]]


class DeferredRecorder:
    """Records the measurements of one meter, at the latest when its metrics are collected.

    Args:
        meter: The meter of all instruments that are recorded to.
        histogram: One of these instruments. It shows which SDK is behind the meter.

    Attributes:
        series: The series that have started under the present SDK, with their layouts as far
            as these are known.
    """

    def __init__(self, meter: Meter, histogram: Histogram) -> None:
        meter.create_observable_gauge(COLLECTION_HOOK, [_record_at_collection])
        self._histogram = histogram
        self._source: object = None
        self._provider: object = None
        self._is_proxy = False
        self._when = When.NEVER
        self.series: dict[Hashable, SeriesLayout | None] = {}
        _queue.recorders.add(self)

    def when(self) -> When:
        """Return when measurements are recorded. Resets `series` when the SDK has changed."""
        # The instruments of our own providers have the `record` of the SDK's present instrument.
        source: object = getattr(self._histogram.record, "__self__", None)
        if source is not self._source:
            self._provider, self.series = None, {}
            self._when = _when(source)
            self._is_proxy = _is_of_api(source) and not isinstance(source, NoOpHistogram)
            # Last, because another thread that sees it relies on the others.
            self._source = source
        if self._is_proxy:  # The instrument was created before a global provider was set.
            provider = get_meter_provider()
            if provider is not self._provider:
                self.series, self._when = {}, _when(provider)
                self._provider = provider
        return self._when

    def start_series(self, series: Hashable, layout: SeriesLayout | None) -> None:
        """Store that the first measurement of a series is recorded, and the layout of the rest."""
        self.series[series] = layout
        _SERIES.trim(self.series)

    def forget_series(self) -> None:
        """Forget the started series: the metrics of a forked child may start from zero."""
        self.series = {}

    def put_call(self, series: Hashable, call: object, span: Span) -> bool:
        """Queue the measurements of a call. Return `False` if the layout of its series is unknown."""
        when = self.when()
        layout = self.series.get(series)
        if when is When.AT_COLLECTION and layout is not None:
            self.put(layout.targets, layout.read(call), span.get_span_context())
            return True
        return when is When.NEVER

    def put(self, targets: Iterable[Target], values: Sequence[float], span: SpanContext) -> None:
        """Queue measurements, one value for each target, with the span for exemplars.

        The attributes in `targets` must not change afterwards.
        """
        queue = _queue
        queue.batches.append((targets, values, span))
        if len(queue.batches) >= _DRAIN_AT:
            queue.start_draining()


def record_now(targets: Iterable[Target], values: Sequence[float], span: SpanContext) -> None:
    """Record measurements on this thread; see `DeferredRecorder.put`."""
    try:
        # Never an empty context: the SDK would take the current one of this thread instead.
        context = set_span_in_context(NonRecordingSpan(span), Context())
        for (write, attributes), value in zip(targets, values, strict=True):
            write(value, attributes, context)
    except Exception as error:
        internal_errors.log_once("recording metrics", error)


def is_inside_sdk() -> bool:
    """Return whether this thread runs code of the SDK's metrics, further down its stack."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("opentelemetry.sdk.metrics"):
            return True
        frame = frame.f_back
    return False


def wait_for_thread(timeout_s: float) -> bool:
    """Wait until the background thread has ended. Return whether it did within the time."""
    thread = _queue.thread
    if thread is not None:
        thread.join(timeout_s)
    return thread is None or not thread.is_alive()


class _Queue:
    """The queued measurements of all meters.

    One queue serves them all, because the SDK ignores the callback of an instrument that is
    created a second time. So a collection by any provider records the measurements of all.
    """

    def __init__(self) -> None:
        # Appending to a deque and popping from it are atomic: callers take no lock, which a
        # garbage collection or a signal handler in the same thread could not take again.
        self.batches: deque[tuple[Iterable[Target], Sequence[float], SpanContext]] = deque()
        self.recorders: WeakSet[DeferredRecorder] = WeakSet()
        self.thread: threading.Thread | None = None
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_parent)

    def _reset(self) -> None:
        # Reentrant: a signal handler may flush in the middle of a collection. And under gevent,
        # if it patches after this import, another greenlet of this thread must not block on it.
        self._lock = threading.RLock()
        # Popping from a list is atomic: of several callers, one starts the thread.
        self._permit: list[None] = [None]

    def _forget_parent(self) -> None:
        """Leave the queue to the parent process, in a forked child."""
        self.batches.clear()
        self.thread = None
        self._reset()
        for recorder in self.recorders:
            recorder.forget_series()

    def record(self, at_most: int | None = None) -> bool:
        """Record queued batches: `at_most` of them, or all. Return whether the queue has more.

        Waits for another thread that is recording.
        """
        with self._lock:
            for _ in range(len(self.batches) if at_most is None else at_most):
                try:
                    targets, values, span = self.batches.popleft()
                except IndexError:
                    break
                record_now(targets, values, span)
        return bool(self.batches)

    def start_draining(self) -> None:
        """Start the thread that records the queue, unless it runs."""
        if len(self.batches) >= _FULL_AT:
            if not is_inside_sdk():
                self.record(2)  # More than a caller adds: the queue stays bounded.
            return
        try:
            self._permit.pop()
        except IndexError:
            return
        try:
            thread = threading.Thread(target=self._drain, name=THREAD_NAME, daemon=True)
            thread.start()
            self.thread = thread
        except RuntimeError:  # Out of threads, or the interpreter is shutting down.
            self._permit.append(None)
            if not is_inside_sdk():
                self.record(_SLICE)

    def _drain(self) -> None:
        try:
            while self.record(_SLICE):
                time.sleep(_PAUSE_S)
        finally:
            self.thread = None
            self._permit.append(None)


def _record_at_collection(_: CallbackOptions) -> Sequence[Observation]:
    _queue.record()
    return ()


def _when(source: object) -> When:
    """Return when measurements of an instrument, or of a provider's instruments, are recorded."""
    if any(base.__module__.startswith("opentelemetry.sdk.") for base in type(source).__mro__):
        return When.AT_COLLECTION
    return When.NEVER if _is_of_api(source) else When.NOW


def _is_of_api(source: object) -> bool:
    """Return whether an object's class belongs to the API, so that it records nothing by itself."""
    return f"{type(source).__module__}.".startswith("opentelemetry.metrics.")


_queue: Final = _Queue()
