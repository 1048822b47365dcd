"""Recorded calls, for tests of tables and reports."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

from llamatelemetry.local.calls import RecordedCall
from llamatelemetry.local.records import SpanRecord


def recorded_chat(**known: Any) -> RecordedCall:
    """Return a plain chat call with these fields; all others are unknown."""
    unknown = dict.fromkeys(field.name for field in fields(RecordedCall))
    return RecordedCall(**{**unknown, "operation": "chat", "streamed": False, **known})


_ids = itertools.count(1)


def span(number: int, kind: int = 3, status: int = 0, **attributes: object) -> SpanRecord:
    return SpanRecord(
        trace_id="1" * 32,
        span_id=f"{next(_ids):016x}",
        parent_span_id=None,
        name="x",
        kind=kind,
        start_ns=0,
        end_ns=number * 1_000_000,
        attributes={name.replace("__", "."): value for name, value in attributes.items()},
        status=status,
        resource={"service.instance.id": str(number % 2)},
    )


def chat(number: int, **more: object) -> SpanRecord:
    return span(
        number,
        gen_ai__operation__name="chat",
        gen_ai__response__model="m",
        gen_ai__usage__input_tokens=10,
        gen_ai__usage__output_tokens=number,
        gen_ai__ttft_ms=float(number),
        gen_ai__tpot_ms=2.0,
        **more,
    )
