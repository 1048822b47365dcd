"""Which traces are kept: the rules, the samplers of the SDK that carry them, what is recorded.

A trace is kept when any rule keeps it. `only_errors` and `only_slow` look at finished spans, so
they need the processor of `llamatelemetry.otel.tail_sampling`; `ratio` alone is decided when
the trace begins.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import SpanContext, StatusCode, TraceState, get_current_span

from llamatelemetry.semconv.attributes import ERROR_TYPE, SAMPLING_RATE, SAMPLING_RULE

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link, SpanKind
    from opentelemetry.util.types import Attributes

ERROR: Final = "error"
SLOW: Final = "slow"
RATIO: Final = "ratio"

# https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/
# A span is sampled when its randomness, 56 bits, is not below the rejection threshold.
_TRACE_STATE_KEY: Final = "ot"
_DIGITS: Final = 14
_RANGE: Final = 1 << 56
_HEX: Final = re.compile(f"[0-9a-f]{{1,{_DIGITS}}}")


class Kept(NamedTuple):
    """Why a trace is kept, and the share of traces like it that are."""

    rule: str
    rate: float


@dataclass(frozen=True)
class Policy:
    """The rules of tail sampling. A trace is kept when any of them keeps it."""

    errors: bool = False
    """Keep a trace with a span of status ERROR, or with `error.type`."""
    slow_s: float | None = None
    """Keep a trace with a span, the local root in general, that lasted so many seconds."""
    rate: float | None = None
    """Keep this share of the other traces, by trace id."""

    @classmethod
    def named(cls, rules: str, *, rate: float, slow_s: float) -> Policy:
        """The policy that a comma-separated value of the option `sampling` stands for.

        Args:
            rules: of `only_errors`, `only_slow` and `ratio`.
            rate: for `ratio`.
            slow_s: for `only_slow`.
        """
        names = rules.split(",")
        return cls(
            errors="only_errors" in names,
            slow_s=slow_s if "only_slow" in names else None,
            rate=rate if "ratio" in names else None,
        )

    def __str__(self) -> str:
        rules = {"only_errors": self.errors, "only_slow": self.slow_s, "ratio": self.rate}
        return ",".join(n for n, given in rules.items() if given is not None and given is not False)

    def of_span(self, span: ReadableSpan) -> Kept | None:
        """The verdict that one finished span is enough for: it keeps its whole trace."""
        if self.errors and _has_failed(span):
            return Kept(ERROR, 1.0)
        if self.slow_s is not None and _duration_s(span) >= self.slow_s:
            return Kept(SLOW, 1.0)
        return None

    def at_end(self, context: SpanContext) -> Kept | None:
        """The verdict on a trace of which no span was enough, from the context of any of them."""
        if self.rate is not None and is_sampled(context.trace_id, context.trace_state, self.rate):
            return Kept(RATIO, self.rate)
        return None


def _has_failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR or ERROR_TYPE in (span.attributes or {})


def _duration_s(span: ReadableSpan) -> float:
    if span.start_time is None or span.end_time is None:
        return 0.0
    return (span.end_time - span.start_time) / 1e9


def is_sampled(trace_id: int, state: TraceState | None, rate: float) -> bool:
    """Whether a share of `rate` includes this trace: the same answer in every service."""
    given = _number(_entry(state, "rv"))
    return (trace_id % _RANGE if given is None else given) >= _threshold(rate)


class RatioSampler(Sampler):
    """Keeps a share of all traces, and says in their tracestate (`ot=th:...`) which share."""

    def __init__(self, rate: float) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate} is not accepted; expected a number from 0 to 1")
        self.rate = rate

    def should_sample(  # noqa: D102, PLR0917 - as the SDK has it
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        del name, kind, links  # a share of all traces, whatever they are
        parent = get_current_span(parent_context).get_span_context()
        state = parent.trace_state if parent.is_valid else trace_state
        if not is_sampled(trace_id, state, self.rate):
            return SamplingResult(Decision.DROP, None, state)
        recorded = {**(attributes or {}), SAMPLING_RULE: RATIO, SAMPLING_RATE: self.rate}
        return SamplingResult(Decision.RECORD_AND_SAMPLE, recorded, _with_rate(state, self.rate))

    def get_description(self) -> str:  # noqa: D102 - as the SDK has it
        return f"RatioSampler{{{self.rate}}}"


class _SampledParent(Sampler):
    """Keeps what has a sampled parent, and says which share the parent's sampler keeps."""

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
    """`sampling=ratio`: what the parent says, else the share by trace id."""
    follow = _SampledParent()
    return ParentBased(
        RatioSampler(rate), remote_parent_sampled=follow, local_parent_sampled=follow
    )


class RuleSampler(ParentBased):
    """Records every trace, unless its parent says otherwise: a `TailSampler` decides at its end.

    `on_first_use` is called once, before the first span: a sampler made by an entry point knows
    no provider whose spans it could hold back.
    """

    def __init__(self, policy: Policy, on_first_use: Any = None) -> None:
        super().__init__(ALWAYS_ON)
        self.policy = policy
        self._on_first_use = on_first_use

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:  # noqa: D102 - likewise
        prepare, self._on_first_use = self._on_first_use, None
        if prepare is not None:
            prepare(self)
        return super().should_sample(*args, **kwargs)

    def get_description(self) -> str:  # noqa: D102 - likewise
        return f"RuleSampler{{{self.policy}}}"


def marked(span: ReadableSpan, kept: Kept) -> ReadableSpan:
    """A copy of a finished span that says why it was kept, for whoever counts spans."""
    old: Any = span.attributes
    # Without the limit on their number, which would throw the first attribute out.
    attributes = BoundedAttributes(attributes=old, immutable=False)
    attributes.dropped = span.dropped_attributes
    context = span.context
    # Of what an earlier sampler has let through. Both go by the same number of the trace.
    before = _rate(context.trace_state if context is not None else None)
    rate = kept.rate if before is None else min(kept.rate, before)
    attributes.update({SAMPLING_RULE: kept.rule, SAMPLING_RATE: rate})
    copied: Any = copy.copy(span)
    copied._attributes = attributes
    if kept.rule == RATIO and context is not None:
        copied._context = SpanContext(
            context.trace_id,
            context.span_id,
            context.is_remote,
            context.trace_flags,
            _with_rate(context.trace_state, kept.rate),
        )
    return copied


def _threshold(rate: float) -> int:
    return _RANGE - round(rate * _RANGE)


def _entry(state: TraceState | None, key: str) -> str | None:
    """The value of one key in OpenTelemetry's own entry of a tracestate."""
    entry = state.get(_TRACE_STATE_KEY) if state else None
    pairs = (part.partition(":") for part in (entry or "").split(";"))
    return next((value for name, _, value in pairs if name == key), None)


def _number(digits: str | None) -> int | None:
    """56 bits from hexadecimal digits, of which trailing zeros may be missing."""
    if digits is None or not _HEX.fullmatch(digits):
        return None
    return int(digits.ljust(_DIGITS, "0"), 16)


def _rate(state: TraceState | None) -> float | None:
    """The share that an earlier sampler kept; None when none has said so."""
    threshold = _number(_entry(state, "th"))
    return None if threshold is None else (_RANGE - threshold) / _RANGE


def _with_rate(state: TraceState | None, rate: float) -> TraceState:
    """The tracestate with our threshold, unless an earlier sampler kept a smaller share."""
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
