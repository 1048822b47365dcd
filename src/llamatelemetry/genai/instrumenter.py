"""What starts the calls of a plugin: its tracer, metrics, configuration and recorders."""

from __future__ import annotations

from sys import modules
from typing import TYPE_CHECKING

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import get_meter
from opentelemetry.trace import SpanKind

from llamatelemetry.config import LlamaTelemetryConfig, active_config
from llamatelemetry.genai.call import Call, enclosing_call
from llamatelemetry.genai.content.recorder import content_recorder
from llamatelemetry.genai.external_spans import find_external_span, is_suppressed
from llamatelemetry.genai.framework_spans import INSTRUMENTATIONS
from llamatelemetry.genai.metrics import CallMetrics
from llamatelemetry.genai.propagation import Propagation
from llamatelemetry.genai.servers import KnownServers, known_servers
from llamatelemetry.genai.span_target import EnclosingCallTarget, ExternalSpanTarget, SpanTarget
from llamatelemetry.semconv.operations import operation_of_task

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llamatelemetry.genai.content.completion_hook import CompletionHook
    from llamatelemetry.genai.diagnostics import Diagnostics
    from llamatelemetry.genai.model import Request


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
            enclosing = enclosing_call(request)
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
        return enclosing_call(request)

    def _find_operation(self, request: Request, task: str) -> None:
        strict = self.config.strict_operation_names is not False
        request.operation = operation_of_task(task, strict)
