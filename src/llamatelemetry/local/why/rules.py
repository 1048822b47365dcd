"""The rules that name the time of a call, segment by segment, with their evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry.local.why.calls import WHOLE_CALL, ProcessTimes
from llamatelemetry.local.why.events import Events, overlap_ms
from llamatelemetry.local.why.parts import Ledger
from llamatelemetry.local.why.phases import sent_at
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamatelemetry.local.why.cache import Miss
    from llamatelemetry.local.why.calls import Call
    from llamatelemetry.local.why.explanation import Part, ServerRates
    from llamatelemetry.local.why.occupancy import Hold, Occupancy

_SHORT_WAIT_MS: Final = 15.0
_IDLE_MS: Final = 40.0
_IDLE_SHARE: Final = 0.25
_NAMED: Final = 3
_MAX_SPREAD: Final = 0.25
_WORK: Final = ("prefill", "decode")
_WITHOUT_PHASES: Final = {
    "wait": "until the response headers",
    "stream": "from the response headers to the last data",
}
_NO_PROCESS: Final = ProcessTimes(0.0, 0.0, 0.0)


def parts_of(
    call: Call,
    rates: ServerRates,
    occupancy: Occupancy | None,
    miss: Miss | None,
    events: Events | None = None,
) -> list[Part]:
    """Return the parts of a call that `place()` has placed. They add up to its duration."""
    sent = sent_at(call)
    ledger = Ledger(
        None if call.has_phases else _WITHOUT_PHASES,
        before=sent,
        wait=call.go - sent,
        prefill=call.prefilled - call.go,
        decode=call.decoded - call.prefilled,
        stream=call.arrived - call.decoded,
        late=call.duration - call.arrived,
    )
    rules = _Rules(call, rates, occupancy, ledger, events or Events())
    rules.load(sent)
    rules.before(sent)
    if call.has_phases:
        rules.wait(sent)
        rules.prefill(miss)
        rules.decode()
        rules.stream()
    else:
        rules.whole_call()
    rules.late()
    return ledger.parts(call.duration)


class _Rules:
    def __init__(
        self,
        call: Call,
        rates: ServerRates,
        occupancy: Occupancy | None,
        ledger: Ledger,
        events: Events,
    ) -> None:
        self._call = call
        self._rates = rates
        self._occupancy = occupancy
        self._ledger = ledger
        self._events = events

    def load(self, sent: float) -> None:
        """Take the time that the server needed to load its model."""
        loads = self._events.loads.get(self._call.server, ())
        ms = overlap_ms(loads, *self._period(0.0, self._call.go)) if loads else 0.0
        evidence = f"the server was starting for {ms:,.0f} ms of the wait"
        segments, start = ("before", "wait"), self._call.process_start
        if not ms and start is not None:  # A router starts a process for each model.
            segments, ms = ("wait",), self._call.go - max(start, sent)
            after = f"{max(0.0, start - sent):,.0f} ms after the request was sent"
            evidence = f"a process of the server started {after}"
        for segment in segments:
            ms -= self._ledger.take(segment, "model_load", ms, evidence)

    def whole_call(self) -> None:
        """Take the stops of the server process during a call without phases."""
        stopped = self._call.process.get(WHOLE_CALL, _NO_PROCESS).stopped
        evidence = f"{stopped:,.0f} ms of the call in state T"
        for segment in ("wait", "stream"):
            stopped -= self._ledger.take(segment, "server_stopped", stopped, evidence)

    def _period(self, start: float, end: float) -> tuple[float, float]:
        """Return a period of the call in ns since the epoch."""
        at = self._call.span.start_ns
        return at + start * 1e6, at + end * 1e6

    def before(self, sent: float) -> None:
        """Divide the time until the request was sent."""
        call, take = self._call, self._ledger.take
        if call.sent is None:
            return
        if call.attempts:
            first = call.attempts[0]
            again = call.sent if call.last_attempt is None else call.last_attempt
            failed = ", ".join(
                f"{attempt.status} after {attempt.ms:,.0f} ms" for attempt in call.attempts[:_NAMED]
            )
            pauses = again - first.at - sum(attempt.ms for attempt in call.attempts)
            count = _count(len(call.attempts), "failed attempt")
            take(
                "before",
                "retry",
                again - first.at,
                f"{count} ({failed}) and {max(0.0, pauses):,.0f} ms of pauses",
            )
        if call.connect is not None:
            ms = call.connect[1] - call.connect[0]
            usual = self._rates.connect_ms or 0.0
            take("before", "connect", ms, f"new connection in {ms:,.0f} ms", usual=usual)
        blocked = _overlap(call.blocked, 0.0, sent)
        evidence = f"the event loop was blocked for {blocked:,.0f} ms" if blocked >= 1 else ""
        usual = self._rates.prepare_ms or 0.0
        take("before", "client_before_send", self._ledger.left["before"], evidence, usual=usual)

    def wait(self, sent: float) -> None:
        """Divide the time between the request and the start of its processing."""
        call, take, rates = self._call, self._ledger.take, self._rates
        if call.queue_source == "engine" or (call.engine_span is not None and call.queue):
            take("wait", "queue", call.queue or 0.0, "measured by the engine")
        elif call.provider == PROVIDER_LLAMA_CPP and self._occupancy is not None and rates.slots:
            self._queue(self._occupancy, rates.slots, call.at + sent, call.at + call.go)
        self._stopped_and_cpu("wait", "queue")
        floor = (rates.wait_ms or 0.0) + _SHORT_WAIT_MS
        process = call.process.get("queue")
        wait = call.go - sent
        if process is not None:
            idle = wait - process.cpu - process.run_delay - process.stopped
            if idle > _IDLE_MS and idle > _IDLE_SHARE * wait:
                take(
                    "wait",
                    "network_before",
                    min(idle, self._ledger.left["wait"] - (rates.wait_ms or 0.0)),
                    f"the server process was idle for {idle:,.0f} ms before it started this request",
                )
        usual = min(floor, self._ledger.left["wait"])
        take("wait", "network_before", usual, "", usual=usual)

    def _queue(self, occupancy: Occupancy, slots: int, start: float, end: float) -> None:
        full = occupancy.held_ms(start, end, least=slots)
        ahead = [hold for hold in occupancy.beside(start, end) if hold.name != self._call.name]
        if full:
            which = "the only slot" if slots == 1 else f"all {slots} slots"
            seen = " ever seen in use" if self._rates.is_slots_seen else ""
            verb = "was" if slots == 1 else "were"
            self._ledger.take(
                "wait", "queue", full, f"{which}{seen} {verb} taken, by {_names(ahead)}"
            )
        behind = occupancy.prefilling_ms(start, end, slots=slots)
        if behind:
            prompts = occupancy.beside(start, end, prefill=True)
            self._ledger.take(
                "wait",
                "queue_batch",
                behind,
                f"a slot was free while the prompt of {_names(prompts)} was processed",
            )

    def prefill(self, miss: Miss | None) -> None:
        """Divide the prefill: tokens processed again, new tokens, and what slowed them."""
        call, take, rates = self._call, self._ledger.take, self._rates
        self._stopped_and_cpu("prefill", "prefill", self._expected_prefill())
        left = self._ledger.left["prefill"]
        processed = call.processed or 0
        slope, base = rates.prefill_ms_per_token, rates.prefill_base_ms
        if slope is None:
            slope, base = (left / processed if processed else 0.0), 0.0
        again = 0
        if miss is not None:
            again = min(miss.tokens, processed)
            if again == processed:
                base, extra = 0.0, base
            else:
                extra = 0.0
            take("prefill", "prefill_again", again * slope + extra, miss.evidence, cause=miss.cause)
        new = base + slope * (processed - again)
        if rates.prefill_ms_per_token is None:
            new = left
        tokens = "" if call.processed is None else _count(processed - again, "new token")
        take("prefill", "prefill_new", new, tokens)
        self._throttled("prefill", call.go, call.prefilled)
        self._neighbors("prefill", call.go, call.prefilled, slope, 1)
        # The rates are not known better than this. More would hide what a busy server does.
        spread = min(rates.prefill_spread_ms, _MAX_SPREAD * self._expected_prefill())
        if miss is not None and again == processed:
            take("prefill", "prefill_again", spread, "", cause=miss.cause)
        take("prefill", "prefill_new", spread, "")

    def decode(self) -> None:
        """Divide the decode: output tokens, and what slowed them."""
        call, take, rates = self._call, self._ledger.take, self._rates
        later_tokens = max(0, (call.recorded.output_tokens or 0) - 1)
        expected = self._expected_decode()
        self._stopped_and_cpu("decode", "decode", expected)
        tokens = _count(call.recorded.output_tokens or 0, "output token")
        take("decode", "decode", expected, tokens)
        self._throttled("decode", call.prefilled, call.decoded)
        self._neighbors(
            "decode", call.prefilled, call.decoded, rates.prefill_ms_per_token or 0.0, 2
        )
        if later_tokens:
            take("decode", "decode", expected * min(rates.decode_spread, _MAX_SPREAD), "")

    def _expected_prefill(self) -> float:
        rates, call = self._rates, self._call
        if rates.prefill_ms_per_token is None or call.processed is None:
            return self._ledger.left["prefill"]
        return rates.prefill_base_ms + rates.prefill_ms_per_token * call.processed

    def _expected_decode(self) -> float:
        rates, call = self._rates, self._call
        later_tokens = (call.recorded.output_tokens or 0) - 1
        if rates.decode_ms_per_token is None or call.recorded.output_tokens is None:
            return self._ledger.left["decode"]
        # One token has no decode, up to rounding.
        return rates.decode_ms_per_token * later_tokens if later_tokens > 0 else 1.0

    def _throttled(self, segment: str, start: float, end: float) -> None:
        """Take the excess of a phase while the clocks of a local GPU were lowered."""
        if self._call.server and not self._call.process:
            return  # the GPUs of this machine are not those of the server
        for reason, intervals in self._events.throttled.items():
            ms = overlap_ms(intervals, *self._period(start, end))
            evidence = f"the driver reported lowered clocks ({reason}) for {ms:,.0f} ms"
            self._ledger.take(segment, "throttled", ms, evidence)

    def _neighbors(
        self, segment: str, start: float, end: float, ms_per_token: float, least: int
    ) -> None:
        """Take what other calls explain of the excess of a phase."""
        occupancy, call = self._occupancy, self._call
        if occupancy is None or self._ledger.left[segment] <= 0:
            return
        start, end = call.at + start, call.at + end
        tokens = occupancy.prompt_tokens(start, end)
        if segment == "prefill":
            tokens -= call.processed or 0
        if tokens >= 1:
            prompts = [h for h in occupancy.beside(start, end, prefill=True) if h.name != call.name]
            self._ledger.take(
                segment,
                "others_prompts",
                tokens * ms_per_token,
                f"{tokens:,.0f} tokens of {_names(prompts)} were processed meanwhile",
            )
        shared = occupancy.decoding_ms(start, end, least=least)
        if shared > 0:
            others = [hold for hold in occupancy.beside(start, end) if hold.name != call.name]
            self._ledger.take(
                segment, "batch", shared, f"shared with {_count(len(others), 'other call')}"
            )

    def stream(self) -> None:
        """Divide the time between the engine's last token and the arrival of the last data."""
        call, take = self._call, self._ledger.take
        usual = self._rates.stream_ms or 0.0
        left = self._ledger.left["stream"]
        if call.last_age is None:
            take("stream", "network_stream", min(usual + _SHORT_WAIT_MS, left), "", usual=left)
            return
        evidence = f"the engine's times end {left:,.0f} ms before the last data came"
        fresh = [gap for gap in call.gaps if gap.age is not None and gap.age < gap.ms / 2]
        if fresh:
            longest = max(fresh, key=lambda gap: gap.ms)
            evidence += f"; longest gap {longest.ms:,.0f} ms, its data was fresh when read"
        take("stream", "network_stream", left, evidence, usual=usual)

    def late(self) -> None:
        """Name the time after the last data had arrived."""
        call = self._call
        late = self._ledger.left["late"]
        if call.last_age is not None:
            evidence = f"the last data had been waiting in the socket for {call.last_age:,.0f} ms"
        else:
            evidence = "after the last data was read"
        blocked = _overlap(call.blocked, call.arrived, call.duration)
        if blocked >= 1:
            evidence += f"; the event loop was blocked for {blocked:,.0f} ms"
        self._ledger.take("late", "client_late", late, evidence)

    def _stopped_and_cpu(self, segment: str, phase: str, expected: float = 0.0) -> None:
        """Take the time while the local server process was stopped, throttled or waited for a CPU."""
        process = self._call.process.get(phase, _NO_PROCESS)
        excess = self._ledger.left[segment] - expected
        stopped, evidence = process.stopped, f"{process.stopped:,.0f} ms of the {phase} in state T"
        idle = self._ledger.left[segment] - process.cpu - process.run_delay - stopped
        if stopped and phase in _WORK and min(idle, excess - stopped) > _IDLE_MS:
            # The state is sampled. An engine at work neither sleeps nor stops.
            more = min(idle, excess - stopped)
            stopped += more
            evidence += f", and idle for {more:,.0f} ms beside it"
        self._ledger.take(segment, "server_stopped", stopped, evidence)
        throttled = min(process.throttled, process.run_delay)
        for name, ms, evidence in (
            ("throttled", throttled, "with the CPU limit of its container used up"),
            ("server_cpu_wait", process.run_delay - throttled, "in the run queue"),
        ):
            waited = min(ms, self._ledger.left[segment] - expected)
            self._ledger.take(segment, name, waited, f"{waited:,.0f} ms of the {phase} {evidence}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _names(holds: Sequence[Hold]) -> str:
    """Return the calls for evidence: at most three, and the number of the others."""
    if not holds:
        return "other calls"
    named = ", ".join(hold.name for hold in holds[:_NAMED])
    more = len(holds) - _NAMED
    calls = "call" if len(holds) == 1 else "calls"
    return f"{calls} {named}" if more <= 0 else f"{calls} {named} and {more} more"


def _overlap(intervals: Sequence[tuple[float, float]], start: float, end: float) -> float:
    return sum(max(0.0, min(end, stop) - max(start, begin)) for begin, stop in intervals)
