"""The span processors that options ask for, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.otel.session_processor import SessionSpanProcessor
from llamatelemetry.otel.trace_graph_processor import TraceGraphProcessor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import SpanProcessor

    from llamatelemetry.config import LlamaTelemetryConfig


def arrange(
    config: LlamaTelemetryConfig, enriching: Sequence[SpanProcessor] = ()
) -> tuple[SpanProcessor, ...]:
    """Give our processors and the application's, each where it belongs; exporters come after them.

    1. those that add what is known from the start;
    2. `enriching`, those that add what is known at the end;
    3. the application's own, in its order;
    4. those that only look.
    """
    looking = (TraceGraphProcessor(),) if config.enable_trace_graphs else ()
    return (SessionSpanProcessor(), *enriching, *config.span_processors, *looking)
