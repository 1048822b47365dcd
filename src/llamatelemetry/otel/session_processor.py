"""Puts what the context says of a session on every span that starts in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

from llamatelemetry.otel.session import session_attributes

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span


class SessionSpanProcessor(SpanProcessor):
    """Puts the session's attributes on each span as it starts, whoever makes it.

    A conversation that the span names itself stands: it was read from the request.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Set what the session knows and the span does not."""
        session = session_attributes(parent_context)
        if session:
            present = span.attributes or {}
            span.set_attributes({k: v for k, v in session.items() if k not in present})
