"""What was measured, as plain data: one record for each request, one for each run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as the client and the engine saw it. Seconds; ``None`` is not known.

    Times to first token and to the end count from when the request was **due**: in an open load
    that is its scheduled time, so that a request which had to wait its turn here has waited.
    ``lag_s`` is that wait: from due to sent.

    Attributes:
        run: which run of a repeated benchmark.
        index: number of the request within the run, by the time it was due.
        prompt: number of the prompt.
        turn: which turn of its conversation.
        due_s: when it was due, from the start of the run.
        lag_s: how much later it was sent.
        e2e_s: from due to the end of the reply.
        ttft_s: from due to the first token, reasoning included.
        ttfo_s: from due to the first token of the answer itself.
        token_times_s: when each piece with a token came, from when the request was sent.
        input_tokens: of the prompt, cached ones included.
        output_tokens: of the reply.
        cached_tokens: how much of the prompt came from the prompt cache.
        reasoning_tokens: how much of the reply was reasoning.
        finish_reason: why the reply ended.
        queue_s: how long the engine let it wait.
        queue_source: ``header`` where the engine told when it began, else ``remainder``.
        prefill_s: the engine's own time for the prompt.
        decode_s: the engine's own time for the reply after its first token.
        prefilled_tokens: what the engine evaluated of the prompt.
        decoded_tokens: what the engine generated.
        error: kind of the failure, if it failed.
        http_status: with it.
        trace_id: of the request's span, as hexadecimal digits.
        span_id: likewise.
        prompt_text: only when asked for.
    """

    run: int = 0
    index: int
    prompt: int
    turn: int = 0
    due_s: float
    lag_s: float
    e2e_s: float
    ttft_s: float | None = None
    ttfo_s: float | None = None
    token_times_s: tuple[float, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    finish_reason: str | None = None
    queue_s: float | None = None
    queue_source: str | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    prefilled_tokens: int | None = None
    decoded_tokens: int | None = None
    error: str | None = None
    http_status: int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    prompt_text: str | None = None

    @property
    def ok(self) -> bool:
        """Whether a whole reply came."""
        return self.error is None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: what follows the first token, over the tokens after it."""
        if self.ttft_s is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """The times between two pieces of the reply: the inter-token latencies."""
        return [later - earlier for earlier, later in pairwise(self.token_times_s)]

    @property
    def remainder_s(self) -> float | None:
        """What neither this client's wait nor the engine's phases explain: network and clients."""
        if self.queue_s is None or self.prefill_s is None or self.decode_s is None:
            return None
        if self.queue_source == "remainder":
            return None  # the queue itself was read from it
        return self.e2e_s - self.lag_s - self.queue_s - self.prefill_s - self.decode_s

    @property
    def ended_s(self) -> float:
        """When it ended, from the start of the run."""
        return self.due_s + self.e2e_s

    def to_dict(self) -> dict[str, Any]:
        """Give what is known as plain data; times to the nanosecond."""
        found = {name: value for name, value in asdict(self).items() if value is not None}
        for name, value in found.items():
            if isinstance(value, float):
                found[name] = round(value, 9)
        found["token_times_s"] = [round(time_s, 9) for time_s in self.token_times_s]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave; members of a later version are passed over."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        given["token_times_s"] = tuple(given.get("token_times_s", ()))
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run: its span of time, what the engine's own counters say of it, what was odd.

    Attributes:
        started_unix_s: wall clock at its start.
        duration_s: from the first request being due to the end of the last reply.
        trace_id: the trace that holds a span for each request.
        planned: how many requests there were to be.
        interrupted: whether it was broken off.
        engine: differences of the engine's counters over the run, by their names.
        gpu_energy_j: what the GPUs used during the run.
        gpu_idle_w: what they draw when idle, measured before it.
        client_cpu_share: how busy this process was, 1 being one whole core.
    """

    started_unix_s: float
    duration_s: float
    trace_id: str | None = None
    planned: int
    interrupted: bool = False
    engine: dict[str, float] = field(default_factory=dict[str, float])
    gpu_energy_j: float | None = None
    gpu_idle_w: float | None = None
    client_cpu_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give what is known as plain data."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave; members of a later version are passed over."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})
