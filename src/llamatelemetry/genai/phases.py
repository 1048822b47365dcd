"""Queue, prefill and decode of one call: the engine's own timings, and the client's clock.

Some engines report the queue. llama.cpp reports prefill and decode, but not the wait before them. On
a stream it sends the response headers when a slot takes the request, so the queue is the time from
sending to the headers. On a plain response the queue is the rest of the time on the wire, without prefill and
decode. Both count from the last attempt, so that retries and the pauses between them are not
taken for the server's queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamatelemetry.genai.model import Phases

if TYPE_CHECKING:
    from llamatelemetry.genai.model import EngineTimings, Outcome, QueueSource


def phases_of(outcome: Outcome, timings: EngineTimings) -> Phases:
    """Return the phases of a call that has ended."""
    return measure_phases(
        timings,
        attempt_s=outcome.attempt_s,
        headers_s=outcome.headers_s,
        choice_count=outcome.request.choice_count,
        first_token_s=outcome.first_token_attempt_s,
        has_queue=outcome.request.has_queue,
    )


def measure_phases(
    timings: EngineTimings,
    *,
    attempt_s: float,
    headers_s: float | None,
    choice_count: int = 1,
    first_token_s: float | None = None,
    has_queue: bool = True,
) -> Phases:
    """Return the phases by the engine's timings and the client's clock.

    Args:
        timings: Timings that the engine reported.
        attempt_s: Seconds from sending the last attempt to the end of its response.
        headers_s: Seconds from sending the last attempt to its response headers, on a stream.
        choice_count: Number of requested choices. llama.cpp times only the first of several,
            so that no queue can be derived from the remainder.
        first_token_s: Seconds from sending the last attempt to the first token, on a stream.
            Without headers, its remainder is closer to the queue than that of the whole call,
            which includes the application's own time between chunks. It is not if the engine held
            the first token back, as it does for tool calls and JSON. So the smaller one counts.
        has_queue: Whether the engine can make a request wait. An in-process engine with a
            single caller cannot.
    """
    prefill_s, decode_s = _seconds(timings.prefill_ms), _seconds(timings.decode_ms)
    queue_s: float | None = None
    source: QueueSource | None = None
    if timings.queue_ms is not None:
        queue_s, source = timings.queue_ms / 1000, "engine"
    elif not has_queue:
        queue_s = 0.0
    elif timings.is_queue_derivable and prefill_s is not None and decode_s is not None:
        if headers_s is not None:
            queue_s, source = headers_s, "header"
        elif choice_count == 1:
            # The clocks differ by microseconds: a negative remainder means no queue.
            until_s = attempt_s - decode_s
            if first_token_s is not None:
                until_s = min(until_s, first_token_s)
            queue_s, source = max(0.0, until_s - prefill_s), "remainder"
    first_s = _seconds(timings.first_token_ms)
    adjoin = timings.has_exact_bounds
    if first_s is None and adjoin and queue_s is not None and prefill_s is not None:
        first_s = queue_s + prefill_s
    request_s: float | None = None
    if adjoin and queue_s is not None and prefill_s is not None and decode_s is not None:
        request_s = queue_s + prefill_s + decode_s
    token_s = _per_token_s(timings)
    return Phases(prefill_s, decode_s, queue_s, source, token_s, first_s, request_s)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _per_token_s(timings: EngineTimings) -> float | None:
    later_tokens = (timings.predicted_tokens or 0) - 1
    if timings.decoded_tokens is not None:
        later_tokens = timings.decoded_tokens
    if timings.decode_ms is None or not timings.has_exact_bounds or later_tokens <= 0:
        return None
    return timings.decode_ms / 1000 / later_tokens
