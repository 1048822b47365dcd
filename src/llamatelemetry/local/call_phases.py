"""Phases and tokens of one call, by the span of its client and the spans of its engine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from llamatelemetry.genai.json_access import as_float
from llamatelemetry.genai.phases import measure_phases
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamatelemetry.local.engine_spans import EngineRequest

PhaseSource = Literal["client_span", "engine_span"]


@dataclass(frozen=True, slots=True)
class CallPhases:
    """Phases of one call in its engine, in milliseconds; `None` is unknown.

    Attributes:
        queue_ms: Wait before the prefill.
        prefill_ms: Prompt evaluation.
        decode_ms: Generation of the tokens after the first.
        ttft_ms: Time to the first token. A client measures it on streams only.
        tpot_ms: Time per output token after the first.
        sources: Source of each known figure, by the name of its field.
    """

    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    sources: Mapping[str, PhaseSource] = field(default_factory=dict[str, PhaseSource])


_FIELDS: Final = ("queue_ms", "prefill_ms", "decode_ms", "ttft_ms", "tpot_ms")


def phases_of_call(
    attributes: Mapping[str, object], requests: Sequence[EngineRequest] = ()
) -> CallPhases:
    """Return the phases of a call, by its client's span and by the spans of its engine.

    The figures on the client's span are those of the response. They win, because the engine's span
    has the same ones, and the client knows which attempt of several it got its response from. The
    engine's span fills in what is missing.

    Args:
        attributes: Attributes of the client's span; empty if there is none.
        requests: The engine's spans of the call. For several choices or prompts, the phases are
            those of the sequence that ended last, which the call waited for.
    """
    values: dict[str, float] = {}
    sources: dict[str, PhaseSource] = {}
    by_source: dict[PhaseSource, Mapping[str, float | None]] = {
        "client_span": _phases_on_client_span(attributes),
        "engine_span": _phases_on_engine_span(last_attempt(requests)),
    }
    for source, known in by_source.items():
        for name in _FIELDS:
            value = known.get(name)
            if value is not None and name not in values:
                values[name], sources[name] = value, source
    return CallPhases(**values, sources=sources)


def _phases_on_client_span(attributes: Mapping[str, object]) -> dict[str, float | None]:
    def milliseconds(name: str, scale: float = 1) -> float | None:
        value = as_float(attributes.get(name))
        return None if value is None else value * scale

    # The first chunk may contain no token.
    first_chunk_ms = milliseconds(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, 1000)
    return {
        "queue_ms": milliseconds(names.QUEUE_DURATION, 1000),
        "prefill_ms": milliseconds(names.PREFILL_MS),
        "decode_ms": milliseconds(names.DECODE_MS),
        "ttft_ms": milliseconds(names.TTFT_MS) or first_chunk_ms,
        "tpot_ms": milliseconds(names.TPOT_MS),
    }


def _phases_on_engine_span(requests: Sequence[EngineRequest]) -> dict[str, float | None]:
    if not requests:
        return {}
    timings = max(requests, key=_end_ns).timings
    phases = measure_phases(timings, attempt_s=0, headers_s=None)
    first_s, per_token_s = phases.time_to_first_token_s, phases.time_per_output_token_s
    return {
        "queue_ms": timings.queue_ms,
        "prefill_ms": timings.prefill_ms,
        "decode_ms": timings.decode_ms,
        "ttft_ms": None if first_s is None else first_s * 1000,
        "tpot_ms": None if per_token_s is None else per_token_s * 1000,
    }


def last_attempt(requests: Iterable[EngineRequest]) -> list[EngineRequest]:
    """Return the sequences of the last attempt. The client did not use those of earlier ones.

    Retries of a request have other identifiers, its choices and prompts do not. If the client chose
    the identifier, retries have another start, while all choices start when the request arrives.
    """
    attempts: defaultdict[str, list[EngineRequest]] = defaultdict(list)
    for request in requests:
        attempts[request.key].append(request)
    if not attempts:
        return []
    found = max(attempts.values(), key=lambda attempt: max(map(_end_ns, attempt)))
    arrived_ns: dict[str, int] = {}
    for request in found:
        started_ns = arrived_ns.get(request.request_id, 0)
        arrived_ns[request.request_id] = max(started_ns, request.span.start_ns)
    return [each for each in found if each.span.start_ns == arrived_ns[each.request_id]]


def _end_ns(request: EngineRequest) -> int:
    return request.span.end_ns


class EngineUsage(NamedTuple):
    """Token counts of a call by the spans of its engine; `None` is unknown."""

    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None


def usage_of(requests: Iterable[EngineRequest]) -> EngineUsage:
    """Return the tokens of a call, as its response counts them: a prompt once for all its choices."""
    by_prompt: dict[str, EngineRequest] = {}
    sequences = last_attempt(requests)
    for request in sequences:
        by_prompt.setdefault(request.request_id, request)
    prompts = by_prompt.values()
    return EngineUsage(
        _sum_if_known(request.input_tokens for request in prompts),
        _sum_if_known(request.timings.cached_tokens for request in prompts),
        _sum_if_known(request.timings.predicted_tokens for request in sequences),
    )


def _sum_if_known(counts: Iterable[int | None]) -> int | None:
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if known and len(known) == len(found) else None
