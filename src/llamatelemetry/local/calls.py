"""Calls of models, read from spans, and their summary. Unknown values are `None`, never 0."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.local.call_phases import phases_of_call, usage_of
from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.gpu import GPU_ENERGY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.records import MetricPoint, SpanRecord

_MIN_VALUES_FOR_P95: Final = 20
_GPU_UTILIZATION: Final = "hw.gpu.utilization"
# What vLLM and TensorRT-LLM call a request of any operation.
_UNKNOWN_OPERATION: Final = "llm_request"


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call as measured by its client and its engine. Times are in milliseconds.

    The duration is unknown if the clock was set back during the call, or the span has no end.
    """

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
    duration_ms: float | None
    error: str | None
    http_status: int | None
    energy_j: float | None = None
    decode_ms: float | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens per second after the first token."""
        return 1000 / self.tpot_ms if self.tpot_ms else None


def calls_from_spans(spans: Iterable[SpanRecord]) -> list[RecordedCall]:
    """Return the calls of models among the spans, without phases, steps and HTTP requests."""
    return [recorded_call(call) for call in join_calls(spans)]


def recorded_call(call: JoinedCall) -> RecordedCall:
    """Return a call with the figures of its client. The engine's own spans fill in what is missing."""
    found = call.attributes
    phases = phases_of_call(found, call.requests)
    usage = usage_of(call.requests)
    cached = _integer(found, names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS)
    return RecordedCall(
        operation=str(found.get(names.GEN_AI_OPERATION_NAME) or _operation_in(call)),
        model=_text(found, names.GEN_AI_RESPONSE_MODEL)
        or _text(found, names.GEN_AI_REQUEST_MODEL)
        or next((request.model for request in call.requests if request.model), None),
        streamed=found.get(names.GEN_AI_REQUEST_STREAM) is True,
        input_tokens=_known(_integer(found, names.GEN_AI_USAGE_INPUT_TOKENS), usage.input_tokens),
        cached_tokens=_known(cached, usage.cached_tokens),
        output_tokens=_known(
            _integer(found, names.GEN_AI_USAGE_OUTPUT_TOKENS), usage.output_tokens
        ),
        queue_ms=phases.queue_ms,
        prefill_ms=phases.prefill_ms,
        ttft_ms=phases.ttft_ms,
        tpot_ms=phases.tpot_ms,
        duration_ms=call.duration_ms if call.duration_ms >= 0 else None,
        error=(_text(found, names.ERROR_TYPE) or "error") if call.span.failed else None,
        http_status=_integer(found, names.HTTP_RESPONSE_STATUS_CODE),
        energy_j=_number(found, GPU_ENERGY),
        decode_ms=phases.decode_ms,
    )


def _operation_in(call: JoinedCall) -> str:
    """Return the operation of a call that only its engine has recorded."""
    known = (request.operation for request in call.requests if request.operation)
    return next(known, _UNKNOWN_OPERATION)


def _known(first: int | None, second: int | None) -> int | None:
    return second if first is None else first


def _text(found: Mapping[str, object], name: str) -> str | None:
    value = found.get(name)
    return value if isinstance(value, str) else None


def _integer(found: Mapping[str, object], name: str) -> int | None:
    value = found.get(name)
    return value if isinstance(value, int) else None


def _number(found: Mapping[str, object], name: str) -> float | None:
    value = found.get(name)
    return value if isinstance(value, int | float) else None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """p50 and p95, by linear interpolation. p95 is `None` for fewer than 20 values."""

    p50: float
    p95: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Quantiles | None:
        """Return the quantiles of the known values, or `None` if none is known."""
        known = sorted(value for value in values if value is not None)
        if not known:
            return None
        if len(known) < _MIN_VALUES_FOR_P95:
            return cls(statistics.median(known), None)
        cuts = statistics.quantiles(known, n=20, method="inclusive")
        return cls(cuts[9], cuts[18])


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """Calls of one operation to one model. Times are in milliseconds."""

    operation: str
    model: str | None
    calls: int
    errors: int
    input_tokens: int | None
    output_tokens: int | None
    queue_ms: Quantiles | None
    prefill_ms: Quantiles | None
    decode_ms: Quantiles | None
    ttft_ms: Quantiles | None
    tpot_ms: Quantiles | None
    duration_ms: Quantiles | None
    tokens_per_s: Quantiles | None
    energy_j: float | None


@dataclass(slots=True)
class Summary:
    """Summary of a recording: calls by operation and model, and failed calls by error type.

    `spans` includes spans that are not calls. `gpu_utilization` is a mean, from 0 to 1.
    """

    rows: list[SummaryRow] = field(default_factory=list[SummaryRow])
    errors: Counter[str] = field(default_factory=Counter[str])
    spans: int = 0
    processes: int = 0
    gpu_utilization: float | None = None

    @property
    def calls(self) -> int:
        """Number of calls."""
        return sum(row.calls for row in self.rows)


def summarize(
    spans: Iterable[SpanRecord],
    points: Iterable[MetricPoint] = (),
    *,
    calls: Iterable[JoinedCall] | None = None,
) -> Summary:
    """Return the summary of spans and metric data points.

    Args:
        spans: The spans.
        points: The metric data points.
        calls: The calls among the spans, if they are known already.
    """
    known = list(spans)
    summary = summarize_calls(map(recorded_call, join_calls(known) if calls is None else calls))
    summary.spans = len(known)
    resources = (span.resource for span in known)
    summary.processes = len(
        {str(each.get("service.instance.id", each.get("process.pid"))) for each in resources}
    )
    loads = [p.value for p in points if p.name == _GPU_UTILIZATION and p.value is not None]
    summary.gpu_utilization = statistics.fmean(loads) if loads else None
    return summary


def summarize_calls(calls: Iterable[RecordedCall]) -> Summary:
    """Return the summary of calls. It does not know the number of spans and processes."""
    summary = Summary()
    groups: dict[tuple[str, str | None], list[RecordedCall]] = defaultdict(list)
    for call in calls:
        groups[call.operation, call.model].append(call)
        if call.error is not None:
            summary.errors[call.error] += 1
    summary.rows = [
        _row(operation, model, calls)
        for (operation, model), calls in sorted(
            groups.items(), key=lambda item: (-len(item[1]), item[0][0], item[0][1] or "")
        )
    ]
    return summary


def _row(operation: str, model: str | None, calls: Sequence[RecordedCall]) -> SummaryRow:
    return SummaryRow(
        operation=operation,
        model=model,
        calls=len(calls),
        errors=sum(call.error is not None for call in calls),
        input_tokens=_sum_known(call.input_tokens for call in calls),
        output_tokens=_sum_known(call.output_tokens for call in calls),
        queue_ms=Quantiles.of(call.queue_ms for call in calls),
        prefill_ms=Quantiles.of(call.prefill_ms for call in calls),
        decode_ms=Quantiles.of(call.decode_ms for call in calls),
        ttft_ms=Quantiles.of(call.ttft_ms for call in calls),
        tpot_ms=Quantiles.of(call.tpot_ms for call in calls),
        duration_ms=Quantiles.of(call.duration_ms for call in calls if call.error is None),
        tokens_per_s=Quantiles.of(call.tokens_per_s for call in calls),
        energy_j=_sum_known(call.energy_j for call in calls),
    )


def _sum_known(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
