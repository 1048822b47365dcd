"""Change the processors of a provider: put some in front, remove them, add a tail sampler."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import ConcurrentMultiLogRecordProcessor, LoggerProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from llamatelemetry.otel._sdk_private import (
    ProcessorChain,
    log_processor_chain,
    span_processor_chain,
)

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord

    from llamatelemetry.otel.sampling.tail_sampler import TailSampler

_logger = logging.getLogger("llamatelemetry.otel")


def prepend_processors(provider: Any, processors: Sequence[Any]) -> None:
    """Prepend span or log record processors, so that the provider calls them first, in this order.

    The SDK can only append, after the exporters, where a processor that changes spans or log
    records runs too late. A provider that is not the SDK's gets them appended, with a warning.
    """
    chain = _chain(provider)
    if chain is not None:
        if isinstance(chain.sdk_chain, ConcurrentMultiLogRecordProcessor):
            _emit_first(chain.sdk_chain, processors)
        else:
            chain.change(lambda present: (*processors, *present))
        return
    names = ", ".join(type(each).__name__ for each in processors)
    if hasattr(provider, "add_span_processor"):
        add, what = provider.add_span_processor, "spans"
    elif hasattr(provider, "add_log_record_processor"):
        add, what = provider.add_log_record_processor, "log records"
    else:
        _logger.warning(
            "Cannot add %s: provider %r does not support processors. Its exporters may receive "
            "unredacted data, and llamatelemetry does not enrich or sample its telemetry",
            names,
            provider,
        )
        return
    for processor in processors:
        add(processor)
    # For the SDK's providers, `warn_of_missing_names` has logged the same.
    if not isinstance(provider, (TracerProvider, LoggerProvider)):
        _logger.warning(
            "Cannot put %s in front of the processors of %r; appended instead. Exporters added "
            "earlier receive %s before these processors, so they may receive unredacted data",
            names,
            provider,
            what,
        )


def remove_processors(provider: Any, processors: Sequence[Any]) -> None:
    """Remove processors from the provider. Ignore those that it does not have."""
    chain = _chain(provider)
    if chain is not None and isinstance(chain.sdk_chain, ConcurrentMultiLogRecordProcessor):
        if processors:
            vars(chain.sdk_chain).pop("on_emit", None)
    elif chain is not None:
        removed = {id(each) for each in processors}
        chain.change(lambda present: tuple(each for each in present if id(each) not in removed))


def _emit_first(sdk_chain: Any, processors: Sequence[LogRecordProcessor]) -> None:
    """Let log record processors end before those start that the SDK runs at the same time.

    Spans do not need this: the SDK informs all processors of an ending span before any exports it.
    """
    emit = sdk_chain.on_emit

    def on_emit(log_record: ReadWriteLogRecord) -> None:
        for each in processors:
            each.on_emit(log_record)
        emit(log_record)

    sdk_chain.on_emit = on_emit


def install_tail_sampler(
    provider: Any, sampler: TailSampler, in_front: Sequence[SpanProcessor]
) -> bool:
    """Install a tail sampler, which decides which spans the provider's processors receive.

    The processors `in_front` still receive every span, processors that are added later only the
    sampled ones. Return `False` if the provider already has a tail sampler, which stays.

    Raises:
        TypeError: The provider is not the SDK's.
    """
    chain = span_processor_chain(provider)
    if chain is None:
        raise TypeError(f"{provider!r} does not have the span processors of the SDK")

    def install(present: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(isinstance(each, type(sampler)) for each in present):
            return present
        first = tuple(each for each in present if any(each is other for other in in_front))
        for each in present:
            if not any(each is other for other in first):
                sampler.add_span_processor(each)
        chain.sdk_chain.add_span_processor = sampler.add_span_processor
        return (*first, sampler)

    chain.change(install)
    return sampler in chain.processors


def remove_tail_sampler(provider: Any, sampler: TailSampler) -> None:
    """Remove a tail sampler: the provider's processors receive every span again."""
    chain = span_processor_chain(provider)
    if chain is None or sampler not in chain.processors:
        return

    def remove(present: tuple[Any, ...]) -> tuple[Any, ...]:
        position = present.index(sampler)
        chain.sdk_chain.__dict__.pop("add_span_processor", None)
        return (*present[:position], *sampler.downstream, *present[position + 1 :])

    chain.change(remove)
    sampler.decide_all()


def _chain(provider: object) -> ProcessorChain | None:
    return span_processor_chain(provider) or log_processor_chain(provider)
