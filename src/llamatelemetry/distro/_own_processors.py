"""The span processors that our options ask for, in the order in which they run.

1. what adds to a span, so that the rest sees it whole
2. redaction; when none is asked for, of keys, passwords and cookies only
3. the application's `span_processors`
4. what keeps spans back until it is known whether their trace is kept
5. the exporters

Redaction need not stand here: it acts while a span is ending, when no processor has got the
finished span yet. But what 1 changes on the finished span is redacted only from this place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.otel.redaction.secret_spans import SecretsSpanProcessor
from llamatelemetry.otel.redaction.spans import RedactionSpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor


def own_span_processors(
    config: LlamaTelemetryConfig, *, on_own_provider: bool
) -> tuple[SpanProcessor, ...]:
    """Those of 1 and 2; they go in front of all others.

    Args:
        config: an effective one.
        on_own_provider: whether the provider is ours; to one that the application has made,
            nothing is done that it did not ask for.
    """
    redaction: tuple[SpanProcessor, ...] = own_redaction(config)
    if not redaction and on_own_provider:
        redaction = (SecretsSpanProcessor(),)
    return redaction


def own_redaction(config: LlamaTelemetryConfig) -> tuple[SpanProcessor, ...]:
    """The one that redacts, if the options ask for it."""
    processor = RedactionSpanProcessor.from_config(config)
    return () if processor is None else (processor,)
