"""Whose span a call is recorded on: one of its own, another instrumentation's, or an outer call's.

A request to a model passes through layers, and several of them may be instrumented: a framework,
the client, HTTP. It is one span all the same. Whichever layer is outermost owns it, and with it
the metrics of tokens and duration; a layer further in adds what only it can know, the engine's
timings above all. Spans of workflows, agents and tools are parents, never owners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from opentelemetry import context as context_api
from opentelemetry import trace

from llamatelemetry.genai import dropped_spans, metrics, spans
from llamatelemetry.genai.agents import current_agent
from llamatelemetry.otel.points import record_each
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import EMBEDDINGS, INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind

    from llamatelemetry.genai.call import Call, Instrumenter
    from llamatelemetry.genai.content import CallContent
    from llamatelemetry.genai.external_spans import ExternalSpan
    from llamatelemetry.genai.model import Request
    from llamatelemetry.otel.points import AttributeSet

    GapRecorder = Callable[[Sequence[float], AttributeSet], None]

_GENERATING: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}

CALL_KEY: Final = context_api.create_key("llamatelemetry-genai-call")


class SpanTarget(Protocol):
    """Where what is learned of a call goes."""

    @property
    def span(self) -> Span:
        """The span the call is recorded on."""
        ...

    @property
    def content(self) -> CallContent | None:
        """The call's content, where it is wanted."""
        ...

    @property
    def record_chunk_intervals(self) -> GapRecorder:
        """What records the seconds between chunks."""
        ...

    def open(self, call: Call, started_wall_ns: int) -> None:
        """The call starts."""
        ...

    def context(self, call: Call) -> Context:
        """Give the context for the library's own work."""
        ...

    def set_provider(self, provider: str) -> None:
        """The reply has proved its provider."""
        ...

    def record(self, call: Call, outcome: spans.Outcome) -> None:
        """Record a call that has ended."""
        ...

    def close(self, ended_wall_ns: int) -> None:
        """Everything is recorded."""
        ...


class OwnSpanTarget:
    """A span opened for the call: everything is recorded, and nobody else records it.

    Args:
        instrumenter: what the call is made with.
        kind: of the span.
        context: where the call is made.
    """

    __slots__ = ("_context", "_instrumenter", "_kind", "_provider", "content", "span")

    def __init__(self, instrumenter: Instrumenter, kind: SpanKind, context: Context) -> None:
        self._instrumenter = instrumenter
        self._kind = kind
        self.content: CallContent | None = None
        self.span: Span = trace.INVALID_SPAN
        self._context = context  # with the span in it, once that is open
        self._provider = ""  # that the span has been started with

    @property
    def record_chunk_intervals(self) -> GapRecorder:
        """What records the seconds between chunks."""
        return self._instrumenter.metrics.client.record_chunk_intervals

    def open(self, call: Call, started_wall_ns: int) -> None:
        """Start the span."""
        request = call.request
        self._provider = request.provider
        agent = current_agent(self._context) if self._context else None
        if agent is not None and request.operation in INFERENCE_OPERATIONS:
            agent.count_inference_call()
        title = request.title
        self.span = self._instrumenter.tracer.start_span(
            f"{title} {request.model}" if request.model else title,
            self._context,
            kind=self._kind,
            attributes=spans.sampling_attributes(request),
            start_time=started_wall_ns,
        )
        self._context = trace.set_span_in_context(self.span, self._context)
        watcher = dropped_spans.State.watcher
        if watcher is not None and dropped_spans.is_dropped(self.span):
            watcher.on_dropped_span_start(self.span, request, self._kind, self._instrumenter.scope)
        if self._instrumenter.content is not None:
            self.content = self._instrumenter.content.start(request, self.span)

    def context(self, call: Call) -> Context:
        """Give a context with the span and the call in it."""
        return context_api.set_value(CALL_KEY, call, self._context)

    def set_provider(self, provider: str) -> None:
        """Nothing: the provider is recorded from the request."""

    def record(self, call: Call, outcome: spans.Outcome) -> None:  # noqa: ARG002 - as Owner
        """Write the metrics and, unless the span is not recorded, attributes and phases."""
        instrumenter, context, span = self._instrumenter, self._context, self.span
        series = metrics.series_of(outcome)
        instrumenter.points.record(outcome, series, span.get_span_context(), context)
        if span.is_recording():
            spans.record_span(span, outcome)
            if self._provider != outcome.request.provider:  # the reply has proved another
                span.set_attribute(names.GEN_AI_PROVIDER_NAME, outcome.request.provider)
            if instrumenter.config.phase_spans and outcome.phases is not None:
                spans.record_phase_spans(instrumenter.tracer, context, outcome)
        if self.content is not None:
            span.set_attributes(self.content.finish(outcome, context))
        outcome.response.read_content = None  # the whole reply; its points may have to wait

    def close(self, ended_wall_ns: int) -> None:
        """End the span."""
        watcher = dropped_spans.State.watcher
        if watcher is not None and dropped_spans.is_dropped(self.span):
            watcher.on_dropped_span_end(self.span)
        self.span.end(ended_wall_ns)


class ExternalSpanTarget:
    """The open span of another instrumentation: it is enriched, and left to its owner to end.

    Args:
        instrumenter: what the call is made with.
        foreign: the other's span, and what the other records itself.
    """

    __slots__ = ("_has_metrics", "_instrumenter", "_proved", "_recorded", "span")
    content: None = None  # it is the other's to record, and to hand to hooks

    def __init__(self, instrumenter: Instrumenter, foreign: ExternalSpan) -> None:
        self._instrumenter = instrumenter
        self.span, self._has_metrics = foreign
        self._proved = False
        self._recorded = self.span.is_recording()

    @property
    def record_chunk_intervals(self) -> GapRecorder:
        """What records the seconds between chunks."""
        return (
            _ignore
            if self._has_metrics
            else self._instrumenter.metrics.client.record_chunk_intervals
        )

    def open(self, call: Call, started_wall_ns: int) -> None:
        """Nothing: it is open."""

    def context(self, call: Call) -> Context:
        """Give a context with the span and the call in it."""
        return context_api.set_value(CALL_KEY, call, trace.set_span_in_context(self.span))

    def set_provider(self, provider: str) -> None:  # noqa: ARG002 - as Owner
        """Remember that the span's own idea of its provider may be corrected."""
        self._proved = True

    def record(self, call: Call, outcome: spans.Outcome) -> None:  # noqa: ARG002 - as Owner
        """Add the engine's timings, and the metrics that nobody else records."""
        instrumenter = self._instrumenter
        context = trace.set_span_in_context(self.span)
        points = metrics.server_points if self._has_metrics else metrics.all_points
        record_each(points(instrumenter.metrics, outcome), context)
        # Its owner may have ended it by now, as with a stream that was dropped.
        if self.span.is_recording():
            spans.enrich_span(self.span, outcome, provider_proved=self._proved)
        if self._recorded and instrumenter.config.phase_spans:
            spans.record_phase_spans(instrumenter.tracer, context, outcome)

    def close(self, ended_wall_ns: int) -> None:
        """Nothing: its owner ends it."""


class EnclosingCallTarget:
    """A call of ours further out, made by another plugin: it takes in what is learned here."""

    __slots__ = ("_outer",)
    content: None = None

    def __init__(self, outer: Call) -> None:
        self._outer = outer

    @property
    def span(self) -> Span:
        """The outer call's span."""
        return self._outer.span

    @property
    def record_chunk_intervals(self) -> GapRecorder:
        """Nothing: the outer call sees the chunks too."""
        return _ignore

    def open(self, call: Call, started_wall_ns: int) -> None:
        """Nothing: it is open."""

    def context(self, call: Call) -> Context:  # noqa: ARG002 - as Owner
        """Give the context as it is: the outer call stays the current one."""
        return context_api.get_current()

    def set_provider(self, provider: str) -> None:
        """Tell the outer call."""
        self._outer.set_provider(provider)

    def record(self, call: Call, outcome: spans.Outcome) -> None:
        """Hand over what was learned; the outer call records it when it ends itself."""
        self._outer.merge_response(call, outcome.response)

    def close(self, ended_wall_ns: int) -> None:
        """Nothing: the outer call ends itself."""


def _ignore(seconds: Sequence[float], attributes: AttributeSet) -> None:
    pass


def is_within(outer: Call, request: Request) -> bool:
    """Say whether a request found inside a call of ours is that call, seen one layer down.

    The marker leaks into tasks started during the call; those may talk to other servers. The
    model is not compared: what is sent may be rewritten on the way. An outer call that knows of
    no server is an engine of the application's own, which may do its work by asking one.
    """
    if outer.request.server is None and request.operation in _GENERATING:
        return outer.request.operation in _GENERATING
    return outer.request.title == request.title and _origin(outer.request) == _origin(request)


def _origin(request: Request) -> str | None:
    return None if request.server is None else request.server.origin
