"""The life of one GenAI call: one span, opened once and ended exactly once, and its metrics.

A plugin reads a request, starts a `Call` through its `Instrumenter`, runs the library's own work
under `Call.activate`, and hands over what came of it. Which span that is written to, and what of
it, is the business of `ownership`; a plugin need not know. Whatever fails in here is reported by
`guard` and never reaches the application.
"""

from __future__ import annotations

from contextvars import Token
from functools import partial
from os import getpid
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import get_meter
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig, effective_config
from llamatelemetry.genai import internal_errors, metrics, spans
from llamatelemetry.genai.abandoned_calls import finalizer
from llamatelemetry.genai.capture import content_recorder
from llamatelemetry.genai.errors import describe_error
from llamatelemetry.genai.external_spans import find_external_span
from llamatelemetry.genai.model import Request, Response
from llamatelemetry.genai.propagation import Propagation
from llamatelemetry.genai.servers import KnownServers, known_servers
from llamatelemetry.genai.span_target import (
    CALL_KEY,
    EnclosingCallTarget,
    ExternalSpanTarget,
    OwnSpanTarget,
    SpanTarget,
    is_within,
)
from llamatelemetry.genai.usage import correct_undercount
from llamatelemetry.otel.gen_ai_metrics import GenAIMetrics
from llamatelemetry.otel.late_points import LatePoints
from llamatelemetry.semconv.operations import operation_of_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from llamatelemetry.genai.abandoned_calls import Finalizable
    from llamatelemetry.genai.completion_hook import CompletionHook
    from llamatelemetry.otel.points import AttributeSet


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
        self.scope = scope
        self.config = effective_config(config)
        self.tracer = trace.get_tracer(scope, version, tracer_provider)
        meter = get_meter(scope, version, meter_provider)
        self.metrics = GenAIMetrics(meter, names=self.config.metric_names)
        self.points = LatePoints(
            meter,
            self.metrics.server_request_duration,
            partial(metrics.all_points, self.metrics),
            partial(metrics.layout_of, self.metrics),
        )
        self.propagation = Propagation(self.config.propagate)
        self.servers: KnownServers = known_servers
        self.content = content_recorder(
            scope, version, self.config, logger_provider, completion_hook
        )

    def start(
        self,
        request: Request,
        kind: SpanKind = SpanKind.CLIENT,
        *,
        started_ns: int | None = None,
    ) -> Call | None:
        """Open a call, or give ``None`` when this request is not to be recorded as one.

        That is so when instrumentation is suppressed, and where this plugin is at work on the
        same request already: a library wrapped twice. Inside a call of another plugin, or of
        somebody else's instrumentation, it opens none of its own but adds to that one.

        Args:
            request: what is known of it.
            kind: of the span, if it gets one of its own.
            started_ns: by `perf_counter_ns`, when it is found out only now that it is a call.
        """
        if request.task is not None:
            self._find_operation(request, request.task)
        request.provider = self.config.provider_name or self.servers.provider_of(
            request.server, request.provider
        )
        context = context_api.get_current()
        owner: SpanTarget | None = OwnSpanTarget(self, kind, context)
        if context:  # in an empty one nothing is switched off, or further out
            owner = self._owner_within_context(request, owner)
        return None if owner is None else Call(self, request, owner, started_ns)

    def _owner_within_context(self, request: Request, own: OwnSpanTarget) -> SpanTarget | None:
        """Give whose span a call is recorded on where there may be others; ``None`` for no call."""
        if not is_instrumentation_enabled():
            return None
        outer = _current_call_of(request)
        if outer is not None:
            return None if outer.instrumenter.scope == self.scope else EnclosingCallTarget(outer)
        foreign = find_external_span(request)
        return own if foreign is None else ExternalSpanTarget(self, foreign)

    def enclosing_call(self, request: Request) -> Call | None:
        """Give the open call of ours, perhaps another plugin's, that this request is already part of."""
        if request.task is not None:
            self._find_operation(request, request.task)
        return _current_call_of(request)

    def _find_operation(self, request: Request, task: str) -> None:
        strict = self.config.strict_operation_names is not False
        request.operation = operation_of_task(task, strict)


def current_call() -> Call | None:
    """Give the open call whose library work is running in this context."""
    call = context_api.get_current().get(CALL_KEY)
    return call if isinstance(call, Call) and call._open else None  # type: ignore[reportPrivateUsage]


def _current_call_of(request: Request) -> Call | None:
    outer = current_call()
    return outer if outer is not None and is_within(outer, request) else None


class Call:
    """One call, from just before the library sends it until its reply or stream has ended."""

    __slots__ = (
        "_abandoned_ns",
        "_attempt_ns",
        "_below",
        "_headers_ns",
        "_open",
        "_owner",
        "_pid",
        "_started_ns",
        "_started_wall_ns",
        "attempts",
        "first_chunk_ns",
        "first_token_ns",
        "http_response",
        "instrumenter",
        "request",
        "served_model",
    )

    def __init__(
        self,
        instrumenter: Instrumenter,
        request: Request,
        owner: SpanTarget,
        started_ns: int | None = None,
    ) -> None:
        self.instrumenter = instrumenter  # what the call was made with
        self._owner = owner
        self._below: Response | None = None
        self.request = request
        self.attempts = 0
        self.first_chunk_ns: int | None = None
        self.first_token_ns: int | None = None
        # For a plugin to keep what the library shows it on the way: the HTTP response, which
        # outlives a failure to parse it, and a model that only the headers name.
        self.http_response: Any = None
        self.served_model: str | None = None
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
        owner.open(self, self._started_wall_ns)
        request.read_content = None  # it holds the whole request

    @property
    def ended(self) -> bool:
        """Whether the call has ended."""
        return not self._open

    @property
    def recording(self) -> bool:
        """Whether span or event will show attributes: what only they show need not be read otherwise."""
        content = self._owner.content
        return self._owner.span.is_recording() or (content is not None and content.emits)

    @property
    def content_max_chars(self) -> int | None:
        """Up to where each text of the reply is wanted; ``None`` when its content is not wanted."""
        content = self._owner.content
        return None if content is None else content.max_chars

    @property
    def span(self) -> Span:
        """The span that the call is recorded on."""
        return self._owner.span

    @property
    def record_chunk_intervals(self) -> Callable[[Sequence[float], AttributeSet], None]:
        """What records the seconds between chunks of a stream, for `ChunkGaps`."""
        return self._owner.record_chunk_intervals

    def activate(self) -> Token[Context]:
        """Make the call's span current; give the result to `deactivate` when the library's work is done."""
        return context_api.attach(self._owner.context(self))

    def deactivate(self, token: Token[Context]) -> None:
        """Make the span that was current before `activate` current again."""
        context_api.detach(token)

    def start_attempt(self, at_ns: int | None = None) -> None:
        """Note that the request goes out, now or at ``at_ns``: the first time or as a retry."""
        self.attempts += 1
        self._attempt_ns = at_ns or perf_counter_ns()
        self._headers_ns = None

    def mark_sent(self, at_ns: int) -> None:
        """Note when the request of this attempt left, built and connected: the queue counts from there."""
        self._attempt_ns = at_ns
        self._headers_ns = None

    def mark_headers_received(self, at_ns: int | None = None) -> None:
        """Note that response headers have come, now or at ``at_ns``. On a stream they end the queue."""
        self._headers_ns = at_ns or perf_counter_ns()

    def set_provider(self, provider: str) -> None:
        """Note what the reply has proved about its server; later calls to it start with it."""
        if self.request.server is not None:
            self.instrumenter.servers.remember(self.request.server, provider)
        self.request.provider = self.instrumenter.config.provider_name or provider
        self._owner.set_provider(provider)

    def merge_response(self, inner: Call, response: Response) -> None:
        """Take in what a layer further in has learned of the same reply, before this call ends."""
        self._below = response
        if self.attempts == 0:
            self._attempt_ns = inner._attempt_ns
        self._headers_ns = self._headers_ns or inner._headers_ns
        self.first_chunk_ns = self.first_chunk_ns or inner.first_chunk_ns
        self.first_token_ns = self.first_token_ns or inner.first_token_ns

    def finish(self, response: Response, *, ended_ns: int | None = None) -> None:
        """End the call with its reply, or with what had come of it when it was broken off."""
        self._end(response, None, ended_ns)

    def fail(
        self, error: BaseException, response: Response | None = None, *, ended_ns: int | None = None
    ) -> None:
        """End the call with an error, and with what had come before it."""
        self._end(response or Response(), error, ended_ns)

    def abandon(self, waiting: Finalizable | None = None) -> None:
        """Leave the ending to the reaper: for finalisers, where nothing may be recorded.

        Args:
            waiting: what ends the call, if not the call itself.
        """
        if self._open:
            self._abandoned_ns = perf_counter_ns()
            finalizer.put(waiting or self)

    def finalize(self) -> None:
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
            if self._below is not None:
                response.complete(self._below)
            if response.timings is not None:
                self.set_provider(response.timings.provider)
                correct_undercount(response, self.request)
            if self.served_model is not None:
                response.model = self.served_model
            self._owner.record(self, self._outcome(response, error, ended_ns))
        except Exception as failure:
            internal_errors.log_once("recording a call", failure)
        finally:
            self._owner.close(self._started_wall_ns + ended_ns - self._started_ns)

    def _outcome(
        self, response: Response, error: BaseException | None, ended_ns: int
    ) -> spans.Outcome:
        started_ns, attempt_ns = self._started_ns, self._attempt_ns
        wall_ns = self._started_wall_ns - started_ns
        outcome = spans.Outcome(
            request=self.request,
            response=response,
            error=response.error if error is None else describe_error(error),
            duration_s=(ended_ns - started_ns) / 1e9,
            attempt_s=(ended_ns - attempt_ns) / 1e9,
            attempt_wall_ns=wall_ns + attempt_ns,
            ended_wall_ns=wall_ns + ended_ns,
            resend_count=max(0, self.attempts - 1),
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
            outcome.phases = spans.phases_of(outcome, response.timings)
        return outcome

    def chunk_attributes(self, response_model: str | None) -> AttributeSet:
        """The metric attributes of a stream's chunks, once its first chunk has named the model."""
        return metrics.metric_attributes(self.request, response_model)
