"""Calls as a summary shows them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from llamatelemetry.local.calls import RecordedCall


def a_call(**known: Any) -> RecordedCall:
    """A plain chat of which nothing else is known than this."""
    unknown = dict.fromkeys(field.name for field in fields(RecordedCall))
    return RecordedCall(**{**unknown, "operation": "chat", "streamed": False, **known})
