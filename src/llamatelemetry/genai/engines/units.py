"""Durations as engines write them, as milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.json_access import as_float

if TYPE_CHECKING:
    from collections.abc import Mapping

# Ten years. The end of a phase must be a time that OTLP can represent.
_LONGEST_MS: Final = 10 * 365 * 86400 * 1000

MILLISECOND: Final = 1.0
SECOND: Final = 1000.0
NANOSECOND: Final = 1e-6


def as_ms(value: Any, unit: float) -> float | None:
    """Return a duration in milliseconds; `None` if it is not a number, negative, or beyond belief.

    Args:
        value: A number. Booleans and text are not numbers.
        unit: Milliseconds of one unit of the value.
    """
    number = as_float(value)
    if number is None:
        return None
    duration_ms = number * unit
    return duration_ms if 0 <= duration_ms <= _LONGEST_MS else None


def as_positive_ms(value: Any, unit: float) -> float | None:
    """Return a duration as `as_ms` does, and `None` for zero, which some servers write for unknown."""
    return as_ms(value, unit) or None


def text_as_ms(value: Any, unit: float) -> float | None:
    """Return a duration that is written as text, as in headers."""
    if not isinstance(value, str):
        return as_ms(value, unit)
    try:
        number = float(value)
    except ValueError:
        return None
    return as_ms(number, unit)


def between_ms(fields: Mapping[str, Any], start: str, end: str, unit: float) -> float | None:
    """Return the time between two readings of the engine's clock."""
    started, ended = as_float(fields.get(start)), as_float(fields.get(end))
    return None if started is None or ended is None else as_ms(ended - started, unit)
