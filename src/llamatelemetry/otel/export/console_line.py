"""A span as one readable line, for `exporter="console"`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import StatusCode

from llamatelemetry._terminal import printable
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import ReadableSpan


def console_line(span: ReadableSpan) -> str:
    """Return the start, duration, name and important figures of a span, and its trace id.

    Prompts and completions are not part of it.
    """
    start, end = span.start_time or 0, span.end_time or 0
    at = datetime.fromtimestamp(start / 1e9, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    context = span.get_span_context()
    trace = f"  trace {context.trace_id:032x}" if context else ""
    facts = "".join(f"  {each}" for each in _facts(span, span.attributes or {}))
    line = f"{at} {(end - start) / 1e6:>9,.1f} ms  {span.name}{facts}{trace}"
    # Text of servers cannot imitate further lines.
    return f"{printable(line, lines=False)}\n"


def _facts(span: ReadableSpan, found: Mapping[str, Any]) -> Iterator[str]:
    if span.status.status_code is StatusCode.ERROR:
        reasons = (found.get(names.ERROR_TYPE), span.status.description)
        yield "ERROR " + ": ".join(str(each) for each in reasons if each)
    tokens = [
        found.get(names.GEN_AI_USAGE_INPUT_TOKENS),
        found.get(names.GEN_AI_USAGE_OUTPUT_TOKENS),
    ]
    if any(each is not None for each in tokens):
        given, made = ("?" if each is None else each for each in tokens)
        yield f"{given} -> {made} tokens"
    queue = found.get(names.QUEUE_DURATION)
    times = {
        "queue": queue * 1000 if isinstance(queue, int | float) else None,
        "TTFT": found.get(names.TTFT_MS),
        "TPOT": found.get(names.TPOT_MS),
    }
    for name, value in times.items():
        if isinstance(value, int | float):
            yield f"{name} {value:,.1f} ms"
