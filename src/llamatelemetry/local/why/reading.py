"""Read the calls of a recording, with whatever was recorded about them."""

from __future__ import annotations

from bisect import bisect_right
from sys import intern
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry.local.call_phases import last_attempt, phases_of_call
from llamatelemetry.local.calls import recorded_call
from llamatelemetry.local.why.calls import (
    PHASES,
    WHOLE_CALL,
    Attempt,
    Call,
    Gap,
    ProcessTimes,
    Prompt,
    Section,
)
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from llamatelemetry.local.calls import RecordedCall
    from llamatelemetry.local.joined_calls import JoinedCall
    from llamatelemetry.local.recording import Recording
    from llamatelemetry.local.records import SpanRecord

_PAUSE_BETWEEN_RUNS_NS: Final = 5_000_000_000
_PROCESS: Final = (
    *(names.SERVER_CPU, names.SERVER_RUN_DELAY, names.SERVER_STOPPED, names.SERVER_THROTTLED),
)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


def read_calls(recording: Recording, calls: Iterable[JoinedCall]) -> list[Call]:
    """Return the calls of a recording by start time.

    Calls that only their engine recorded are left out: nothing is known of their client.
    """
    joined = [
        call
        for call in calls
        if call.is_recorded_by_client and call.span.end_ns >= call.span.start_ns
    ]
    start_ns = min((call.span.start_ns for call in joined), default=0)
    # Only a database of `llamatelemetry run` lists its runs.
    runs = _Runs([call.span for call in joined], recording.runs)
    found = [_read_call(call, runs.number_of(call.span), start_ns) for call in joined]
    return sorted(found, key=lambda call: (call.at, call.span.span_id))


class _Runs:
    """Numbers of the runs in a recording, from 1.

    A database of `llamatelemetry run` lists its runs. Other recordings do not: the processes of a
    run overlap in time, or follow each other at once, and a new run starts after all earlier
    processes have been quiet for some seconds.
    """

    def __init__(self, spans: Sequence[SpanRecord], runs: Sequence[Any]) -> None:
        self._starts = sorted(run.started_ns for run in runs)
        self._numbers = {} if self._starts else _numbered_processes(spans)

    def number_of(self, span: SpanRecord) -> int:
        if self._starts:
            return max(1, bisect_right(self._starts, span.start_ns))
        return self._numbers[_process(span)]


def _numbered_processes(spans: Iterable[SpanRecord]) -> dict[str, int]:
    ranges: dict[str, list[int]] = {}
    for span in spans:
        bounds = ranges.setdefault(_process(span), [span.start_ns, span.end_ns])
        bounds[0] = min(bounds[0], span.start_ns)
        bounds[1] = max(bounds[1], span.end_ns)
    numbers: dict[str, int] = {}
    number, last_ns = 0, 0
    for process, (start_ns, end_ns) in sorted(ranges.items(), key=lambda item: item[1]):
        if not number or start_ns > last_ns + _PAUSE_BETWEEN_RUNS_NS:
            number += 1
        last_ns = max(end_ns, last_ns)
        numbers[process] = number
    return numbers


def _process(span: SpanRecord) -> str:
    found = span.resource
    # As text, because a sender may give any type.
    return str(
        found.get("service.instance.id") or (found.get("host.name"), found.get("process.pid"))
    )


def _read_call(joined: JoinedCall, run: int, start_ns: int) -> Call:
    span, found = joined.span, joined.attributes
    phases = phases_of_call(found, joined.requests)
    cache_prompt = found.get(names.REQUEST_CACHE_PROMPT)
    recorded = recorded_call(joined)
    is_by_engine = phases.sources.get("queue_ms") == "engine_span"
    return Call(
        span=span,
        recorded=recorded,
        server=server_of(found),
        provider=_text(found.get(names.GEN_AI_PROVIDER_NAME)) or "",
        run=run,
        at=(span.start_ns - start_ns) / 1e6,
        duration=span.duration_ms,
        queue=phases.queue_ms,
        queue_source="engine" if is_by_engine else _text(found.get(names.QUEUE_SOURCE)),
        prefill=phases.prefill_ms,
        decode=phases.decode_ms,
        processed=_processed(found, recorded),
        first_chunk=_milliseconds(found.get(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)),
        slots=_count(found.get(names.SERVER_SLOTS)),
        cache_prompt=cache_prompt if isinstance(cache_prompt, bool) else None,
        prompt=_prompt(found),
        process=_process_times(found),
        process_start=_milliseconds(found.get(names.SERVER_PROCESS_START)),
        engine_span=_engine_span(joined),
        **_client_times(found),
    )


def _engine_span(joined: JoinedCall) -> tuple[float, float] | None:
    """Return start and end of the engine's own span of the attempt that the client used.

    It has the clock of the server, so it is only usable within the client's span.
    """
    spans = [request.span for request in last_attempt(joined.requests)]
    if not spans:
        return None
    start_ns, end_ns = min(s.start_ns for s in spans), max(s.end_ns for s in spans)
    if start_ns < joined.span.start_ns or end_ns > joined.span.end_ns:
        return None
    at_ns = joined.span.start_ns
    return (start_ns - at_ns) / 1e6, (end_ns - at_ns) / 1e6


def server_of(found: Mapping[str, Any]) -> str:
    """Return host and port of a span's server; empty for an engine in the process."""
    host, port = _text(found.get(names.SERVER_ADDRESS)), _count(found.get(names.SERVER_PORT))
    if host is None:
        return ""
    host = "127.0.0.1" if host in _LOOPBACK else host
    return host if port is None else f"{host}:{port}"


def _processed(found: Mapping[str, Any], recorded: RecordedCall) -> int | None:
    """Return the processed prompt tokens: the engine's count, else the input without cached ones."""
    known = _count(found.get(names.PROMPT_TOKENS))
    if known is None and None not in {recorded.input_tokens, recorded.cached_tokens}:
        return max(0, (recorded.input_tokens or 0) - (recorded.cached_tokens or 0))
    return known


def _client_times(found: Mapping[str, Any]) -> dict[str, Any]:
    connect = _pairs(found.get(names.CLIENT_CONNECT))
    delays = _numbers(found.get(names.CLIENT_READ_DELAY))
    headers = _milliseconds(found.get(names.CLIENT_HEADERS))
    if headers is not None and len(delays) > 1:
        headers = max(0.0, headers - delays[0] * 1000)
    attempts = (_split(item) for item in _texts(found.get(names.CLIENT_ATTEMPTS)))
    gaps = (_split(item) for item in _texts(found.get(names.CLIENT_GAPS)))
    return {
        "sent": _milliseconds(found.get(names.CLIENT_SENT)),
        "headers": headers,
        "last_data": _milliseconds(found.get(names.CLIENT_LAST_DATA)),
        "last_age": delays[-1] * 1000 if delays else None,
        "connect": connect[0] if connect else None,
        "attempts": [
            Attempt(at, _float(ms) or 0.0, status or "unknown status")
            for start, ms, status in attempts
            if (at := _float(start)) is not None
        ],
        "last_attempt": _milliseconds(found.get(names.CLIENT_LAST_ATTEMPT)),
        "gaps": [
            Gap(at, length, _float(age))
            for end, ms, age in gaps
            if (at := _float(end)) is not None and (length := _float(ms)) is not None
        ],
        "blocked": _pairs(found.get(names.LOOP_BLOCKED)),
    }


def _prompt(found: Mapping[str, Any]) -> Prompt | None:
    chars = _count(found.get(names.PROMPT_CHARS))
    if not chars:
        return None
    common_chars = _count(found.get(names.PROMPT_COMMON_CHARS)) or 0
    sections = (_split(item) for item in _texts(found.get(names.PROMPT_SECTIONS)))
    return Prompt(
        chars,
        [
            Section(intern(kind), int(size), digest)
            for kind, size, digest in sections
            if size.isdecimal()
        ],
        reference=_text(found.get(names.PROMPT_REFERENCE)),
        same_chars=_count(found.get(names.PROMPT_SAME_CHARS)) or common_chars,
        common_chars=common_chars,
        first_change=_text(found.get(names.PROMPT_FIRST_CHANGE)),
        change_at=_count(found.get(names.PROMPT_CHANGE_AT)),
        prefix_reference=_text(found.get(names.PROMPT_PREFIX_REFERENCE)),
        prefix_chars=_count(found.get(names.PROMPT_PREFIX_CHARS)) or 0,
    )


def _process_times(found: Mapping[str, Any]) -> dict[str, ProcessTimes]:
    """Return the times of the server process by phase, or of the whole call if it has no phases."""
    cpu, *others = (_numbers(found.get(name)) for name in _PROCESS)
    phases = PHASES if len(cpu) == len(PHASES) else (WHOLE_CALL,)
    zeros = [0.0] * len(phases)
    columns = [each if len(each) == len(phases) else zeros for each in others]
    return {
        phase: ProcessTimes(*(1000 * seconds for seconds in times))
        for phase, *times in zip(phases, cpu, *columns, strict=False)
    }


def _split(item: str) -> tuple[str, str, str]:
    """Split `"at:ms:status"`. The text after the second colon may contain colons."""
    first, _, rest = item.partition(":")
    second, _, third = rest.partition(":")
    return first, second, third


def _pairs(value: object) -> list[tuple[float, float]]:
    """Return pairs of times in ms from a flat array in seconds."""
    found = [1000 * seconds for seconds in _numbers(value)]
    return [
        (start, end) for start, end in zip(found[::2], found[1::2], strict=False) if end > start
    ]


def _numbers(value: object) -> list[float]:
    """Return an array of numbers; empty if one of them is invalid."""
    found = [_number(item) for item in _list(value)]
    known = [number for number in found if number is not None]
    return known if len(known) == len(found) else []


def _texts(value: object) -> Iterator[str]:
    return (item for item in _list(value) if isinstance(item, str))


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: object) -> float | None:
    """Return a number that is not negative and can be a time."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < 1e12 else None


def _float(text: str) -> float | None:
    try:
        return _number(float(text))
    except ValueError:
        return None


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < 2**53 else None


def _milliseconds(value: object) -> float | None:
    seconds = _number(value)
    return None if seconds is None else 1000 * seconds
