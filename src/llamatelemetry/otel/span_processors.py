"""Span processors in front of those that a provider already has, and between them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
)

from .tail_sampling import TailSampler

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


def put_between(provider: Any, gate: TailSampler, in_front: Sequence[SpanProcessor]) -> bool:
    """Makes a tail sampler decide what the provider's processors get, but for those `in_front`.

    What is added to the provider later goes behind the sampler too.

    Returns:
        False when the provider has one already, which stays.

    Raises:
        TypeError: the provider is not the SDK's.
    """
    chain = getattr(provider, "_active_span_processor", None)
    if not isinstance(chain, (SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor)):
        raise TypeError(f"{provider!r} has no chain of span processors as the SDK's have")
    with chain._lock:  # pyright: ignore[reportPrivateUsage] - as add_span_processor does
        present: tuple[SpanProcessor, ...] = chain._span_processors  # pyright: ignore[reportPrivateUsage]
        if any(isinstance(each, TailSampler) for each in present):
            return False
        first = tuple(each for each in present if any(each is other for other in in_front))
        for each in present:
            if not any(each is other for other in first):
                gate.add_span_processor(each)
        chain.add_span_processor = gate.add_span_processor
        chain._span_processors = (*first, gate)  # pyright: ignore[reportPrivateUsage]
    return True


def take_gate_out(provider: Any, gate: TailSampler) -> None:
    """Gives the provider's processors every span again."""
    chain = getattr(provider, "_active_span_processor", None)
    if not isinstance(chain, (SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor)):
        return
    with chain._lock:  # pyright: ignore[reportPrivateUsage] - as add_span_processor does
        present: tuple[SpanProcessor, ...] = chain._span_processors  # pyright: ignore[reportPrivateUsage]
        if gate not in present:
            return
        place = present.index(gate)
        vars(chain).pop("add_span_processor", None)
        chain._span_processors = (*present[:place], *gate.downstream, *present[place + 1 :])  # pyright: ignore[reportPrivateUsage]
    gate.judge()
