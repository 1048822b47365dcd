"""Times of the decoding steps of a generation in this process, and the timings derived from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry.genai.model import EngineTimings
from llamatelemetry.genai.streams.chunk_intervals import ChunkIntervals

if TYPE_CHECKING:
    from llamatelemetry.genai.call import Call

STEP_EVENT: Final = "llamatelemetry.generation.step"
"""Name of the span event of a step."""


class GenerationSteps:
    """End times of the steps of one generation, and the tokens per sequence at each.

    Args:
        started_ns: Start of the prompt evaluation, by `time.perf_counter_ns`.
    """

    __slots__ = ("_intervals", "started_ns", "times_ns", "tokens")

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.times_ns: list[int] = []
        self.tokens: list[int] = []
        self._intervals: ChunkIntervals | None = None

    def stream_to(self, call: Call) -> None:
        """Record the intervals between steps as chunk intervals of a call."""
        self._intervals = ChunkIntervals(
            call.record_chunk_intervals, lambda: call.chunk_attributes(call.request.model)
        )

    def add(self, at_ns: int, tokens: int) -> None:
        """Add the end of a step, by `perf_counter_ns`, and the tokens of each sequence so far."""
        self.times_ns.append(at_ns)
        self.tokens.append(tokens)
        if self._intervals is not None:
            self._intervals.add(at_ns)

    def end(self) -> None:
        """Record the remaining intervals."""
        if self._intervals is not None:
            self._intervals.flush()

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of one sequence per second after the first; `None` for fewer than two steps."""
        decoded_ns = self.times_ns[-1] - self.times_ns[0] if self.times_ns else 0
        return (self.tokens[-1] - self.tokens[0]) * 1e9 / decoded_ns if decoded_ns else None

    def timings(
        self,
        provider: str,
        *,
        input_tokens: int | None,
        output_tokens: int | None,
        cached_tokens: int | None = None,
    ) -> EngineTimings | None:
        """Return the engine timings; `None` if there was no token."""
        if not self.times_ns:
            return None
        return EngineTimings(
            prompt_tokens=None if input_tokens is None else input_tokens - (cached_tokens or 0),
            prefill_ms=(self.times_ns[0] - self.started_ns) / 1e6,
            predicted_tokens=output_tokens,
            decode_ms=(self.times_ns[-1] - self.times_ns[0]) / 1e6,
            cached_tokens=cached_tokens,
            decoded_tokens=self.tokens[-1] - self.tokens[0],
            provider=provider,
        )
