"""What a summary shows of one GenAI call, read from its span. Unknown stays None, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamatelemetry.cli._otlp_files import SpanRecord

_KIND_CLIENT = 3


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its client and its engine saw it; times in milliseconds."""

    operation: str
    model: str | None
    streamed: bool
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    queue_ms: float | None
    prefill_ms: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    duration_ms: float
    error: str | None
    http_status: int | None

    @property
    def tokens_per_s(self) -> float | None:
        """How fast the engine decoded, its first token left out."""
        return 1000 / self.tpot_ms if self.tpot_ms else None


def calls_from_spans(spans: Iterable[SpanRecord]) -> list[Call]:
    """The GenAI client calls among the spans; phases and HTTP requests are not calls."""
    return [
        _call(span)
        for span in spans
        if span.kind == _KIND_CLIENT and names.GEN_AI_OPERATION_NAME in span.attributes
    ]


def _call(span: SpanRecord) -> Call:
    found = span.attributes
    return Call(
        operation=str(found[names.GEN_AI_OPERATION_NAME]),
        model=_text(found, names.GEN_AI_RESPONSE_MODEL) or _text(found, names.GEN_AI_REQUEST_MODEL),
        streamed=found.get(names.GEN_AI_REQUEST_STREAM) is True,
        input_tokens=_integer(found, names.GEN_AI_USAGE_INPUT_TOKENS),
        cached_tokens=_integer(found, names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS),
        output_tokens=_integer(found, names.GEN_AI_USAGE_OUTPUT_TOKENS),
        queue_ms=_number(found, names.QUEUE_DURATION, scale=1000),
        prefill_ms=_number(found, names.PREFILL_MS),
        ttft_ms=_number(found, names.TTFT_MS),
        tpot_ms=_number(found, names.TPOT_MS),
        duration_ms=span.duration_ms,
        error=(_text(found, names.ERROR_TYPE) or "error") if span.failed else None,
        http_status=_integer(found, names.HTTP_RESPONSE_STATUS_CODE),
    )


def _text(found: Mapping[str, object], name: str) -> str | None:
    value = found.get(name)
    return value if isinstance(value, str) else None


def _integer(found: Mapping[str, object], name: str) -> int | None:
    value = found.get(name)
    return value if isinstance(value, int) else None


def _number(found: Mapping[str, object], name: str, scale: float = 1) -> float | None:
    value = found.get(name)
    return value * scale if isinstance(value, int | float) else None
