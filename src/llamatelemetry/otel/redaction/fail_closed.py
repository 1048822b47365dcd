"""Handling of failures in redaction: drop all text, keep numbers, and log once without content."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.metrics import Observation

from llamatelemetry._limits import Count, Limit
from llamatelemetry.otel.process.interruption import raise_if_from_signal_handler
from llamatelemetry.semconv.metrics import REDACTION_FAILURES

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider

FAILED_ATTRIBUTE: Final = "llamatelemetry.redaction.failed"
"""Attribute that is `True` on a span or log record whose text was dropped."""

FAILED_SPAN_NAME: Final = "redaction failed"
"""Name of a span whose text was dropped."""

_PLACEHOLDER: Final = "(message removed: it may quote a prompt)"

_logger = logging.getLogger("llamatelemetry.otel.redaction")
_logged: dict[tuple[str, type[Exception]], object] = {}
_LIMIT: Final = Limit("redaction_errors", 256, "Kinds of redaction failures that were logged")


class RedactionFailures:
    """Number of texts of this process that were dropped because their redaction failed."""

    def __init__(self) -> None:
        self._count, self._exported = Count(), 0

    def add(self) -> None:
        """Count one."""
        self._count.add()

    def reset_after_fork(self) -> None:
        """Start from zero in a forked child."""
        self._count, self._exported = Count(), 0

    def export_to(self, meter_provider: MeterProvider) -> None:
        """Create the metric on a provider. It counts the failures from now on."""
        spec, self._exported = REDACTION_FAILURES, self._count.value
        meter_provider.get_meter("llamatelemetry").create_observable_counter(
            spec.name, [self._observe], spec.unit, spec.description
        )

    def _observe(self, _: CallbackOptions) -> list[Observation]:
        count = self._count.value - self._exported
        return [Observation(count)] if count else []


FAILURES: Final = RedactionFailures()


def numbers_only(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the numeric and boolean attributes, with `FAILED_ATTRIBUTE` added."""
    given = dict(attributes or {}).items()
    numbers = {name: v for name, v in given if isinstance(v, (bool, int, float))}
    return {**numbers, FAILED_ATTRIBUTE: True}


def log_once(what: str, error: Exception) -> None:
    """Count a failure of redaction. Log it once per kind of data and error type, without message.

    Call it when the text is dropped. It raises an exception of a signal handler again.
    """
    raise_if_from_signal_handler(error)
    FAILURES.add()
    first = object()
    # Atomic: a lock could be held by the code that a signal handler or a finalizer interrupts.
    if _logged.setdefault((what, type(error)), first) is not first:
        return
    _LIMIT.trim(_logged)
    _logger.warning(
        "Redaction of %s failed; dropped its text. This is a bug in llamatelemetry, please report "
        "it. Logged once per error type",
        what,
        exc_info=strip_message(error),
    )


def strip_message(error: BaseException) -> BaseException:
    """Return an error of the same class and traceback, without message, arguments and cause.

    The messages of `int()`, of validators and of encoders quote the value that they reject, so
    an error must not be logged with its message where that value may be a prompt.
    """
    kind = type(error)
    try:
        shown = type(kind.__name__, (kind,), {"__str__": _str, "__module__": kind.__module__})
        shown.__qualname__ = kind.__qualname__
        stripped = shown.__new__(shown)
    except Exception:  # the class cannot be subclassed, or `__new__` needs arguments
        stripped = RuntimeError(f"{kind.__module__}.{kind.__qualname__} {_PLACEHOLDER}")
    stripped.__suppress_context__ = True
    return stripped.with_traceback(error.__traceback__)


def _str(_: object) -> str:
    return _PLACEHOLDER
