"""Calls of models, each with all spans that describe it: of the client, of proxies and of the engine.

A call is counted once, however many programs record it. The client's span is the call. What is below
it in the trace is the same call, seen by a lower layer:

- a request in an engine's own spans (`engine_spans`)
- a SERVER span of a model operation
- a call with the same operation and the same response or tokens, as a proxy or a framework records it

A request that no client has recorded is a call of its own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llamatelemetry.local.engine_spans import (
    EXPORTING_ENGINES,
    EngineRequest,
    is_engine_request,
    is_engine_scope,
    read_engine_request,
)
from llamatelemetry.local.records import KIND_CLIENT, KIND_SERVER
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.gpu import GPU_ENERGY
from llamatelemetry.semconv.operations import INFERENCE_OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llamatelemetry.local.records import SpanRecord

# Spans of these operations contain calls. They are not calls themselves, even if they are CLIENT
# spans of a remote agent or tool.
_NO_CALLS: Final = frozenset(
    {"create_agent", "invoke_agent", "invoke_workflow", "execute_tool", "plan"}
)
_TOKENS: Final = (names.GEN_AI_USAGE_INPUT_TOKENS, names.GEN_AI_USAGE_OUTPUT_TOKENS)
# What the outer span of a call may lack. Its own clock stays: a lower layer has another one.
_FILLED: Final = (
    *_TOKENS,
    *(names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, names.GEN_AI_RESPONSE_MODEL),
    *(names.QUEUE_DURATION, names.PREFILL_MS, names.DECODE_MS, names.TPOT_MS),
    GPU_ENERGY,
)

SpanId = tuple[str, str]
"""Trace id and span id."""


def is_call(span: SpanRecord) -> bool:
    """Return whether a span is a call of a model, remote or in process."""
    operation = span.attributes.get(names.GEN_AI_OPERATION_NAME)
    if not isinstance(operation, str) or operation in _NO_CALLS or names.PHASE in span.attributes:
        return False
    return span.kind == KIND_CLIENT or operation in INFERENCE_OPERATIONS


@dataclass(slots=True)
class JoinedCall:
    """One call.

    Attributes:
        span: The client's span. Without one, the first span of the engine.
        is_recorded_by_client: Whether `span` is the client's.
        below: Spans of the same call by lower layers, except those of `requests`.
        requests: The call in the engine's own spans.
    """

    span: SpanRecord
    is_recorded_by_client: bool
    below: list[SpanRecord] = field(default_factory=list["SpanRecord"])
    requests: list[EngineRequest] = field(default_factory=list[EngineRequest])

    @property
    def attributes(self) -> Mapping[str, object]:
        """Attributes of the client's span, completed by lower layers; empty without that span."""
        if not self.is_recorded_by_client:
            return {}
        found = dict(self.span.attributes)
        for span in self.below:
            for name in _FILLED:
                if name in span.attributes:
                    found.setdefault(name, span.attributes[name])
        return found

    @property
    def spans(self) -> Iterator[SpanRecord]:
        """All spans of the call."""
        yield self.span
        yield from self.below
        yield from (request.span for request in self.requests if request.span is not self.span)

    @property
    def duration_ms(self) -> float:
        """Duration in milliseconds. Without a span of the client, it is that of the engine's spans."""
        if self.is_recorded_by_client:
            return self.span.duration_ms
        return (max(each.end_ns for each in self.spans) - self.span.start_ns) / 1e6


def join_calls(spans: Iterable[SpanRecord]) -> list[JoinedCall]:
    """Return the calls among spans, in the order of their first spans.

    The spans may be of several traces and in any order: an engine's often arrive before or after
    those of the client.
    """
    traces = _Traces()
    for span in spans:
        traces.add(span)
    return traces.calls()


def first_end_without_engine_span(spans: Iterable[SpanRecord]) -> int | None:
    """Return when the first successful call ended that lacks the span of its engine, in ns.

    Only calls of engines that can export spans count.
    """
    ends = (
        call.span.end_ns
        for call in join_calls(spans)
        if not call.requests
        and not call.span.failed
        and str(call.attributes.get(names.GEN_AI_PROVIDER_NAME)) in EXPORTING_ENGINES
    )
    return min(ends, default=None)


class _Traces:
    """The spans of a recording, as far as they are needed to find out which belong together."""

    def __init__(self) -> None:
        self._parents: dict[SpanId, SpanId | None] = {}
        self._calls: dict[SpanId, SpanRecord] = {}
        self._engine_spans: dict[SpanId, SpanRecord] = {}
        self._outers: dict[SpanId, SpanId] = {}
        self._order: dict[SpanId, int] = {}
        self._calls_of_response: defaultdict[str, list[SpanId]] = defaultdict(list)
        self._calls_of_trace: defaultdict[str, list[SpanId]] = defaultdict(list)

    def add(self, span: SpanRecord) -> None:
        found = _id_of(span)
        if found in self._parents:  # exported twice
            return
        parent = span.parent_span_id
        self._parents[found] = None if parent is None else (span.trace_id, parent)
        if is_engine_request(span) or (is_engine_scope(span) and not is_call(span)):
            self._engine_spans[found] = span
        elif is_call(span):
            self._calls[found] = span
            self._calls_of_trace[span.trace_id].append(found)
            response_id = span.attributes.get(names.GEN_AI_RESPONSE_ID)
            if isinstance(response_id, str) and span.kind == KIND_CLIENT:
                self._calls_of_response[response_id].append(found)
        else:
            return
        self._order[found] = len(self._order)

    def calls(self) -> list[JoinedCall]:
        for at in self._calls:
            outer = self._outer(at)
            if outer is not None and self._outermost(outer) != at:  # Faulty ids may form a circle.
                self._outers[at] = outer
        joined = {
            at: JoinedCall(span, True) for at, span in self._calls.items() if at not in self._outers
        }
        for at in self._outers:
            joined[self._outermost(at)].below.append(self._calls[at])
        alone: dict[object, JoinedCall] = {}
        for request in self._engine_requests():
            span = request.span
            above = self._call_of(request)
            if above is not None:
                joined[self._outermost(above)].requests.append(request)
            elif request.is_language_model and not self._may_be_part_of_a_call(span):
                # Without a parent, each choice of a call has a trace of its own.
                instance = str(span.resource.get("service.instance.id"))
                same = (instance, request.engine, request.key, span.start_ns)
                alone.setdefault(same, JoinedCall(span, False)).requests.append(request)
        found = [*joined.values(), *alone.values()]
        return sorted(found, key=lambda call: self._order[_id_of(call.span)])

    def _engine_requests(self) -> Iterator[EngineRequest]:
        steps: defaultdict[SpanId, list[SpanRecord]] = defaultdict(list)
        found = {at: span for at, span in self._engine_spans.items() if is_engine_request(span)}
        for span in self._engine_spans.values():
            above = next((each for each in self._ancestors(span) if each in found), None)
            if above is not None and span.scope == found[above].scope:
                steps[above].append(span)
        for at, span in found.items():
            yield read_engine_request(span, steps[at])

    def _outer(self, at: SpanId) -> SpanId | None:
        """Return the nearest span above that is the same call."""
        span = self._calls[at]
        for above in self._ancestors(span):
            if above in self._calls and _is_same_call(self._calls[above], span):
                return above
        return self._call_around(span) if span.kind == KIND_SERVER else None

    def _outermost(self, at: SpanId) -> SpanId:
        """Return the span that stands for a call: the outermost one that is the same call."""
        while at in self._outers:
            at = self._outers[at]
        return at

    def _call_of(self, request: EngineRequest) -> SpanId | None:
        """Return the call that an engine's request belongs to.

        It is the nearest one above the engine's span. If the client has not sent its trace context,
        it is the one whose response has the identifier of the request.
        """
        span = request.span
        for at in self._ancestors(span):
            if at in self._calls:
                return at
        by_id = self._calls_of_response
        same = by_id.get(request.request_id) or by_id.get(request.key) or ()
        # A proxy hands on the identifier. Clients may use one of their own several times.
        outermost = {self._outermost(at) for at in same}
        return outermost.pop() if len(outermost) == 1 else self._call_around(span)

    def _call_around(self, span: SpanRecord) -> SpanId | None:
        """Return the only call that was open when a span began, if a span between them is missing."""
        if not self._is_ancestor_missing(span):
            return None
        around = [
            at
            for at in self._calls_of_trace[span.trace_id]
            if (call := self._calls[at]) is not span
            and call.kind == KIND_CLIENT
            and call.start_ns <= span.start_ns <= call.end_ns
        ]
        return around[0] if len(around) == 1 else None

    def _may_be_part_of_a_call(self, span: SpanRecord) -> bool:
        """Return whether a span may be part of one of several calls, because its parent is missing."""
        return self._is_ancestor_missing(span) and bool(self._calls_of_trace[span.trace_id])

    def _is_ancestor_missing(self, span: SpanRecord) -> bool:
        *_, last = _id_of(span), *self._ancestors(span)
        return last not in self._parents

    def _ancestors(self, span: SpanRecord) -> Iterator[SpanId]:
        """Yield the ids of the ancestors of a span, up to the root or the first missing one."""
        seen: set[SpanId] = set()
        at = self._parents[_id_of(span)]
        while at is not None and at not in seen:
            yield at
            seen.add(at)
            at = self._parents.get(at)


def _id_of(span: SpanRecord) -> SpanId:
    return span.trace_id, span.span_id


def _is_same_call(outer: SpanRecord, inner: SpanRecord) -> bool:
    """Return whether a call below another one is the same call.

    An agent behind an interface of a model calls models, too. Its own calls have other tokens.
    """
    if inner.kind == KIND_SERVER:
        return True
    if (
        outer.attributes[names.GEN_AI_OPERATION_NAME]
        != inner.attributes[names.GEN_AI_OPERATION_NAME]
    ):
        return False
    if outer.failed and inner.failed:
        return True
    response_id = outer.attributes.get(names.GEN_AI_RESPONSE_ID)
    if response_id is not None and response_id == inner.attributes.get(names.GEN_AI_RESPONSE_ID):
        return True
    counts = [[span.attributes.get(name) for name in _TOKENS] for span in (outer, inner)]
    return counts[0] == counts[1] and any(count is not None for count in counts[0])
