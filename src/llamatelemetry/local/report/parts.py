"""The parts of each call's time: what `why` found, else what client and engine measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from llamatelemetry.local.call_phases import phases_of_call
from llamatelemetry.local.why import PART_TITLES, Explainer
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.recording import Recording

# Words for the legend. Those of the other parts come from `why`.
_TITLES: Final = {
    "queue": "queue",
    "before_first_token": "before the first token, outside the engine",
    "prefill": "prefill",
    "decode": "decode",
    "after_first_token": "after the first token, outside the engine",
    "outside_engine": "outside the engine",
    "unexplained": "not broken down",
}


class CallTime(NamedTuple):
    """The parts of a call in the order of time: name, milliseconds, evidence. They add up.

    `sentence` says why the call took so long, if that is known.
    """

    parts: Sequence[tuple[str, float, str]]
    sentence: str = ""


class CallTimes(NamedTuple):
    """The times of explained calls by span id, the words for all parts, and notes on all calls."""

    calls: Mapping[str, CallTime]
    titles: Mapping[str, str]
    notes: Sequence[str]


MEASURED: Final = CallTimes({}, _TITLES, ())
"""Only words: each call has the parts that `measured_parts` returns."""


def explained_times(
    recorded: Recording, calls: Sequence[JoinedCall], detailed: Container[str]
) -> CallTimes:
    """Return the parts of the calls of a recording as `why` explains them.

    Args:
        recorded: The recording.
        calls: Its calls.
        detailed: Span ids of the calls that get evidence and a sentence.
    """
    found = Explainer(recorded, calls)
    times = {
        call.span_id: CallTime(
            [(part.name, part.ms, part.evidence) for part in call.parts], call.sentence
        )
        if call.span_id in detailed
        else CallTime([(part.name, part.ms, "") for part in call.parts])
        for call in found.calls()
    }
    # The legends have the order of the words: that of `why`, which is the order of time.
    others = {name: title for name, title in _TITLES.items() if name not in PART_TITLES}
    return CallTimes(times, {**PART_TITLES, **others}, found.notes)


def measured_parts(call: JoinedCall) -> CallTime:
    """Return the parts of a call as client and engine measured them.

    `queue`, `prefill` and `decode` come from the engine. A client that streams knows when the first
    token came, so that what remains is `before_first_token` and `after_first_token`. Otherwise it
    is `outside_engine`, or `unexplained` if the engine told nothing.
    """
    phases = phases_of_call(call.attributes, call.requests)
    known = [
        ("queue", phases.queue_ms),
        ("prefill", phases.prefill_ms),
        ("decode", phases.decode_ms),
    ]
    rest = "outside_engine" if any(ms for _, ms in known) else "unexplained"
    streamed = call.attributes.get(names.GEN_AI_REQUEST_STREAM) is True
    if streamed and phases.ttft_ms is not None and phases.sources["ttft_ms"] == "client_span":
        # The engine's phases end with the first token, and begin somewhere before it.
        elsewhere_ms = phases.ttft_ms - (phases.queue_ms or 0) - (phases.prefill_ms or 0)
        known.insert(1, ("before_first_token", elsewhere_ms))
        rest = "after_first_token"
    parts: list[tuple[str, float, str]] = []
    remaining_ms = max(0.0, call.duration_ms)
    for name, part_ms in known:
        # The clocks of client and engine differ a little: no part exceeds what remains.
        taken_ms = min(max(part_ms or 0.0, 0.0), remaining_ms)
        remaining_ms -= taken_ms
        if taken_ms:
            parts.append((name, taken_ms, ""))
    if remaining_ms:
        parts.append((rest, remaining_ms, ""))
    return CallTime(parts)
