"""The diagnostics of a plugin and of one call. They raise nothing."""

from __future__ import annotations

from functools import cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.config import run_key
from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.diagnostics.client_marks import ClientMarks
from llamatelemetry.genai.diagnostics.loop_blocks import watch_loop
from llamatelemetry.genai.diagnostics.references import (
    Prompt,
    PromptHistory,
    prompt_attributes,
    reference_attributes,
)
from llamatelemetry.genai.diagnostics.sections import SectionCache, parts_of
from llamatelemetry.genai.diagnostics.server_process import sampler
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import CHAT, TEXT_COMPLETION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.config import LlamaTelemetryConfig
    from llamatelemetry.genai.diagnostics.loop_blocks import LoopMonitor
    from llamatelemetry.genai.diagnostics.server_process import Server
    from llamatelemetry.genai.model import Outcome, Request

_PHASES: Final = 3
_PROMPTED: Final = frozenset({CHAT, TEXT_COMPLETION})
_history: Final = PromptHistory()


@cache
def _section_cache() -> SectionCache:
    """Return the cache of this process: all plugins talk to the same servers."""
    return SectionCache(run_key())


class Diagnostics:
    """Starts the diagnostics of the calls of one `Instrumenter`."""

    def __init__(self, config: LlamaTelemetryConfig) -> None:
        self._has_sections = config.prompt_sections is not False

    def start(self, request: Request, span: Span, started_ns: int) -> CallDiagnostics | None:
        """Start the diagnostics of a call. Return `None` if its span is not recorded.

        Args:
            request: The request, with its body if it is known.
            span: Span of the call.
            started_ns: Start of the call, by `perf_counter_ns`.
        """
        if not span.is_recording():
            return None
        diagnostics = CallDiagnostics(started_ns)
        if self._has_sections and request.body and request.operation in _PROMPTED:
            diagnostics.add_prompt(request, span)
        if request.server is not None:
            diagnostics.watch_server(request.server.origin)
        return diagnostics


class CallDiagnostics:
    """Records what explains the duration of one call. A plugin reports to it what it sees.

    It does not refer to the call, which would otherwise be part of a reference cycle.
    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_loop",
        "_marks",
        "_prompt",
        "_server",
        "_started_ns",
    )

    def __init__(self, started_ns: int) -> None:
        self._started_ns = started_ns
        self._marks = ClientMarks(started_ns)
        self._loop: LoopMonitor | None = None
        self._attributes: dict[str, AttributeValue] = {}
        self._prompt: Prompt | None = None
        self._server: Server | None = None

    def add_prompt(self, request: Request, span: Span) -> None:
        """Compare the prompt of the request with earlier ones, before the application can change it."""
        try:
            parts = parts_of(request.body or {})
            known = _section_cache()
            sections = known.sections_of(parts)
            if not sections:
                return
            self._attributes.update(prompt_attributes(known, sections))
            self._prompt = Prompt(sections, span.get_span_context().span_id)
            server = request.server
            scope = (None if server is None else server.origin, request.model)
            shared = _history.add(scope, self._prompt)
            if shared is not None:
                self._attributes.update(reference_attributes(*shared, parts))
        except Exception as error:
            internal_errors.log_once("comparing a prompt with earlier ones", error)

    def watch_server(self, origin: str) -> None:
        """Sample the processes of the server until the call ends, if they are on this machine."""
        try:
            self._server = sampler.open(origin, self)
        except Exception as error:
            internal_errors.log_once("sampling a server", error)

    def start_attempt(self, at_ns: int) -> None:
        """Mark that the request is sent, the first time or again."""
        try:
            self._marks.start_attempt(at_ns)
        except Exception as error:
            internal_errors.log_once("timing an attempt", error)

    def attach(self, request: Any, *, is_async: bool) -> None:
        """Observe a request of httpx or httpx2 that is about to be sent."""
        try:
            self._marks.attach(request, is_async=is_async)
            if is_async and self._loop is None:
                self._loop = watch_loop(self)
        except Exception as error:
            internal_errors.log_once("observing a request", error)

    def on_response(self, response: Any) -> None:
        """Handle a response of httpx or httpx2. Its body may not have been read yet."""
        try:
            self._marks.on_response(response.extensions.get("network_stream"))
        except Exception as error:
            internal_errors.log_once("observing a response", error)

    def on_headers(self, at_ns: int, sock: Any = None) -> None:
        """Handle the headers of a response, for an HTTP library that does not report its progress.

        Args:
            at_ns: When the headers were read, by `perf_counter_ns`.
            sock: Socket of the connection, if its body is not read yet.
        """
        try:
            self._marks.on_headers(at_ns, sock)
        except Exception as error:
            internal_errors.log_once("observing a response", error)

    def on_gap(self, last_ns: int, now_ns: int) -> None:
        """Record a gap of more than `observers.GAP_NS` between two chunks of a stream."""
        try:
            self._marks.on_gap(last_ns, now_ns)
        except Exception as error:
            internal_errors.log_once("timing a gap", error)

    def finish(self, outcome: Outcome, ended_ns: int) -> dict[str, AttributeValue]:
        """Return the span attributes, once, at the end of the call.

        Args:
            outcome: The call that has ended.
            ended_ns: End of the call, by `perf_counter_ns`.
        """
        found = self._attributes
        try:
            if self._prompt is not None and outcome.error is not None:
                is_rejected = outcome.error.status_code is not None
                self._prompt.has_failed = is_rejected or not self._marks.has_response
            found.update(self._marks.finish(ended_ns))
            if self._loop is not None:
                self._loop.calls.discard(self)
                found.update(_loop_blocks(self._loop, self._started_ns, ended_ns))
            if self._server is not None:
                self._server.calls.discard(self)
                found.update(_server_figures(self._server, outcome, ended_ns))
                start_ns = self._server.start_after(self._started_ns)
                if start_ns is not None:
                    found[names.SERVER_PROCESS_START] = round(
                        (start_ns - self._started_ns) / 1e9, 4
                    )
        except Exception as error:
            internal_errors.log_once("recording diagnostics", error)
        return found


def _loop_blocks(
    loop: LoopMonitor, started_ns: int, ended_ns: int
) -> Iterator[tuple[str, AttributeValue]]:
    """Yield start and end of each block of the loop, in seconds since the start of the call."""
    blocks = chain.from_iterable(loop.blocks_between(started_ns, ended_ns))
    times_s = tuple(round((at_ns - started_ns) / 1e9, 4) for at_ns in blocks)
    if times_s:
        yield names.LOOP_BLOCKED, times_s


def _server_figures(
    server: Server, outcome: Outcome, ended_ns: int
) -> Iterator[tuple[str, AttributeValue]]:
    """Yield what the server's processes did in each phase, or in all of the last attempt."""
    server.sample(may_search=False, is_quick=outcome.error is None)
    attempt_ns = ended_ns - round(outcome.attempt_s * 1e9)
    phases = outcome.phases
    durations_s = () if phases is None else (phases.queue_s, phases.prefill_s, phases.decode_s)
    known_ns = [round(s * 1e9) for s in durations_s if s is not None]
    bounds_ns = [attempt_ns, ended_ns]
    if len(known_ns) == _PHASES:
        bounds_ns = list(accumulate(known_ns, initial=attempt_ns))
    figures = server.figures_between(bounds_ns)
    if figures is None:
        return
    cpu_s, run_delay_s, stopped_s, throttled_s = zip(*figures, strict=True)
    yield names.SERVER_CPU, cpu_s
    yield names.SERVER_RUN_DELAY, run_delay_s
    if any(stopped_s):
        yield names.SERVER_STOPPED, stopped_s
    if any(throttled_s):
        yield names.SERVER_THROTTLED, throttled_s
