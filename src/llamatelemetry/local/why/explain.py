"""Explain the calls of a recording: read them, measure the rates, divide each call into parts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from llamatelemetry.local.joined_calls import join_calls
from llamatelemetry.local.recording import latest_run, read_recorded
from llamatelemetry.local.why.cache import CacheHistory
from llamatelemetry.local.why.events import read_events
from llamatelemetry.local.why.explanation import (
    CallExplanation,
    Explanation,
    ServerRates,
    application_ms,
)
from llamatelemetry.local.why.occupancy import Hold, Occupancy
from llamatelemetry.local.why.phases import place
from llamatelemetry.local.why.rates import measure_rates
from llamatelemetry.local.why.reading import read_calls
from llamatelemetry.local.why.rules import parts_of
from llamatelemetry.local.why.verdict import causes_of, sentence_of, top_cause_of, unknown_of
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

# An engine at work uses a CPU, also if it waits for a GPU. A proxy only passes on the tokens.
_PROXY_SHARE: Final = 0.05

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.recording import Recording
    from llamatelemetry.local.why.calls import Call
    from llamatelemetry.local.why.explanation import Part


def why(path: Path | str | None = None) -> Explanation:
    """Explain where the time of the recorded calls went.

    Args:
        path: Database of `llamatelemetry run`, file of OTLP JSON lines, or directory of them; the
            latest run below `llamatelemetry-data` if `None`.

    Raises:
        FileNotFoundError: The path does not exist, or the directory has no recording.
        StoreError: The path is an SQLite file, but not a database of this version.
        ValueError: The path is another kind of file.

    Examples:
        >>> import llamatelemetry
        >>> from llamatelemetry.llama import LlamaCppClient
        >>> config = llamatelemetry.init(exporter="file", export_path="telemetry", diagnostics=True)
        >>> with LlamaCppClient("http://127.0.0.1:8080") as client:
        ...     response = client.chat([{"role": "user", "content": "Say hi."}], max_tokens=4)
        >>> llamatelemetry.flush(timeout_s=10)
        True
        >>> explanation = llamatelemetry.why("telemetry")
        >>> [(call.operation, call.output_tokens) for call in explanation.calls]
        [('chat', 4)]
        >>> explanation.totals["decode"] > 0
        True
        >>> print(explanation)
        1 call explained; ... s in calls
        ...
    """
    return explain(read_recorded(latest_run() if path is None else path))


def explain(recording: Recording) -> Explanation:
    """Explain where the time of the calls of a recording went."""
    explainer = Explainer(recording, join_calls(recording.spans))
    explained = sorted(explainer.calls(), key=lambda call: (call.start_ns, call.span_id))
    return Explanation(
        calls=explained,
        servers=explainer.servers,
        application_ms=application_ms(explained),
        notes=explainer.notes,
    )


class Explainer:
    """Explains the calls of a recording one by one, because all explanations take much memory.

    Args:
        recording: The recording.
        joined: Its calls.

    Attributes:
        servers: Rates of the servers so far, complete after the last call.
        notes: Facts that the recording lacks, with a remedy.
    """

    def __init__(self, recording: Recording, joined: Collection[JoinedCall]) -> None:
        calls = read_calls(recording, joined)
        groups: defaultdict[tuple[int, str], list[Call]] = defaultdict(list)
        for call in calls:
            place(call)
            groups[call.run, call.server].append(call)
        proxies: list[str] = []
        for (_, server), group in groups.items():
            if _is_proxy(group):
                proxies.append(server)
                for call in group:
                    call.process = {}
        self._groups = groups
        self._events = read_events(recording)
        self.servers: list[ServerRates] = []
        self.notes = _notes(calls, proxies)
        if left_out := len(joined) - len(calls):
            which = "1 call is" if left_out == 1 else f"{left_out:,} calls are"
            self.notes.append(
                f"{which} not explained: only their engine recorded them, or they end before their "
                "start."
            )

    def calls(self) -> Iterator[CallExplanation]:
        """Yield the explanations of all calls, by run and server."""
        for (_, server), group in self._groups.items():
            # Calls of an engine in the process do not share a server.
            holds = [hold for call in group if (hold := _hold(call))]
            occupancy = Occupancy(holds) if server else None
            history = CacheHistory(group)
            rates = measure_rates(group, occupancy)
            self.servers += rates.values()
            for call in group:
                model_rates, miss = rates[call.recorded.model], history.find_miss(call)
                parts = parts_of(call, model_rates, occupancy, miss, self._events)
                yield _explained(call, parts, model_rates)


def _explained(call: Call, parts: Sequence[Part], rates: ServerRates) -> CallExplanation:
    causes = causes_of(parts, call.duration)
    recorded = call.recorded
    return CallExplanation(
        trace_id=call.span.trace_id,
        span_id=call.span.span_id,
        start_ns=call.span.start_ns,
        duration_ms=call.duration,
        operation=recorded.operation,
        model=recorded.model,
        server=call.server,
        error=recorded.error,
        input_tokens=recorded.input_tokens,
        cached_tokens=recorded.cached_tokens,
        output_tokens=recorded.output_tokens,
        parts=parts,
        causes=causes,
        top_cause=top_cause_of(causes, call),
        sentence=sentence_of(call, parts, causes),
        unknown=unknown_of(call, causes, rates),
    )


def _hold(call: Call) -> Hold | None:
    """Return when the server processed the request, or `None` if that is unknown."""
    if call.has_phases:
        start, prefilled, end = call.go, call.prefilled, call.decoded
    elif (
        call.provider == PROVIDER_LLAMA_CPP and call.recorded.streamed and call.headers is not None
    ):
        start = prefilled = min(call.headers, call.arrived)
        end = call.arrived
    else:
        return None
    at = call.at
    return Hold(at + start, at + prefilled, at + end, call.processed or 0, call.name)


def _is_proxy(calls: Iterable[Call]) -> bool:
    """Return whether the process that listens for the server is not the one that does the work."""
    work = cpu = 0.0
    for call in calls:
        for phase, ms in (("prefill", call.prefill), ("decode", call.decode)):
            if ms is not None and phase in call.process:
                times = call.process[phase]
                work += max(0.0, ms - times.run_delay - times.stopped)
                cpu += times.cpu
    return cpu < _PROXY_SHARE * work


def _notes(calls: Sequence[Call], proxies: Sequence[str]) -> list[str]:
    """Return what is missing in the recording as a whole, with what would reveal it."""
    remote = [call for call in calls if call.server]
    found: list[str] = []
    if remote and not any(call.sent is not None for call in remote):
        found.append(
            "Client times and prompt sections were not recorded. `llamatelemetry run` records "
            "them, and so does LLAMATELEMETRY_DIAGNOSTICS=true."
        )
    elif remote and not any(call.prompt for call in remote):
        found.append(
            "Prompt sections were not recorded, so why prompts were processed again is unknown. "
            "Set LLAMATELEMETRY_PROMPT_SECTIONS=true."
        )
    found += [
        f"The process that listens at {server} used almost no CPU time while the engine worked, so "
        "it is a proxy. Its times are not used. To see the server process, use its own port."
        for server in dict.fromkeys(proxies)  # of several runs
    ]
    if remote and not any(call.process for call in remote) and not proxies:
        found.append(
            "No server process was seen on this machine: waiting for a CPU, a stopped server and "
            "a slow path to it cannot be told apart."
        )
    return found
