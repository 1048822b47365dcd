"""The stable tracer provider and its tracers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.sdk import trace as trace_sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ._followers import Delegate, Followers

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes

_logger = logging.getLogger("llamatelemetry.otel.providers")


class StableTracer(Delegate, trace_sdk.Tracer):
    """A tracer that outlives the SDK provider which made the real one.

    `start_span` of the instance is the real tracer's own bound method, so that it costs
    nothing. `start_as_current_span` is the SDK's: it calls `start_span` when the context is
    entered, so that a decorator made before `init()` works after it.
    """

    def __init__(self, scope: tuple[str, str | None, str | None, Attributes]) -> None:
        # Not the base's: its attributes are the real tracer's, see Delegate.
        self._scope = scope

    def follow(self, source: trace_api.TracerProvider) -> None:
        """Starts spans with a tracer of this provider from now on."""
        self._real = source.get_tracer(*self._scope)
        self.start_span = self._real.start_span


class StableTracerProvider(Delegate, trace_sdk.TracerProvider):
    """The tracer provider that OpenTelemetry's global is set to, once.

    It is an SDK provider to those who ask with `isinstance`, and passes everything on to the
    SDK provider behind it. With none behind it, its tracers make no-op spans.
    """

    def __init__(self) -> None:
        # Not the base's, which would make a resource and an atexit handler.
        self._real: trace_sdk.TracerProvider | None = None
        self._followers = Followers[trace_api.TracerProvider, StableTracer](
            trace_api.NoOpTracerProvider()
        )

    @property
    def sdk(self) -> trace_sdk.TracerProvider | None:
        """The SDK provider behind this one, if any."""
        return self._real

    def attach(self, provider: trace_sdk.TracerProvider) -> None:
        """Puts an SDK provider behind this one and all its tracers."""
        self._real = provider
        self._followers.follow(provider)

    def detach(self) -> trace_sdk.TracerProvider | None:
        """Takes the SDK provider away, running; spans that are open still end on it."""
        real, self._real = self._real, None
        self._followers.follow(trace_api.NoOpTracerProvider())
        return real

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace_api.Tracer:
        """A tracer that goes on working when the SDK is replaced."""
        scope = (instrumenting_module_name, instrumenting_library_version, schema_url, attributes)

        def make(source: trace_api.TracerProvider) -> StableTracer:
            tracer = StableTracer(scope)
            tracer.follow(source)
            return tracer

        # Attributes may hold anything, so only scopes without them are few for certain.
        return self._followers.get(InstrumentationScope(*scope), make, keep=not attributes)

    @property
    def resource(self) -> Resource:
        """The resource of the SDK behind, else an empty one."""
        real = self._real
        return real.resource if real else Resource.get_empty()

    def add_span_processor(self, span_processor: trace_sdk.SpanProcessor) -> None:
        """Adds the processor to the SDK behind; it goes when that SDK goes."""
        real = self._real
        if real is None:
            _logger.warning("No SDK is set up: %r was not added", span_processor)
            return
        real.add_span_processor(span_processor)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flushes the SDK behind; nothing behind, nothing to flush."""
        real = self._real
        return real.force_flush(timeout_millis) if real else True

    def shutdown(self) -> None:
        """Shuts the SDK behind down; `init()` can put another one here."""
        if real := self.detach():
            real.shutdown()

    def _set_tracer_configurator(self, *, tracer_configurator: Any) -> None:
        if real := self._real:
            real._set_tracer_configurator(tracer_configurator=tracer_configurator)

    def _update_resource(self, resource: Resource) -> None:
        if real := self._real:
            real._update_resource(resource)
