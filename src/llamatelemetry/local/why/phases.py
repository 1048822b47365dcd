"""Place the phases of a call on the time axis of its span.

    start ─ attempts, connect, send ─ sent ─ wait ─ go ─ prefill ─ decode ─ decoded ─ arrived ─ end

The engine measured the durations of prefill and decode, and the client measured the other marks.
llama.cpp sends the headers of a stream when a slot takes the request, so `go` is when they came.
Without that mark, `go` is derived from the queue of the engine, the first chunk, or the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llamatelemetry.local.why.calls import Call

# Headers were read late if the engine's times end this long after the last data came.
_LATE_HEADERS_MS: Final = 8.0


def place(call: Call) -> None:
    """Set `go`, `prefilled`, `decoded` and `arrived`, in this order and within the span."""
    start = min(call.sent or 0.0, call.duration)
    end = call.duration
    if call.last_data is not None:
        end = _between(start, call.last_data - (call.last_age or 0.0), call.duration)
    prefill, decode = call.prefill or 0.0, call.decode or 0.0
    call.go = _between(start, _start_of_prefill(call, end), end)
    call.prefilled = min(call.go + prefill, end)
    call.decoded = min(call.prefilled + decode, end)
    call.arrived = end


def sent_at(call: Call) -> float:
    """Return when the request was sent: the client's mark, else derived from the queue."""
    if call.sent is not None:
        return min(call.sent, call.go)
    return 0.0 if call.queue is None else max(0.0, call.go - call.queue)


def _start_of_prefill(call: Call, end: float) -> float:
    sent, queue = call.sent or 0.0, call.queue or 0.0
    prefill, decode = call.prefill or 0.0, call.decode or 0.0
    if not call.has_phases:
        return end if call.headers is None else call.headers
    if call.engine_span is not None:
        return call.engine_span[0] + queue
    if call.queue_source == "header" and call.headers is not None:
        late = end - call.headers - prefill - decode
        return call.headers + late if late < -_LATE_HEADERS_MS else call.headers
    latest = end - prefill - decode
    if call.recorded.streamed and call.first_chunk is not None:
        return min(max(sent + queue, call.first_chunk - prefill), max(latest, sent))
    return sent + queue if call.queue_source == "engine" else latest


def _between(low: float, value: float, high: float) -> float:
    return max(low, min(value, high))
