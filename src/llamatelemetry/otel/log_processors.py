"""Log record processors in front of those that a provider already has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk._logs import LogRecordProcessor

_logger = logging.getLogger("llamatelemetry.otel")


def put_in_front(provider: Any, processors: Sequence[LogRecordProcessor]) -> None:
    """Makes the provider call these first, in this order.

    The SDK can only add at the end, behind the exporters, where a processor that changes
    records comes too late. A provider that is not the SDK's cannot be told; a warning says so.
    """
    if not _change(provider, lambda present: (*processors, *present)):
        _logger.warning("%r takes no log record processors: %r is not used", provider, processors)


def take_out(provider: Any, processors: Sequence[LogRecordProcessor]) -> None:
    """Makes the provider not call these any more; unknown ones are passed over."""
    gone = {id(processor) for processor in processors}
    _change(provider, lambda present: tuple(each for each in present if id(each) not in gone))


def _change(provider: Any, change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> bool:
    chain: Any = getattr(provider, "_multi_log_record_processor", None)
    if not hasattr(chain, "_log_record_processors"):
        return False
    with chain._lock:  # as the chain's own add_log_record_processor does
        chain._log_record_processors = change(chain._log_record_processors)
    return True
