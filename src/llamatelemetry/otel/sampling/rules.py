"""Sampling rules, the SDK samplers that apply them, and the attributes that record a decision.

A trace is kept if any rule keeps it. `only_errors` and `only_slow` need ended spans, so they are
applied by `llamatelemetry.otel.sampling.tail_sampler`. `ratio` alone is decided when the trace
starts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import SpanContext, StatusCode, TraceState, get_current_span

from llamatelemetry.semconv.attributes import ERROR_TYPE, SAMPLING_RATE, SAMPLING_RULE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind
    from opentelemetry.util.types import Attributes

ERROR: Final = "error"
SLOW: Final = "slow"
RATIO: Final = "ratio"

# https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
# A span is sampled if its 56 bits of randomness are not below the rejection threshold.
_TRACE_STATE_KEY: Final = "ot"
_DIGITS: Final = 14
_RANGE: Final = 1 << 56
_HEX: Final = re.compile(f"[0-9a-f]{{1,{_DIGITS}}}")


class KeepDecision(NamedTuple):
    """The decision to keep a trace: the rule, and the share of comparable traces that it keeps."""

    rule: str
    rate: float


@dataclass(frozen=True)
class Policy:
    """The rules of tail sampling. A trace is kept if any of them keeps it.

    Attributes:
        errors: Whether to keep traces with a span that has status ERROR or `error.type`.
        slow_s: Keep traces with a span, usually the local root, of at least this duration in
            seconds.
        rate: Share of the other traces to keep, by trace id, from 0 to 1.
    """

    errors: bool = False
    slow_s: float | None = None
    rate: float | None = None

    @classmethod
    def named(cls, rules: str, *, rate: float, slow_s: float) -> Policy:
        """Return the policy for comma-separated rules, the value of the option `sampling`."""
        names = rules.split(",")
        return cls(
            errors="only_errors" in names,
            slow_s=slow_s if "only_slow" in names else None,
            rate=rate if "ratio" in names else None,
        )

    def __str__(self) -> str:
        rules = {"only_errors": self.errors, "only_slow": self.slow_s, "ratio": self.rate}
        return ",".join(n for n, given in rules.items() if given is not None and given is not False)

    def of_span(self, span: ReadableSpan) -> KeepDecision | None:
        """Return the decision to keep the whole trace because of one ended span, if any."""
        if self.errors and _has_failed(span):
            return KeepDecision(ERROR, 1.0)
        if self.slow_s is not None and _duration_s(span) >= self.slow_s:
            return KeepDecision(SLOW, 1.0)
        return None

    def at_end(self, context: SpanContext) -> KeepDecision | None:
        """Return the decision on a trace that no single span keeps, given the context of a span."""
        if self.rate is not None and is_sampled(context.trace_id, context.trace_state, self.rate):
            return KeepDecision(RATIO, self.rate)
        return None


def _has_failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR or ERROR_TYPE in (span.attributes or {})


def _duration_s(span: ReadableSpan) -> float:
    if span.start_time is None or span.end_time is None:
        return 0.0
    return (span.end_time - span.start_time) / 1e9


def is_sampled(trace_id: int, state: TraceState | None, rate: float) -> bool:
    """Return whether a share of `rate` includes this trace. Every service decides the same."""
    given = _number(_entry(state, "rv"))
    return (trace_id % _RANGE if given is None else given) >= _threshold(rate)


class RatioSampler(Sampler):
    """Keeps a share of all traces, and records that share in their tracestate (`ot=th:...`)."""

    def __init__(self, rate: float) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be a number from 0 to 1, got {rate}")
        self.rate = rate

    def should_sample(  # noqa: D102, PLR0917 - the SDK defines it
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        del name, kind, links
        parent = get_current_span(parent_context).get_span_context()
        state = parent.trace_state if parent.is_valid else trace_state
        if not is_sampled(trace_id, state, self.rate):
            return SamplingResult(Decision.DROP, None, state)
        recorded = {**(attributes or {}), SAMPLING_RULE: RATIO, SAMPLING_RATE: self.rate}
        return SamplingResult(Decision.RECORD_AND_SAMPLE, recorded, _with_rate(state, self.rate))

    def get_description(self) -> str:  # noqa: D102 - the SDK defines it
        return f"RatioSampler{{{self.rate}}}"


class _SampledParent(Sampler):
    """Keeps spans with a sampled parent, and records the share that the parent's sampler keeps."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        result: Any = ALWAYS_ON.should_sample(*args, **kwargs)
        rate = _rate(result.trace_state)
        if rate is None:
            return result
        recorded = {**result.attributes, SAMPLING_RULE: RATIO, SAMPLING_RATE: rate}
        return SamplingResult(result.decision, recorded, result.trace_state)

    def get_description(self) -> str:
        return "SampledParent"


def ratio_sampler(rate: float) -> Sampler:
    """Return the sampler of `sampling=ratio`: the parent's decision, or a share by trace id."""
    sampled = _SampledParent()
    return ParentBased(
        RatioSampler(rate), remote_parent_sampled=sampled, local_parent_sampled=sampled
    )


class RuleSampler(ParentBased):
    """Records every trace that its parent does not exclude. A `TailSampler` decides at its end.

    `on_first_use` is called before the first span: an entry point creates a sampler without a
    provider, so the tail sampler is installed then.
    """

    def __init__(self, policy: Policy, on_first_use: Any = None) -> None:
        super().__init__(ALWAYS_ON)
        self.policy = policy
        self._on_first_use = on_first_use

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:  # noqa: D102 - the SDK defines it
        prepare, self._on_first_use = self._on_first_use, None
        if prepare is not None:
            prepare(self)
        return super().should_sample(*args, **kwargs)

    def get_description(self) -> str:  # noqa: D102 - the SDK defines it
        return f"RuleSampler{{{self.policy}}}"


def with_decision(span: ReadableSpan, decision: KeepDecision) -> ReadableSpan:
    """Return a copy of an ended span that records why it was kept, for adjusted counts."""
    context = span.context
    # A trace that an earlier sampler kept: both samplers decide by the same number of the trace.
    before = _rate(context.trace_state if context is not None else None)
    rate = decision.rate if before is None else min(decision.rate, before)
    if decision.rule == RATIO and context is not None:
        context = SpanContext(
            context.trace_id,
            context.span_id,
            context.is_remote,
            context.trace_flags,
            _with_rate(context.trace_state, decision.rate),
        )
    attributes: Any = {
        **(span.attributes or {}),
        SAMPLING_RULE: decision.rule,
        SAMPLING_RATE: rate,
    }
    if span.dropped_attributes:  # Only the SDK's own mapping has their number, and it is slower.
        attributes = BoundedAttributes(attributes=attributes)
        attributes.dropped = span.dropped_attributes
    return ReadableSpan(
        span.name,
        context,
        span.parent,
        span.resource,
        attributes,
        _bounded(span.events, span.dropped_events),
        _bounded(span.links, span.dropped_links),
        span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _bounded(items: Sequence[Any], dropped: int) -> Any:
    bounded = cast("Any", BoundedList(None))
    bounded.extend(items)
    bounded.dropped = dropped
    return bounded


def _threshold(rate: float) -> int:
    return _RANGE - round(rate * _RANGE)


def _entry(state: TraceState | None, key: str) -> str | None:
    """Return the value of a key in OpenTelemetry's entry of a tracestate."""
    entry = state.get(_TRACE_STATE_KEY) if state else None
    pairs = (part.partition(":") for part in (entry or "").split(";"))
    return next((value for name, _, value in pairs if name == key), None)


def _number(digits: str | None) -> int | None:
    """Parse a 56-bit number in hexadecimal, without its trailing zeros."""
    if digits is None or not _HEX.fullmatch(digits):
        return None
    return int(digits.ljust(_DIGITS, "0"), 16)


def _rate(state: TraceState | None) -> float | None:
    """Return the share that an earlier sampler kept, or `None` if it recorded none."""
    threshold = _number(_entry(state, "th"))
    return None if threshold is None else (_RANGE - threshold) / _RANGE


def _with_rate(state: TraceState | None, rate: float) -> TraceState:
    """Return the tracestate with this share, or with the smaller one of an earlier sampler."""
    state = state or TraceState()
    threshold = _threshold(rate)
    before = _number(_entry(state, "th"))
    if before is not None and before >= threshold:
        return state
    text = f"{threshold:0{_DIGITS}x}".rstrip("0") or "0"
    others = [part for part in (state.get(_TRACE_STATE_KEY) or "").split(";") if part]
    parts = [f"th:{text}", *(part for part in others if not part.startswith("th:"))]
    entry = ";".join(parts)
    return state.update(_TRACE_STATE_KEY, entry) if others else state.add(_TRACE_STATE_KEY, entry)
