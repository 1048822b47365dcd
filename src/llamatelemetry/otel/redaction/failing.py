"""What leaves when redaction itself fails: numbers, and that it failed. No text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import Resource

from .wordless import without_words

MARK: Final = "llamatelemetry.redaction.failed"
"""True on a span or log record whose texts were dropped because they could not be redacted."""

NAME: Final = "redaction failed"
"""The name of such a span."""

_logger = logging.getLogger("llamatelemetry.otel.redaction")
_lock = threading.Lock()
_reported: set[tuple[str, type[Exception]]] = set()


def without_texts(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The numbers among the attributes, and the mark."""
    given = dict(attributes or {}).items()
    return {**{name: v for name, v in given if isinstance(v, (bool, int, float))}, MARK: True}


def resource() -> Resource:
    """A resource that tells nothing."""
    return Resource({})


def report(what: str, error: Exception) -> None:
    """Says once for each kind of error where it came from."""
    key = (what, type(error))
    with _lock:
        if key in _reported:
            return
        _reported.add(key)
    _logger.warning(
        "Redacting %s failed: its texts were dropped. Please report this. Said once for each kind "
        "of error.",
        what,
        exc_info=without_words(error),
    )
