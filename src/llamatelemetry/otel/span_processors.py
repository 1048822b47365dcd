"""Span processors in front of those that a provider already has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
)

_logger = logging.getLogger("llamatelemetry.otel")


def put_in_front(provider: Any, processors: Sequence[SpanProcessor]) -> None:
    """Makes the provider call these first, in this order.

    The SDK can only add at the end, behind the exporters, where a processor that changes spans
    comes too late. On a provider that is not the SDK's they are added there, with a warning.
    """
    chain = getattr(provider, "_active_span_processor", None)
    if isinstance(chain, (SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor)):
        with chain._lock:  # pyright: ignore[reportPrivateUsage] - as add_span_processor does
            chain._span_processors = (*processors, *chain._span_processors)  # pyright: ignore[reportPrivateUsage]
        return
    names = ", ".join(type(each).__name__ for each in processors)
    add = getattr(provider, "add_span_processor", None)
    if add is None:
        _logger.warning("%r takes no span processors: %s not used", provider, names)
        return
    for processor in processors:
        add(processor)
    _logger.warning("Added behind the processors of %r: %s", provider, names)


def take_out(provider: Any, processors: Sequence[SpanProcessor]) -> None:
    """Makes the provider not call these any more; unknown ones are passed over."""
    chain = getattr(provider, "_active_span_processor", None)
    if isinstance(chain, (SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor)):
        with chain._lock:  # pyright: ignore[reportPrivateUsage] - as add_span_processor does
            chain._span_processors = tuple(  # pyright: ignore[reportPrivateUsage]
                each
                for each in chain._span_processors  # pyright: ignore[reportPrivateUsage]
                if not any(each is processor for processor in processors)
            )
