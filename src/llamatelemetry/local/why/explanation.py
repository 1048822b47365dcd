"""The explanation of a recording as plain values: calls, their parts, and the measured rates."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NORMAL: Final = "normal"
UNKNOWN: Final = "unknown"

# Parts of a call's time, in the order of time, with their titles.
PART_TITLES: Final[Mapping[str, str]] = {
    "client_before_send": "client before sending",
    "retry": "failed attempts and pauses",
    "connect": "connecting",
    "queue": "queue",
    "queue_batch": "queue behind another prompt",
    "server_stopped": "server process stopped",
    "server_cpu_wait": "server waited for a CPU",
    "network_before": "way to the server",
    "model_load": "loading of the model",
    "prefill_again": "prompt not in the cache",
    "prefill_new": "prefill of new tokens",
    "others_prompts": "slowed by other prompts",
    "batch": "shared with other calls",
    "decode": "decode of the output",
    "throttled": "throttled (CPU limit or GPU clocks)",
    "network_stream": "network during the response",
    "client_late": "client read late",
    "unexplained": "unexplained",
}
APPLICATION: Final = "application"
WORK: Final = frozenset({"prefill_new", "decode"})

# Causes of `prefill_again`, as the end of the sentence "Prompts not in the cache because ...".
CAUSE_TITLES: Final[Mapping[str, str]] = {
    "section_changed": "a section of the prompt changed",
    "tools_reordered": "the order of the tools changed",
    "evicted": "the cache had dropped it",
    "cache_not_used": "the request set cache_prompt=false",
    "slot_busy": "the slot of that prompt was busy",
    "first_call": "first call with this prompt",
    "unknown": "unknown",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a call's time.

    Attributes:
        name: A name of `PART_TITLES`.
        ms: Duration in milliseconds, never negative.
        evidence: What the part was measured or inferred from. It can contain text of servers.
        cause: For `prefill_again`, a name of `CAUSE_TITLES`; otherwise `None`.
        usual_ms: Milliseconds of the part that calls to this server usually take. Only the time
            above it can be the cause of a slow call.
    """

    name: str
    ms: float
    evidence: str = ""
    cause: str | None = None
    usual_ms: float = 0.0

    @property
    def title(self) -> str:
        """Title of the part for people."""
        return PART_TITLES[self.name]

    @property
    def excess_ms(self) -> float:
        """Milliseconds above the usual ones."""
        return max(0.0, self.ms - self.usual_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return the part as JSON values."""
        found = {"name": self.name, "ms": round(self.ms, 6), "evidence": self.evidence}
        return found if self.cause is None else {**found, "cause": self.cause}


@dataclass(frozen=True, slots=True)
class CallExplanation:
    """A call and where its time went.

    Attributes:
        start_ns: Start in nanoseconds since the epoch.
        server: Host and port of the server; empty for an engine in the process.
        error: Error type of a failed call.
        parts: Parts with more than 0 ms in time order. They add up to `duration_ms`.
        causes: Parts that made the call slow, largest first.
        top_cause: Name of the first cause, `normal`, or `unknown` if the largest one is not known.
        sentence: Duration and main causes in one sentence.
        unknown: What could not be known of this call, with what would reveal it.
    """

    trace_id: str
    span_id: str
    start_ns: int
    duration_ms: float
    operation: str
    model: str | None
    server: str
    error: str | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    parts: Sequence[Part]
    causes: Sequence[Part]
    top_cause: str
    sentence: str
    unknown: Sequence[str] = ()

    @property
    def unexplained_ms(self) -> float:
        """Milliseconds that no rule explains."""
        return sum(part.ms for part in self.parts if part.name == "unexplained")

    def to_dict(self) -> dict[str, Any]:
        """Return the call as JSON values."""
        return {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "start_ns": self.start_ns,
            "duration_ms": self.duration_ms,
            "operation": self.operation,
            "model": self.model,
            "server": self.server,
            "error": self.error,
            "input_tokens": self.input_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "parts": [part.to_dict() for part in self.parts],
            "top_cause": self.top_cause,
            "causes": [part.name for part in self.causes],
            "sentence": self.sentence,
            "unexplained_ms": round(self.unexplained_ms, 6),
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True, slots=True)
class ServerRates:
    """Rates of one model on one server in one run, measured from undisturbed calls.

    Prefill takes `prefill_base_ms + prefill_ms_per_token * tokens`, decode takes
    `decode_ms_per_token` for each output token after the first. A rate is `None` without enough
    undisturbed calls: such a server has phases, but no causes derived from rates.

    Attributes:
        server: Host and port; empty for an engine in the process.
        run: Number of the run in the recording, from 1.
        calls: Number of calls of this model to this server.
        undisturbed: Number of calls that the rates were measured from.
        prefill_spread_ms: Twice the median deviation of measured prefills.
        decode_spread: Twice the median relative deviation of measured decodes.
        wait_ms: Usual time from the sent request to the start of processing.
        slots: Number of requests that the server processes at once, if known or seen.
        is_slots_seen: Whether `slots` is only the largest number seen at once.
    """

    server: str
    model: str | None
    run: int
    calls: int
    undisturbed: int
    prefill_ms_per_token: float | None = None
    prefill_base_ms: float = 0.0
    prefill_spread_ms: float = 0.0
    decode_ms_per_token: float | None = None
    decode_spread: float = 0.0
    wait_ms: float | None = None
    stream_ms: float | None = None
    prepare_ms: float | None = None
    connect_ms: float | None = None
    slots: int | None = None
    is_slots_seen: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the rates as JSON values."""
        names = (
            *("server", "model", "run", "calls", "undisturbed", "prefill_ms_per_token"),
            *("prefill_base_ms", "decode_ms_per_token", "wait_ms", "slots"),
        )
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where the time of the calls of a recording went.

    Attributes:
        calls: Calls by start time.
        servers: Measured rates, one entry per run, server and model.
        application_ms: Time between the calls of a trace, summed over traces.
        notes: What the recording does not contain, with what would reveal it.
    """

    calls: Sequence[CallExplanation] = ()
    servers: Sequence[ServerRates] = ()
    application_ms: float = 0.0
    notes: Sequence[str] = ()

    @property
    def totals(self) -> dict[str, float]:
        """Milliseconds by part name over all calls, and `application` between them."""
        sums: defaultdict[str, float] = defaultdict(float)
        for call in self.calls:
            for part in call.parts:
                sums[part.name] += part.ms
        ordered = {name: sums[name] for name in PART_TITLES if name in sums}
        return {**ordered, APPLICATION: self.application_ms}

    @property
    def duration_ms(self) -> float:
        """Sum of the durations of the calls."""
        return sum(call.duration_ms for call in self.calls)

    def of(self, span_id: str) -> CallExplanation | None:
        """Return the call with this span id, or `None`."""
        return next((call for call in self.calls if call.span_id == span_id), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        return {
            "calls": [call.to_dict() for call in self.calls],
            "servers": [server.to_dict() for server in self.servers],
            "totals": {name: round(ms, 6) for name, ms in self.totals.items()},
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        from llamatelemetry.local.why.text import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from llamatelemetry.local.why.text import as_html

        return as_html(self)


def application_ms(calls: Iterable[CallExplanation]) -> float:
    """Return the ms between the first and the last call of each trace without a call.

    Args:
        calls: Calls by start time.
    """
    total_ns = 0.0
    ends: dict[str, float] = {}
    for call in calls:
        end_ns = ends.get(call.trace_id, call.start_ns)
        total_ns += max(0.0, call.start_ns - end_ns)
        ends[call.trace_id] = max(end_ns, call.start_ns + call.duration_ms * 1e6)
    return total_ns / 1e6
