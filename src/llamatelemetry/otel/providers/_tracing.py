"""The stable tracer provider and its tracers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace as trace_api
from opentelemetry.sdk import trace as trace_sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ._followers import Delegate
from ._provider import StableProvider

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes


class StableTracer(Delegate, trace_sdk.Tracer):
    """A tracer that outlives the SDK provider which made the real one.

    `start_span` of the instance is the real tracer's own bound method, so that it costs
    nothing. `start_as_current_span` is the SDK's: it calls `start_span` when the context is
    entered, so that a decorator made before `init()` works after it.
    """

    def __init__(
        self,
        source: trace_api.TracerProvider,
        scope: tuple[str, str | None, str | None, Attributes],
    ) -> None:
        # Not the base's: its attributes are the real tracer's, see Delegate.
        self._scope = scope
        self.follow(source)

    def follow(self, source: trace_api.TracerProvider) -> None:
        """Starts spans with a tracer of this provider from now on."""
        self._real = source.get_tracer(*self._scope)
        self.start_span = self._real.start_span


class StableTracerProvider(
    StableProvider[trace_sdk.TracerProvider, StableTracer], trace_sdk.TracerProvider
):
    """The tracer provider that OpenTelemetry's global is set to, once.

    It is an SDK provider to those who ask with `isinstance`, and passes everything on to the
    SDK provider behind it. With none behind it, its tracers make no-op spans.
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
        """A tracer that goes on working when the SDK is replaced."""
        scope = (instrumenting_module_name, instrumenting_library_version, schema_url, attributes)

        # Attributes may hold anything, so only scopes without them are few for certain.
        return self._followers.get(
            InstrumentationScope(*scope),
            lambda source: StableTracer(source, scope),
            keep=not attributes,
        )

    @property
    def resource(self) -> Resource:
        """The resource of the SDK behind, else an empty one."""
        real = self._real
        return real.resource if real else Resource.get_empty()

    def add_span_processor(self, span_processor: trace_sdk.SpanProcessor) -> None:
        """Adds the processor to the SDK behind; it goes when that SDK goes."""
        if real := self._sdk_for(span_processor):
            real.add_span_processor(span_processor)

    def _set_tracer_configurator(self, *, tracer_configurator: Any) -> None:
        if real := self._real:
            real._set_tracer_configurator(tracer_configurator=tracer_configurator)
