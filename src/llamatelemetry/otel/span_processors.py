"""Span processors that add attributes: those of the session, and the state of the GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.otel._sdk_private import add_to_ended_span, has_on_ending
from llamatelemetry.otel.session import session_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.util.types import AttributeValue


class SessionSpanProcessor(SpanProcessor):
    """Adds the attributes of the current session to every span when it starts.

    A conversation id that the span already has stays: it was read from the request.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Set the attributes of the session that the span does not have."""
        session = session_attributes(parent_context)
        if session:
            present = span.attributes or {}
            span.set_attributes({k: v for k, v in session.items() if k not in present})


class EnrichingSpanProcessor(SpanProcessor):
    """Adds attributes to spans when they end, at any position among the processors.

    The SDK informs all processors that a span is ending before any of them, exporters included,
    receives the ended span. The GPU code is passed in as callables: `started` is called with each
    started span and the context of its parent, `ending` returns the attributes of an ending span,
    with arrays as tuples. `report` is called with a failed step and its exception.
    """

    def __init__(
        self,
        started: Callable[[Span, Context | None], None],
        ending: Callable[[Any], Mapping[str, AttributeValue]],
        report: Callable[[str, Exception], None],
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        self._started = started
        self._ending = ending
        self._report = report
        self._stop = stop
        self._has_on_ending = has_on_ending()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass the span on."""
        try:
            self._started(span, parent_context)
        except Exception as error:
            self._report("registering the start of a span", error)

    def _on_ending(self, span: Span) -> None:
        self._enrich(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Add the attributes here if the SDK does not call `_on_ending`."""
        if not self._has_on_ending:
            self._enrich(span)

    def _enrich(self, span: Span | ReadableSpan) -> None:
        try:
            attributes = self._ending(span)
            if attributes:
                add_to_ended_span(span, attributes)
        except Exception as error:
            self._report("adding attributes to a span", error)

    def shutdown(self) -> None:
        """Stop the source of the attributes."""
        self._stop()
