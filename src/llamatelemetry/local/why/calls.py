"""Calls as plain values for `why`: what each span says about its client, engine and prompt.

All times are in milliseconds. Times within a call count from the start of its span.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamatelemetry.local.calls import RecordedCall
    from llamatelemetry.local.records import SpanRecord

PHASES: Final = ("queue", "prefill", "decode")
WHOLE_CALL: Final = "call"


class Attempt(NamedTuple):
    """A failed attempt: its start, its duration, and its HTTP status or exception class."""

    at: float
    ms: float
    status: str


class Gap(NamedTuple):
    """A pause before a chunk. `age` is how long the chunk had been in the socket when read."""

    at: float
    ms: float
    age: float | None


class Section(NamedTuple):
    """A section of a prompt, or a group of sections: kind, characters and keyed hash."""

    kind: str
    chars: int
    digest: str

    @property
    def section_count(self) -> int:
        """Number of sections: that of a group is in its kind, such as `*5`."""
        return int(self.kind[1:]) if self.kind[:1] == "*" and self.kind[1:].isdecimal() else 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """The sections of a prompt, compared with those of earlier calls of the process.

    Attributes:
        reference: Span id of the call whose prompt shares the most characters.
        same_chars: Characters that it shares, in any position.
        common_chars: Length of their common prefix.
        first_change: Name of the first section that differs; `None` if the prompt only grew.
        change_at: Offset of the change within that section, in characters.
        prefix_reference: Span id of the call with the longest common prefix.
        prefix_chars: Length of this prefix.
    """

    chars: int
    sections: Sequence[Section] = ()
    reference: str | None = None
    same_chars: int = 0
    common_chars: int = 0
    first_change: str | None = None
    change_at: int | None = None
    prefix_reference: str | None = None
    prefix_chars: int = 0


class ProcessTimes(NamedTuple):
    """Times of the server process in one phase: on a CPU, waiting for one, and stopped.

    `throttled` is how long the CPU limit of its container was used up, summed over CPUs.
    """

    cpu: float
    run_delay: float
    stopped: float
    throttled: float = 0.0


@dataclass(slots=True)
class Call:
    """A call. Unknown values are `None`; `place()` sets the last four attributes.

    Attributes:
        server: Host and port; empty for an engine in the process.
        run: Number of the run in the recording, from 1.
        at: Start, since the start of the recording.
        queue: Queue as reported by `queue_source`.
        processed: Prompt tokens that the prefill processed, without cached ones.
        first_chunk: When the first chunk of the response came.
        headers: When the response headers came.
        last_data: When the client read the last data.
        last_age: How long this data had been in the socket.
        process: Times of the server process by phase, or in the whole call, if it runs on this machine.
        process_start: When a process of the server started, if that was during the call.
        engine_span: Start and end of the engine's own span of the call.
        go: Start of the prefill.
        prefilled: End of the prefill.
        decoded: End of the decode.
        arrived: When the last data arrived.
    """

    span: SpanRecord
    recorded: RecordedCall
    server: str
    provider: str
    run: int
    at: float
    duration: float
    queue: float | None = None
    queue_source: str | None = None
    prefill: float | None = None
    decode: float | None = None
    processed: int | None = None
    first_chunk: float | None = None
    sent: float | None = None
    headers: float | None = None
    last_data: float | None = None
    last_age: float | None = None
    connect: tuple[float, float] | None = None
    attempts: Sequence[Attempt] = ()
    last_attempt: float | None = None
    gaps: Sequence[Gap] = ()
    blocked: Sequence[tuple[float, float]] = ()
    prompt: Prompt | None = None
    cache_prompt: bool | None = None
    process: Mapping[str, ProcessTimes] = field(default_factory=dict[str, ProcessTimes])
    process_start: float | None = None
    slots: int | None = None
    engine_span: tuple[float, float] | None = None
    go: float = 0.0
    prefilled: float = 0.0
    decoded: float = 0.0
    arrived: float = 0.0

    @property
    def name(self) -> str:
        """Short name of the call for evidence."""
        return self.span.span_id[:6]

    @property
    def has_phases(self) -> bool:
        """Whether the durations of prefill and decode are known."""
        return self.prefill is not None and self.decode is not None

    @property
    def key(self) -> tuple[int, str, str | None]:
        """Run, server and model. Each has its own rates."""
        return self.run, self.server, self.recorded.model
