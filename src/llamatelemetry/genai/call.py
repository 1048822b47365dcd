"""The life of one GenAI call: one span, opened once and ended exactly once, and its metrics.

This is the only module that touches a span. A plugin reads a request, starts a `Call` through
its `Instrumenter`, runs the library's own work under `Call.activate`, and hands over what came of
it. Whatever fails in here is reported by `guard` and never reaches the application.
"""

from __future__ import annotations

from contextvars import Token
from os import getpid
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import get_meter
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig, effective_config
from llamatelemetry.genai import guard, recording
from llamatelemetry.genai.content import content_recorder
from llamatelemetry.genai.errors import describe_error
from llamatelemetry.genai.model import Request, Response
from llamatelemetry.genai.reaper import reaper
from llamatelemetry.genai.servers import KnownServers, known_servers
from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
from llamatelemetry.semconv import INFERENCE_OPERATIONS
from llamatelemetry.semconv import attributes as names
from llamatelemetry.semconv.operations import PROVIDER_LLAMA_CPP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.completion_hook import CompletionHook
    from llamatelemetry.genai.reaper import Reapable

_CALL_KEY: Final = context_api.create_key("llamatelemetry-genai-call")


class Instrumenter:
    """What a plugin holds to make calls: a tracer, the histograms, and the configuration.

    Args:
        scope: instrumentation scope, the name of the plugin's package.
        version: its version.
        config: options; read from the environment when ``None``.
        tracer_provider: OpenTelemetry's global one when ``None``.
        meter_provider: likewise.
        logger_provider: likewise; for the events that hold content.
        completion_hook: run with the content of each call; the one that the environment names
            when ``None``.
    """

    def __init__(
        self,
        scope: str,
        version: str,
        *,
        config: LlamaTelemetryConfig | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        completion_hook: CompletionHook | None = None,
    ) -> None:
        self.config = effective_config(config)
        self.tracer = trace.get_tracer(scope, version, tracer_provider)
        self.metrics = GenAIMetrics(get_meter(scope, version, meter_provider))
        self.servers: KnownServers = known_servers
        self.content = content_recorder(
            scope, version, self.config, logger_provider, completion_hook
        )

    def start(self, request: Request, kind: SpanKind = SpanKind.CLIENT) -> Call | None:
        """Open a call, or give ``None`` when this request is not to be recorded as one.

        That is so when instrumentation is suppressed, and inside another call of the same
        request: a library wrapped twice, or a framework whose own instrumentation is at work.
        """
        if not is_instrumentation_enabled() or _inside_same_call(request):
            return None
        request.provider = self.config.provider_name or self.servers.provider_of(
            request.server, request.provider
        )
        return Call(self, request, kind)


def current_call() -> Call | None:
    """Give the open call whose library work is running in this context."""
    call = context_api.get_value(_CALL_KEY)
    return call if isinstance(call, Call) and not call.ended else None


def _inside_same_call(request: Request) -> bool:
    call = current_call()
    if call is not None:
        # The marker leaks into tasks started during the call: those make calls of their own.
        return call.request.operation == request.operation and call.request.server == request.server
    span: Any = trace.get_current_span()
    if not span.is_recording() or getattr(span, "kind", None) is not SpanKind.CLIENT:
        return False
    attributes: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    return attributes.get(names.GEN_AI_OPERATION_NAME) in INFERENCE_OPERATIONS


class Call:
    """One call, from just before the library sends it until its reply or stream has ended."""

    __slots__ = (
        "_abandoned_ns",
        "_attempt_ns",
        "_content",
        "_headers_ns",
        "_instrumenter",
        "_open",
        "_pid",
        "_span",
        "_started_ns",
        "_started_wall_ns",
        "attempts",
        "first_chunk_ns",
        "first_token_ns",
        "request",
    )

    def __init__(self, instrumenter: Instrumenter, request: Request, kind: SpanKind) -> None:
        self._instrumenter = instrumenter
        self.request = request
        self.attempts = 0
        self.first_chunk_ns: int | None = None
        self.first_token_ns: int | None = None
        self._headers_ns: int | None = None
        self._abandoned_ns: int | None = None
        # A forked child inherits open calls and must not end them a second time.
        self._pid = getpid()
        # Popping from a list is atomic: of two threads that end a call, one wins.
        self._open: list[None] = [None]
        # Times are read on the monotonic clock and placed on the wall clock once, so that
        # a clock step in the middle of a call cannot stretch it.
        self._started_wall_ns = time_ns()
        self._started_ns = self._attempt_ns = perf_counter_ns()
        self._span = instrumenter.tracer.start_span(
            f"{request.operation} {request.model}" if request.model else request.operation,
            kind=kind,
            attributes=recording.sampling_attributes(request),
            start_time=self._started_wall_ns,
        )
        content = instrumenter.content
        self._content = None if content is None else content.start(request, self._span)
        request.read_content = None  # it holds the whole request

    @property
    def ended(self) -> bool:
        """Whether the call has ended."""
        return not self._open

    @property
    def instrumenter(self) -> Instrumenter:
        """What the call was made with."""
        return self._instrumenter

    @property
    def content_max_chars(self) -> int | None:
        """Up to where each text of the reply is wanted; ``None`` when its content is not wanted."""
        return None if self._content is None else self._content.max_chars

    def activate(self) -> Token[Context]:
        """Make the call's span current; give the result to `deactivate` when the library's work is done."""
        context = context_api.set_value(_CALL_KEY, self, trace.set_span_in_context(self._span))
        return context_api.attach(context)

    def deactivate(self, token: Token[Context]) -> None:
        """Make the span that was current before `activate` current again."""
        context_api.detach(token)

    def begin_attempt(self) -> None:
        """Note that the request goes out, now: the first time or as a retry."""
        self.attempts += 1
        self._attempt_ns = perf_counter_ns()
        self._headers_ns = None

    def note_headers(self) -> None:
        """Note that response headers have come, now. On a stream they end llama.cpp's queue."""
        self._headers_ns = perf_counter_ns()

    def note_provider(self, provider: str) -> None:
        """Note what the reply has proved about its server; later calls to it start with it."""
        if self.request.server is not None:
            self._instrumenter.servers.remember(self.request.server, provider)
        self.request.provider = self._instrumenter.config.provider_name or provider

    def finish(self, response: Response, *, ended_ns: int | None = None) -> None:
        """End the call with its reply, or with what had come of it when it was broken off."""
        self._end(response, None, ended_ns)

    def fail(
        self, error: BaseException, response: Response | None = None, *, ended_ns: int | None = None
    ) -> None:
        """End the call with an error, and with what had come before it."""
        self._end(response or Response(), error, ended_ns)

    def abandon(self, waiting: Reapable | None = None) -> None:
        """Leave the ending to the reaper: for finalisers, where nothing may be recorded.

        Args:
            waiting: what ends the call, if not the call itself.
        """
        if self._open:
            self._abandoned_ns = perf_counter_ns()
            reaper.put(waiting or self)

    def reap(self) -> None:
        """End an abandoned call that has had no reply, at the time it was abandoned."""
        self.fail(GeneratorExit())

    def _end(self, response: Response, error: BaseException | None, ended_ns: int | None) -> None:
        if self._pid != getpid():
            return
        try:
            self._open.pop()
        except IndexError:
            return
        ended_ns = ended_ns or self._abandoned_ns or perf_counter_ns()
        try:
            if response.timings is not None:
                self.note_provider(PROVIDER_LLAMA_CPP)
            outcome = self._outcome(response, error, ended_ns)
            context = trace.set_span_in_context(self._span)
            recording.record_metrics(self._instrumenter.metrics, outcome, context)
            if self._span.is_recording():
                recording.record_span(self._span, outcome)
                if self._instrumenter.config.phase_spans:
                    recording.record_phase_spans(self._instrumenter.tracer, context, outcome)
            if self._content is not None:
                ended_wall_ns = self._wall_ns(ended_ns)
                self._span.set_attributes(
                    self._content.finish(
                        response,
                        lambda: recording.event_attributes(outcome),
                        context,
                        ended_wall_ns,
                    )
                )
        except Exception as failure:
            guard.report("recording a call", failure)
        finally:
            self._span.end(self._wall_ns(ended_ns))

    def _outcome(
        self, response: Response, error: BaseException | None, ended_ns: int
    ) -> recording.Outcome:
        headers_ns = self._headers_ns if self.request.stream else None
        return recording.Outcome(
            request=self.request,
            response=response,
            error=None if error is None else describe_error(error),
            duration_s=(ended_ns - self._started_ns) / 1e9,
            attempt_s=(ended_ns - self._attempt_ns) / 1e9,
            attempt_wall_ns=self._wall_ns(self._attempt_ns),
            headers_s=None if headers_ns is None else (headers_ns - self._attempt_ns) / 1e9,
            first_chunk_s=self._seconds_since_start(self.first_chunk_ns),
            first_token_s=self._seconds_since_start(self.first_token_ns),
            resend_count=max(0, self.attempts - 1),
        )

    def _seconds_since_start(self, at_ns: int | None) -> float | None:
        return None if at_ns is None else (at_ns - self._started_ns) / 1e9

    def _wall_ns(self, at_ns: int) -> int:
        return self._started_wall_ns + at_ns - self._started_ns

    def chunk_attributes(self, response_model: str | None) -> dict[str, AttributeValue]:
        """The metric attributes of a stream's chunks, once its first chunk has named the model."""
        return recording.metric_attributes(self.request, response_model)
