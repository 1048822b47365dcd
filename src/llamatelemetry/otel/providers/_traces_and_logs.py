"""The delegating tracer provider and logger provider, with their tracers and loggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import _logs as logs_api
from opentelemetry import trace as trace_api
from opentelemetry.sdk import _logs as logs_sdk
from opentelemetry.sdk import trace as trace_sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from llamatelemetry.otel.providers._delegation import Delegate, DelegatingProvider, F, P

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes

_Scope = tuple[str, "str | None", "str | None", "Attributes"]


class DelegatingTracer(Delegate, trace_sdk.Tracer):
    """A tracer that outlives the SDK provider that created the underlying tracer.

    `start_span` of the instance is the bound method of the underlying tracer, so it costs
    nothing extra. `start_as_current_span` is inherited from the SDK. It calls `start_span` when
    the context is entered, so a decorator applied before `init()` works after it.
    """

    def __init__(self, source: trace_api.TracerProvider, scope: _Scope) -> None:
        # Skips the SDK's constructor: missing attributes are those of the underlying tracer.
        self._scope = scope
        self.set_delegate(source)

    def set_delegate(self, source: trace_api.TracerProvider) -> None:
        """Start spans with a tracer of this provider from now on."""
        self._real = source.get_tracer(*self._scope)
        self.start_span = self._real.start_span


class _WithResource(DelegatingProvider[P, F]):
    @property
    def resource(self) -> Resource:
        """The resource of the underlying SDK provider, or an empty one."""
        real: Any = self._real
        return real.resource if real else Resource.get_empty()


class DelegatingTracerProvider(
    _WithResource[trace_sdk.TracerProvider, DelegatingTracer], trace_sdk.TracerProvider
):
    """The tracer provider that OpenTelemetry's global is set to, once per process.

    `isinstance` finds an SDK provider, and every call reaches the underlying SDK provider.
    Without one, its tracers create no-op spans.
    """

    def __init__(self) -> None:
        super().__init__(trace_api.NoOpTracerProvider())

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace_api.Tracer:
        """Return a tracer that keeps working when the SDK is replaced."""
        scope = (instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        # Attributes can have any value, so the number of scopes is bounded only without them.
        return self._registry.get(
            InstrumentationScope(*scope),
            lambda source: DelegatingTracer(source, scope),
            keep=not attributes,
        )

    def add_span_processor(self, span_processor: trace_sdk.SpanProcessor) -> None:
        """Add the processor to the underlying SDK provider. It is removed with that provider."""
        if real := self._sdk_for(span_processor):
            real.add_span_processor(span_processor)


class DelegatingLogger(Delegate, logs_sdk.Logger):
    """A logger that outlives the SDK provider that created the underlying logger."""

    def __init__(self, source: logs_api.LoggerProvider, scope: _Scope) -> None:
        # Skips the SDK's constructor: missing attributes are those of the underlying logger.
        self._scope = scope
        self.set_delegate(source)

    def set_delegate(self, source: logs_api.LoggerProvider) -> None:
        """Emit with a logger of this provider from now on."""
        self._real = source.get_logger(*self._scope)
        self.emit: Any = self._real.emit
        self.enabled = self._real.enabled


class DelegatingLoggerProvider(
    _WithResource[logs_sdk.LoggerProvider, DelegatingLogger], logs_sdk.LoggerProvider
):
    """The logger provider that OpenTelemetry's global is set to, once per process."""

    def __init__(self) -> None:
        super().__init__(logs_api.NoOpLoggerProvider())

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> logs_api.Logger:
        """Return a logger that keeps working when the SDK is replaced."""
        scope = (name, version, schema_url, attributes)
        return self._registry.get(
            InstrumentationScope(*scope),
            lambda source: DelegatingLogger(source, scope),
            keep=not attributes,
        )

    def add_log_record_processor(self, log_record_processor: logs_sdk.LogRecordProcessor) -> None:
        """Add the processor to the underlying SDK provider. It is removed with that provider."""
        if real := self._sdk_for(log_record_processor):
            real.add_log_record_processor(log_record_processor)
