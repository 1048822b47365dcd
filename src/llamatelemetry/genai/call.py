"""The lifecycle of one GenAI call: one span, opened once and ended exactly once, and its metrics.

A plugin parses a request, starts a `Call` through its `Instrumenter`, runs the library's own
work under `Call.activate`, and ends the call with the response or the error. A call inside
another one is recorded on that one's span (`span_target`), which a plugin need not know. Errors
in this code are logged by `internal_errors` and never reach the application.
"""

from __future__ import annotations

from contextvars import Token
from os import getpid
from sys import modules
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import get_meter
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig, active_config
from llamatelemetry.genai import internal_errors, spans
from llamatelemetry.genai.agents import current_agent
from llamatelemetry.genai.content.recorder import content_recorder
from llamatelemetry.genai.errors import describe_error
from llamatelemetry.genai.external_spans import find_external_span, is_suppressed
from llamatelemetry.genai.framework_spans import INSTRUMENTATIONS
from llamatelemetry.genai.metrics import CallMetrics
from llamatelemetry.genai.model import Outcome, Request, Response
from llamatelemetry.genai.phases import phases_of
from llamatelemetry.genai.propagation import Propagation
from llamatelemetry.genai.servers import KnownServers, known_servers
from llamatelemetry.genai.span_target import (
    CALL_KEY,
    EnclosingCallTarget,
    ExternalSpanTarget,
    SpanTarget,
    is_within,
)
from llamatelemetry.genai.streams.abandoned_calls import finalizer
from llamatelemetry.genai.wire.headers import header_attributes
from llamatelemetry.genai.wire.openai_chat import correct_undercount
from llamatelemetry.semconv.operations import INFERENCE_OPERATIONS, operation_of_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.genai.content.completion_hook import CompletionHook
    from llamatelemetry.genai.content.recorder import CallContent
    from llamatelemetry.genai.diagnostics import CallDiagnostics, Diagnostics
    from llamatelemetry.genai.model import EngineTimings
    from llamatelemetry.genai.streams.abandoned_calls import Finalizable
    from llamatelemetry.otel.client_metrics import Attributes


class Instrumenter:
    """Creates the calls of a plugin. Holds its tracer, metrics and configuration.

    Args:
        scope: Instrumentation scope, the name of the plugin's package.
        version: Version of the plugin.
        config: Options; those of `active_config` if `None`.
        tracer_provider: Tracer provider; the global one if `None`.
        meter_provider: Meter provider; the global one if `None`.
        logger_provider: Logger provider for the events with content; the global one if `None`.
        completion_hook: Hook that runs with the content of each call; the one named in the
            environment if `None`.
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
        self.scope = scope
        self.config = active_config(config)
        self.tracer = trace.get_tracer(scope, version, tracer_provider)
        meter = get_meter(scope, version, meter_provider)
        self.metrics = CallMetrics(meter, self.config.metric_names)
        self.propagation = Propagation(self.config.propagate, self.config.propagate_hosts)
        self.servers: KnownServers = known_servers
        self.content = content_recorder(
            scope, version, self.config, logger_provider, completion_hook
        )
        self.diagnostics: Diagnostics | None = None
        if self.config.diagnostics:
            from llamatelemetry.genai.diagnostics import Diagnostics

            self.diagnostics = Diagnostics(self.config)

    def start(
        self,
        request: Request,
        kind: SpanKind = SpanKind.CLIENT,
        *,
        started_ns: int | None = None,
    ) -> Call | None:
        """Start a call. Return `None` if this request must not be recorded as a call.

        Nothing is recorded if instrumentation is suppressed, or if this plugin already records the
        same request because its library is wrapped twice. A call inside one of another plugin or
        instrumentation is recorded on that one's span.

        Args:
            request: The request, as far as it is known.
            kind: Kind of the span, if the call opens one.
            started_ns: Start by `perf_counter_ns`, if it lies in the past.
        """
        if request.task is not None:
            self._find_operation(request, request.task)
        server = request.server
        request.provider = self.config.provider_name or (
            request.provider
            if server is None
            else self.servers.providers.get(server.origin) or server.provider or request.provider
        )
        target: SpanTarget | None = None
        context = context_api.get_current()
        # In an empty context nothing is suppressed or open, except for spans of some frameworks.
        # The check of `are_loaded` is repeated here, because each call passes it.
        if context or not modules.keys().isdisjoint(INSTRUMENTATIONS):
            if not is_instrumentation_enabled():
                return None
            enclosing = _enclosing_call(request)
            if enclosing is not None:
                if enclosing.instrumenter.scope == self.scope:
                    return None
                target = EnclosingCallTarget(enclosing)
            else:
                external = find_external_span(request)
                if external is not None:
                    target = ExternalSpanTarget(self, external)
                elif is_suppressed():
                    return None
        return Call(self, request, kind, target, context, started_ns=started_ns)

    def enclosing_call(self, request: Request) -> Call | None:
        """Return the open call, of any plugin, that this request is already part of."""
        if request.task is not None:
            self._find_operation(request, request.task)
        return _enclosing_call(request)

    def _find_operation(self, request: Request, task: str) -> None:
        strict = self.config.strict_operation_names is not False
        request.operation = operation_of_task(task, strict)


def current_call() -> Call | None:
    """Return the open call whose library work is running in this context."""
    call = context_api.get_current().get(CALL_KEY)
    return call if isinstance(call, Call) and call._open else None  # type: ignore[reportPrivateUsage]


def _enclosing_call(request: Request) -> Call | None:
    call = current_call()
    return call if call is not None and is_within(call, request) else None


class Call:
    """One call, from just before the library sends it until its response or stream has ended.

    Attributes:
        instrumenter: Instrumenter that started the call.
        request: The request.
        span: The span that the call is recorded on.
        recording: Whether the span or an event will have attributes. If not, request parameters
            need not be parsed.
        content_max_chars: Length limit of each text of the response; `None` if its content is
            not recorded.
        attempts: How often the request was sent.
        first_chunk_ns: Arrival of the first chunk, by `perf_counter_ns`.
        first_token_ns: Arrival of the first token, by `perf_counter_ns`.
        http_response: Set by a plugin: the HTTP response, which outlives a failure to parse it.
        served_model: Set by a plugin: the model, if only the response headers name it.
        header_timings: Set by a plugin: the engine's timings in the response headers.
        diagnostics: Records what explains the duration of the call; `None` if that is off.
    """

    __slots__ = (
        *("instrumenter", "request", "span", "recording", "content_max_chars", "attempts"),
        *("first_chunk_ns", "first_token_ns", "http_response", "served_model", "header_timings"),
        *("_target", "_outer", "_context", "_content", "_nested", "_open", "_pid"),
        *("_started_provider", "diagnostics"),
        *("_started_ns", "_started_wall_ns", "_attempt_ns", "_headers_ns", "_abandoned_ns"),
    )

    def __init__(
        self,
        instrumenter: Instrumenter,
        request: Request,
        kind: SpanKind,
        target: SpanTarget | None,
        context: Context,
        *,
        started_ns: int | None = None,
    ) -> None:
        self.instrumenter = instrumenter
        self.request = request
        self._target = target  # `None` if the call has a span of its own.
        self._nested: Response | None = None
        self.attempts = 0
        self.first_chunk_ns: int | None = None
        self.first_token_ns: int | None = None
        self.http_response: Any = None
        self.served_model: str | None = None
        self.header_timings: EngineTimings | None = None
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
        if started_ns is not None:
            self._started_wall_ns -= self._started_ns - started_ns
            self._started_ns = self._attempt_ns = started_ns
        self._started_provider = request.provider
        self._content: CallContent | None = None
        self._outer: Context | None = None
        if target is None:
            self._open_span(kind, context)
        else:
            self.span = target.span
        content = self._content
        self.recording = self.span.is_recording() or (content is not None and content.emits)
        self.content_max_chars = None if content is None else content.max_chars
        self.diagnostics: CallDiagnostics | None = None
        if instrumenter.diagnostics is not None and not isinstance(target, EnclosingCallTarget):
            self.diagnostics = instrumenter.diagnostics.start(request, self.span, self._started_ns)
        request.read_content = request.body = None  # They refer to the whole request.

    def _open_span(self, kind: SpanKind, context: Context) -> None:
        instrumenter, request = self.instrumenter, self.request
        agent = current_agent(context) if context else None
        if agent is not None and request.operation in INFERENCE_OPERATIONS:
            agent.count_inference_call()
        title = request.operation or request.task or "call"
        try:
            self.span: Span = instrumenter.tracer.start_span(
                f"{title} {request.model}" if request.model else title,
                context,
                kind=kind,
                attributes=spans.start_attributes(request),
                start_time=self._started_wall_ns,
            )
        except Exception as failure:
            # A sampler or a span processor of the application has raised. The metrics are
            # recorded, and what happens inside the call belongs to the span around it.
            internal_errors.log_once("starting a call's span", failure)
            around = trace.get_current_span(context).get_span_context()
            self.span = trace.NonRecordingSpan(around)
        self._context = trace.set_span_in_context(self.span, context)
        observer = spans.DroppedSpans.observer
        if observer is not None and spans.is_dropped(self.span):
            observer.on_dropped_span_start(self.span, request, kind, instrumenter.scope)
        if instrumenter.content is not None:
            self._content = instrumenter.content.start(request, self.span)

    @property
    def ended(self) -> bool:
        """Whether the call has ended."""
        return not self._open

    def activate(self) -> Token[Context]:
        """Make the call's span current. Pass the result to `deactivate` after the library's work."""
        self._outer = context_api.get_current()
        if self._target is not None:
            return context_api.attach(self._target.context(self))
        return context_api.attach(context_api.set_value(CALL_KEY, self, self._context))

    # Make the span that was current before `activate` current again.
    deactivate: Final = staticmethod(context_api.detach)

    def restore_context(self) -> None:
        """Restore the context from before `activate`, unless that is done already.

        A signal handler can raise an exception while `activate` or `deactivate` is running.
        """
        if self._outer is not None and context_api.get_current().get(CALL_KEY) is self:
            context_api.attach(self._outer)

    def start_attempt(self, at_ns: int | None = None) -> None:
        """Mark that the request is sent, now or at `at_ns`: the first time or as a retry."""
        self.attempts += 1
        self._attempt_ns = at_ns or perf_counter_ns()
        self._headers_ns = None
        if self.diagnostics is not None:
            self.diagnostics.start_attempt(self._attempt_ns)

    def mark_sent(self, at_ns: int) -> None:
        """Mark when the request of this attempt was on the wire. The queue is measured from there."""
        self._attempt_ns = at_ns
        self._headers_ns = None

    def mark_headers_received(self, at_ns: int | None = None) -> None:
        """Mark the arrival of response headers, now or at `at_ns`. In a stream they end the queue."""
        self._headers_ns = at_ns or perf_counter_ns()

    def record_response_headers(self, headers: Any) -> None:
        """Record the headers of a response that the option `response_headers` names, if any."""
        names = self.instrumenter.config.response_headers
        if names and self.span.is_recording():
            self.span.set_attributes(header_attributes(headers, names))

    def set_provider(self, provider: str) -> None:
        """Set the provider that the response has proved. Later calls to its server start with it."""
        if self.request.server is not None:
            self.instrumenter.servers.remember(self.request.server, provider)
        self.request.provider = self.instrumenter.config.provider_name or provider
        if self._target is not None:
            self._target.set_provider(provider)

    def record_chunk_intervals(self, seconds: Sequence[float], attributes: Attributes) -> None:
        """Record the seconds between chunks of a stream, for `ChunkIntervals`."""
        if self._target is not None:
            self._target.record_chunk_intervals(seconds, attributes)
        else:
            self.instrumenter.metrics.record_chunk_intervals(seconds, attributes, self.span)

    def chunk_attributes(self, response_model: str | None) -> Attributes:
        """Return the metric attributes of a stream's chunks."""
        return spans.call_attributes(self.request, response_model)

    def add_event(self, name: str, attributes: Mapping[str, AttributeValue], at_ns: int) -> None:
        """Add an event to the call's span, at a reading of `perf_counter_ns`."""
        self.span.add_event(name, attributes, self._started_wall_ns + at_ns - self._started_ns)

    def record_engine_request(self, timings: EngineTimings, started_ns: int, ended_ns: int) -> None:
        """Record phase spans and server metrics of one of the several engine requests of this call.

        A call with a single request has its timings in `Response.timings` instead. Both times
        are readings of `perf_counter_ns`.
        """
        wall_ns = self._started_wall_ns - self._started_ns
        duration_s = (ended_ns - started_ns) / 1e9
        outcome = Outcome(
            request=self.request,
            response=Response(model=self.request.model, timings=timings),
            error=None,
            duration_s=duration_s,
            attempt_s=duration_s,
            attempt_wall_ns=wall_ns + started_ns,
            ended_wall_ns=wall_ns + ended_ns,
            resend_count=0,
        )
        outcome.phases = phases_of(outcome, timings)
        if self.instrumenter.config.phase_spans and self.span.is_recording():
            context = trace.set_span_in_context(self.span)
            spans.record_phase_spans(self.instrumenter.tracer, context, outcome)
        self.instrumenter.metrics.record(outcome, self.span, client=False)

    def merge_response(self, nested: Call, response: Response) -> None:
        """Merge a nested call's view of the same response, before this call ends."""
        self._nested = response
        if self.attempts == 0:
            self._attempt_ns = nested._attempt_ns
        self._headers_ns = self._headers_ns or nested._headers_ns
        self.first_chunk_ns = self.first_chunk_ns or nested.first_chunk_ns
        self.first_token_ns = self.first_token_ns or nested.first_token_ns

    def finish(self, response: Response, *, ended_ns: int | None = None) -> None:
        """End the call with its response, or with the part that arrived before it was closed."""
        self._end(response, None, ended_ns)

    def fail(
        self, error: BaseException, response: Response | None = None, *, ended_ns: int | None = None
    ) -> None:
        """End the call with an error, and with the response that arrived before it."""
        self._end(response or Response(), error, ended_ns)

    def abandon(self, waiting: Finalizable | None = None) -> None:
        """Queue the call for the finalizer thread: for `__del__`, where nothing may be recorded.

        That thread calls `finalize` of `waiting`, or of the call itself if `None`.
        """
        if self._open:
            self._abandoned_ns = perf_counter_ns()
            finalizer.put(waiting or self)

    def finalize(self) -> None:
        """End an abandoned call without a response, at the time it was abandoned."""
        self.fail(GeneratorExit())

    def _end(self, response: Response, error: BaseException | None, ended_ns: int | None) -> None:
        if self._pid != getpid():
            return
        try:
            self._open.pop()
        except IndexError:
            return
        ended_ns = ended_ns or self._abandoned_ns or perf_counter_ns()
        outcome: Outcome | None = None
        try:
            self._complete(response)
            outcome = self._outcome(response, error, ended_ns)
            if self.diagnostics is not None and self.span.is_recording():
                self.span.set_attributes(self.diagnostics.finish(outcome, ended_ns))
            if self._target is not None:
                self._target.record(self, outcome)
            else:
                self._record_span(outcome)
        except Exception as failure:
            internal_errors.log_once("recording a call", failure)
        finally:
            if self._target is None:
                self._end_span(self._started_wall_ns + ended_ns - self._started_ns, outcome)

    def _complete(self, response: Response) -> None:
        """Complete a response with what is known from elsewhere."""
        try:
            if self._nested is not None:
                response.complete(self._nested)
            timings = response.timings = response.timings or self.header_timings
            if timings is not None:
                response.provider = response.provider or timings.provider
                correct_undercount(response, self.request)
            if response.provider is not None:
                self.set_provider(response.provider)
            if self.served_model is not None:
                response.model = self.served_model
        except Exception as failure:
            internal_errors.log_once("completing a response", failure)

    def _record_span(self, outcome: Outcome) -> None:
        """Record attributes and phases, unless the span is dropped, and the content.

        Each has a guard of its own, so that a failure costs only one of them. The processors of
        the application, which may raise, run for each phase.
        """
        instrumenter, span, context = self.instrumenter, self.span, self._context
        if span.is_recording():
            try:
                spans.record_span(span, outcome, self._started_provider)
                if instrumenter.config.engine_latency_names:
                    spans.record_latency_names(span, outcome)
            except Exception as failure:
                internal_errors.log_once("recording the attributes of a call", failure)
            if outcome.phases is not None and instrumenter.config.phase_spans:
                spans.record_phase_spans(instrumenter.tracer, context, outcome)
        if self._content is not None:
            span.set_attributes(self._content.finish(outcome, context))

    def _end_span(self, ended_wall_ns: int, outcome: Outcome | None) -> None:
        try:
            observer = spans.DroppedSpans.observer
            if observer is not None and spans.is_dropped(self.span):
                observer.on_dropped_span_end(self.span)
            self.span.end(ended_wall_ns)
        except Exception as failure:
            internal_errors.log_once("ending a span", failure)
        finally:
            # After the span, so that an error in the metrics, which log it, cannot lose the span.
            if outcome is not None:
                self.instrumenter.metrics.record(outcome, self.span)

    def _outcome(self, response: Response, error: BaseException | None, ended_ns: int) -> Outcome:
        started_ns, attempt_ns = self._started_ns, self._attempt_ns
        wall_ns = self._started_wall_ns - started_ns
        failure = response.error if error is None else describe_error(error)
        duration_s, attempt_s = (ended_ns - started_ns) / 1e9, (ended_ns - attempt_ns) / 1e9
        attempt_wall_ns, ended_wall_ns = wall_ns + attempt_ns, wall_ns + ended_ns
        resend_count = self.attempts - 1 if self.attempts else 0
        # By position, because a call with this many keyword arguments takes twice as long.
        outcome = Outcome(
            self.request,
            response,
            failure,
            duration_s,
            attempt_s,
            attempt_wall_ns,
            ended_wall_ns,
            resend_count,
        )
        first_chunk_ns, first_token_ns = self.first_chunk_ns, self.first_token_ns
        if first_chunk_ns is not None:
            outcome.first_chunk_s = (first_chunk_ns - started_ns) / 1e9
        if first_token_ns is not None:
            outcome.first_token_s = (first_token_ns - started_ns) / 1e9
        if self.request.stream:
            if self._headers_ns is not None:
                outcome.headers_s = (self._headers_ns - attempt_ns) / 1e9
            if first_token_ns is not None:
                outcome.first_token_attempt_s = (first_token_ns - attempt_ns) / 1e9
        if response.timings is not None:
            outcome.phases = phases_of(outcome, response.timings)
        return outcome
