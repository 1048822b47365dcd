"""Measured data as plain values: one record per request and one per run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Tokens beyond the first one in the first chunk, as a share of all later tokens: the largest limit,
# and the largest estimate, with which TPOT is defined. TPOT is too low by at most this share.
_LARGEST_LIMIT: Final = 0.2
_LARGEST_ESTIMATE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as measured by the client and the engine. `None` means unknown.

    Latencies count from the scheduled time of the request, not from when it was sent. In an open
    load they therefore include the time that a request waited in the benchmark client. Without
    this, a stall of the server would hide the wait of all requests behind it (coordinated
    omission). `lag_s` is that wait.

    Attributes:
        run: Number of the run in a repeated benchmark.
        index: Index of the request within the run, by scheduled time.
        prompt: Position of the prompt in the list of prompts.
        turn: Turn of the conversation.
        due_s: Scheduled time, in seconds from the start of the run.
        lag_s: Dispatch delay: seconds from the scheduled time to sending.
        e2e_s: Seconds from the scheduled time to the end of the response.
        ttft_s: Seconds from the scheduled time to the first token, including reasoning.
        ttfo_s: Seconds from the scheduled time to the first token after the reasoning.
        token_times_s: Arrival of each chunk with tokens, in seconds from sending.
        first_chunk_share: Fraction of the characters of the response in the first chunk with tokens.
        input_tokens: Number of input tokens, including cached ones.
        output_tokens: Number of output tokens.
        cached_tokens: Number of input tokens from the prompt cache.
        reasoning_tokens: Number of reasoning tokens in the response.
        finish_reason: Finish reason of the response.
        queue_s: Seconds in the engine's queue.
        queue_source: `engine` if the engine reported the queue time; `header` if the response
            headers mark its end, as with llama.cpp; otherwise `remainder`, the time that no phase
            explains.
        prefill_s: Seconds of prompt processing, measured by the engine.
        decode_s: Seconds of generation after the first token, measured by the engine.
        prefilled_tokens: Number of prompt tokens that the engine evaluated.
        decoded_tokens: Number of tokens that the engine generated; `None` also if its decode time
            does not start at the first token, or may not.
        error: Error type of a failed request, `empty_response` for a response without any token.
        http_status: HTTP status of a failed request.
        trace_id: Trace id of the request's span, in hex.
        span_id: Span id of the request's span, in hex.
        prompt_text: Text of the prompt, only with `record_prompts=True`.
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
    first_chunk_share: float | None = None
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
        """Whether the request received a complete response with at least one token."""
        return self.error is None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: time after the first token / (output tokens - 1).

        `None` if the first chunk may hold so many tokens that the value would be wrong.
        """
        tokens = self._visible_tokens
        if self.ttft_s is None or tokens is None or tokens < 2:
            return None
        if self.token_times_s and not self._starts_with_one_token(tokens):
            return None
        return (self.e2e_s - self.ttft_s) / (tokens - 1)

    @property
    def _visible_tokens(self) -> int | None:
        """Output tokens without reasoning that the server does not stream."""
        is_hidden = self.token_times_s and self.ttfo_s == self.ttft_s
        if self.output_tokens is None or not is_hidden:
            return self.output_tokens
        return self.output_tokens - (self.reasoning_tokens or 0)

    def _starts_with_one_token(self, tokens: int) -> bool:
        """Return whether the first chunk holds one token, or few compared with the rest."""
        chunks = len(self.token_times_s)
        if chunks == 1:
            return False
        # Each later chunk holds at least one token, which limits the tokens in the first chunk.
        if tokens - chunks <= _LARGEST_LIMIT * (tokens - 1):
            return True
        # Otherwise, for example with speculative decoding, the length of its text is an estimate.
        share = self.first_chunk_share
        return share is not None and share * tokens - 1 <= _LARGEST_ESTIMATE * (tokens - 1)

    @property
    def engine_tpot_s(self) -> float | None:
        """Time per output token by the engine: decode time / (output tokens - 1)."""
        if self.decode_s is None or self.decoded_tokens is None or self.decoded_tokens < 2:
            return None
        return self.decode_s / (self.decoded_tokens - 1)

    @property
    def gaps_s(self) -> list[float]:
        """Inter-token latencies: seconds between two chunks of the response."""
        return [later - earlier for earlier, later in pairwise(self.token_times_s)]

    @property
    def remainder_s(self) -> float | None:
        """Seconds outside dispatch delay and engine phases: network, client and HTTP overhead."""
        if self.queue_s is None or self.prefill_s is None or self.decode_s is None:
            return None
        if self.queue_source == "remainder":
            # The queue time was derived from the remainder.
            return None
        return self.e2e_s - self.lag_s - self.queue_s - self.prefill_s - self.decode_s

    @property
    def ended_s(self) -> float:
        """End of the response, in seconds from the start of the run."""
        return self.due_s + self.e2e_s

    def to_dict(self) -> dict[str, Any]:
        """Return the known fields as plain data, with times in nanosecond resolution."""
        found = asdict(self, dict_factory=known_fields)
        rounded = {
            name: round(value, 9) if isinstance(value, float) else value
            for name, value in found.items()
        }
        return rounded | {"token_times_s": [round(time_s, 9) for time_s in self.token_times_s]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Create a record from `to_dict()` data. Ignores fields of later versions."""
        given = _fields_of(cls, data)
        given["token_times_s"] = tuple(given.get("token_times_s", ()))
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of a benchmark.

    Attributes:
        started_unix_s: Start of the run as Unix time, in seconds.
        duration_s: Seconds from the start of the run to the end of the last response.
        trace_id: Trace id of the run, which contains a span per request.
        planned: Number of planned requests.
        interrupted: Whether Ctrl-C ended the run early.
        engine: Increase of the engine's counters during the run, by counter name.
        gpu_energy_j: Energy that the GPUs used during the run, in joules.
        gpu_idle_w: Idle power of the GPUs before the run, in watts.
        client_cpu_share: CPU time of this process divided by elapsed time; 1 is one full core.
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
        """Return the known fields as plain data."""
        return asdict(self, dict_factory=known_fields)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Create a record from `to_dict()` data. Ignores fields of later versions."""
        return cls(**_fields_of(cls, data))


def known_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields that are not `None`, as `dict_factory` of `dataclasses.asdict()`."""
    return {name: value for name, value in pairs if value is not None}


def _fields_of(cls: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: data[each.name] for each in fields(cls) if each.name in data}
