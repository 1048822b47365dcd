"""The span processors that options ask for, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor, SecretsSpanProcessor
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
    3. redaction, or where none is asked for, the removal of keys, passwords and cookies;
    4. the application's own, in its order;
    5. those that only look.

    Redaction acts while a span is ending, before any processor gets the finished span. What adds
    to the finished span itself has to come before it, to be redacted as well.
    """
    removing = redacting(config) or (SecretsSpanProcessor(),)
    looking = (TraceGraphProcessor(),) if config.enable_trace_graphs else ()
    return (SessionSpanProcessor(), *enriching, *removing, *config.span_processors, *looking)


def redacting(config: LlamaTelemetryConfig) -> tuple[SpanProcessor, ...]:
    """The processor that the options `redact_*` ask for, if they do."""
    processor = RedactionSpanProcessor.from_config(config)
    return () if processor is None else (processor,)
