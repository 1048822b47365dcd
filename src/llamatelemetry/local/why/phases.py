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
    """Set `go`, `prefilled`, `decoded` and `arrived`, in this order and within the span.

    Also moves `sent` to before the engine's work: a blocked client notes it late.
    """
    end = call.duration
    if call.last_data is not None:
        end = _between(0.0, call.last_data - (call.last_age or 0.0), call.duration)
    if call.sent is not None:
        call.sent = _between(0.0, min(call.sent, _latest_send(call, end)), end)
    start = call.sent or 0.0
    prefill, decode = call.prefill or 0.0, call.decode or 0.0
    call.go = _between(start, _start_of_prefill(call, end), end)
    call.prefilled = min(call.go + prefill, end)
    call.decoded = min(call.prefilled + decode, end)
    call.arrived = end


def _latest_send(call: Call, end: float) -> float:
    """Return when the engine had the request at the latest, but not before the connection."""
    if call.engine_span is not None:
        latest = call.engine_span[0]
    else:
        queue = (call.queue or 0.0) if call.queue_source == "engine" else 0.0
        latest = end - queue - (call.prefill or 0.0) - (call.decode or 0.0)
    connected = call.connect[1] if call.connect else 0.0
    return max(latest, connected, call.last_attempt or 0.0)


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
