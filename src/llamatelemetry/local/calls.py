"""What a summary shows of one GenAI call, read from its span. Unknown stays None, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llamatelemetry.local.records import KIND_CLIENT
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamatelemetry.local.records import SpanRecord

# Made of calls, and not calls themselves, even where an agent or a tool is far away.
_NO_CALLS = frozenset({"create_agent", "invoke_agent", "invoke_workflow", "execute_tool", "plan"})


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
    energy_j: float | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """How fast the engine decoded, its first token left out."""
        return 1000 / self.tpot_ms if self.tpot_ms else None


def calls_from_spans(spans: Iterable[SpanRecord]) -> list[Call]:
    """Give the calls to models among spans; phases, steps and HTTP requests are none."""
    return [call for call in map(call_of, spans) if call is not None]


def call_of(span: SpanRecord) -> Call | None:
    """Read a span as a call, made over a network or of a model in the same process."""
    operation = span.attributes.get(names.GEN_AI_OPERATION_NAME)
    if operation is None or operation in _NO_CALLS or names.PHASE in span.attributes:
        return None
    return _call(span) if span.kind == KIND_CLIENT or operation in INFERENCE_OPERATIONS else None


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
        ttft_ms=_first_token_ms(found),
        tpot_ms=_number(found, names.TPOT_MS),
        duration_ms=span.duration_ms,
        error=(_text(found, names.ERROR_TYPE) or "error") if span.failed else None,
        http_status=_integer(found, names.HTTP_RESPONSE_STATUS_CODE),
        energy_j=_number(found, "llamatelemetry.gpu.energy"),
    )


def _first_token_ms(found: Mapping[str, object]) -> float | None:
    """The engine's or the stream's own; a first chunk may be a role without any token."""
    known = _number(found, names.TTFT_MS)
    return known or _number(found, names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, scale=1000)


def _text(found: Mapping[str, object], name: str) -> str | None:
    value = found.get(name)
    return value if isinstance(value, str) else None


def _integer(found: Mapping[str, object], name: str) -> int | None:
    value = found.get(name)
    return value if isinstance(value, int) else None


def _number(found: Mapping[str, object], name: str, scale: float = 1) -> float | None:
    value = found.get(name)
    return value * scale if isinstance(value, int | float) else None
