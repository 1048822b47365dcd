"""Calls that are recorded on a span which is already open, instead of on one of their own.

A request to a model passes through layers, and several of them may be instrumented: a framework,
the client, HTTP. It is still recorded as one span. The outermost layer opens it and records the
metrics of tokens and duration. A nested layer adds what only it can know, above all the
engine's timings. Spans of workflows, agents and tools are parents, never targets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api
from opentelemetry import trace

from llamatelemetry.genai import internal_errors, spans
from llamatelemetry.semconv.operations import EMBEDDINGS, INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span

    from llamatelemetry.genai.call import Call, Instrumenter
    from llamatelemetry.genai.framework_spans import ExternalSpan
    from llamatelemetry.genai.model import Outcome, Request
    from llamatelemetry.otel.client_metrics import Attributes

_GENERATING: Final = INFERENCE_OPERATIONS - {EMBEDDINGS}

CALL_KEY: Final = context_api.create_key("llamatelemetry-genai-call")


class ExternalSpanTarget:
    """The open span of another instrumentation. It is enriched here and ended by its owner."""

    __slots__ = ("_has_metrics", "_instrumenter", "_proved", "_recorded", "span")

    def __init__(self, instrumenter: Instrumenter, external: ExternalSpan) -> None:
        self._instrumenter = instrumenter
        self.span, self._has_metrics = external
        self._proved = False
        self._recorded = self.span.is_recording()

    def context(self, call: Call) -> Context:
        """Return a context with the span and the call in it."""
        return context_api.set_value(CALL_KEY, call, trace.set_span_in_context(self.span))

    def set_provider(self, provider: str) -> None:  # noqa: ARG002 - as the other target
        """Allow a correction of the span's provider."""
        self._proved = True

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Record the seconds between chunks, unless the owner of the span does."""
        if not self._has_metrics:
            self._instrumenter.metrics.record_chunk_intervals(seconds, attributes, self.span)

    def record(self, call: Call, outcome: Outcome) -> None:  # noqa: ARG002 - as the other target
        """Add the engine's timings, and the metrics that the owner of the span does not record."""
        instrumenter = self._instrumenter
        try:
            # The owner may have ended the span already, for example if it abandoned a stream.
            if self.span.is_recording():
                spans.enrich_span(self.span, outcome, provider_proved=self._proved)
                if instrumenter.config.engine_latency_names:
                    spans.record_latency_names(self.span, outcome)
        except Exception as error:
            internal_errors.log_once("recording a call on the span of another library", error)
        if self._recorded and instrumenter.config.phase_spans:
            context = trace.set_span_in_context(self.span)
            spans.record_phase_spans(instrumenter.tracer, context, outcome)
        instrumenter.metrics.record(outcome, self.span, client=not self._has_metrics)


class EnclosingCallTarget:
    """The open call of another plugin of llamatelemetry, which merges the response of this one."""

    __slots__ = ("_enclosing",)

    def __init__(self, enclosing: Call) -> None:
        self._enclosing = enclosing

    @property
    def span(self) -> Span:
        """The enclosing call's span."""
        return self._enclosing.span

    def context(self, call: Call) -> Context:  # noqa: ARG002 - as the other target
        """Return the context unchanged: the enclosing call stays the current one."""
        return context_api.get_current()

    def set_provider(self, provider: str) -> None:
        """Store the provider in the enclosing call."""
        self._enclosing.set_provider(provider)

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Do nothing: the enclosing call sees the chunks too."""

    def record(self, call: Call, outcome: Outcome) -> None:
        """Merge the response into the enclosing call, which records it when it ends itself."""
        self._enclosing.merge_response(call, outcome.response)


SpanTarget = ExternalSpanTarget | EnclosingCallTarget
"""The open span that a nested call is recorded on."""


def is_within(enclosing: Call, request: Request) -> bool:
    """Return whether a request inside an open call is that call, seen one layer further down.

    The context of a call is inherited by tasks that are started during it, which may talk to
    other servers. The model is not compared, because a layer may rewrite it. A call without a
    server is an in-process engine of the application, which may itself query a server.
    """
    if enclosing.request.server is None and request.operation in _GENERATING:
        return enclosing.request.operation in _GENERATING
    return enclosing.request.title == request.title and _origin(enclosing.request) == _origin(
        request
    )


def _origin(request: Request) -> str | None:
    return None if request.server is None else request.server.origin
