"""The span processors that options ask for, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.otel.session_processor import SessionSpanProcessor
from llamatelemetry.otel.trace_graph_processor import TraceGraphProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.config import LlamaTelemetryConfig


def arrange(config: LlamaTelemetryConfig) -> tuple[SpanProcessor, ...]:
    """Give our processors and the application's, each where it belongs; exporters come after them.

    1. those that add what is known from the start;
    2. the application's own, in its order;
    3. those that only look.
    """
    looking = (TraceGraphProcessor(),) if config.enable_trace_graphs else ()
    return (SessionSpanProcessor(), *config.span_processors, *looking)
