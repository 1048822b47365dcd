"""Recorded calls, for tests of tables and reports."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from llamatelemetry.local.calls import RecordedCall


def recorded_chat(**known: Any) -> RecordedCall:
    """Return a plain chat call with these fields; all others are unknown."""
    unknown = dict.fromkeys(field.name for field in fields(RecordedCall))
    return RecordedCall(**{**unknown, "operation": "chat", "streamed": False, **known})
