"""Queue, prefill and decode of one call: the engine's own timings on the client's clock.

llama.cpp reports prefill and decode, never the wait before them. On a stream it sends the
response headers at the moment a slot takes the request, so the wait is the time from sending
to the headers. On a plain reply the wait is what remains of the time on the wire after
prefill and decode. Either way it is counted from the last attempt, so that a client's retries
and the pauses between them are not taken for the server's queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llamatelemetry.genai.model import EngineTimings

QueueSource = Literal["header", "remainder"]


@dataclass(frozen=True, slots=True)
class Phases:
    """The engine's phases of one call, in seconds. ``None`` is unknown.

    ``time_per_output_token_s`` is decode over the output tokens less one: the first token
    comes out of the prompt's last batch, so decode has produced one fewer. In a batch it is
    what one sequence waits for its next token.
    """

    prefill_s: float
    decode_s: float
    queue_s: float | None
    queue_source: QueueSource | None
    time_per_output_token_s: float | None

    @property
    def time_to_first_token_s(self) -> float | None:
        """Queue and prefill: what the engine took to the first token."""
        return None if self.queue_s is None else self.queue_s + self.prefill_s

    @property
    def request_s(self) -> float | None:
        """Queue, prefill and decode: how long the engine had the request."""
        return None if self.queue_s is None else self.queue_s + self.prefill_s + self.decode_s


def measure_phases(
    timings: EngineTimings,
    *,
    attempt_s: float,
    headers_s: float | None,
    choice_count: int = 1,
    first_token_s: float | None = None,
    has_queue: bool = True,
) -> Phases:
    """Work the phases out of the engine's timings and the client's clock.

    Args:
        timings: as the engine reported them.
        attempt_s: seconds from sending the last attempt to the end of its reply.
        headers_s: seconds from sending the last attempt to its response headers, on a stream.
        choice_count: answers asked for. llama.cpp times only the first of several, which
            leaves no remainder to read a queue from.
        first_token_s: seconds from sending the last attempt to the first token, on a stream:
            without headers the remainder of this is nearer to the queue than that of the whole,
            in which the application takes its time over each chunk.
        has_queue: whether the engine can make a request wait. One that serves a single caller
            in its own process cannot.
    """
    prefill_s = timings.prefill_ms / 1000
    decode_s = timings.decode_ms / 1000
    queue_s: float | None = None
    source: QueueSource | None = None
    if not has_queue:
        queue_s = 0.0
    elif headers_s is not None:
        queue_s, source = headers_s, "header"
    elif first_token_s is not None and choice_count == 1:
        queue_s, source = max(0.0, first_token_s - prefill_s), "remainder"
    elif choice_count == 1:
        # The clocks differ by microseconds: a remainder below zero is no queue at all.
        queue_s, source = max(0.0, attempt_s - prefill_s - decode_s), "remainder"
    later_tokens = (timings.predicted_tokens or 0) - 1
    if timings.decoded_tokens is not None:
        later_tokens = timings.decoded_tokens
    return Phases(
        prefill_s, decode_s, queue_s, source, decode_s / later_tokens if later_tokens > 0 else None
    )
