"""Model calls of one framework in one process, and the telemetry of each, as JSON.

    python -m tests.interop.framework_probe langchain openllmetry plugins

The arguments are a framework, an instrumentation of it, and whether the plugins are active. The
module runs in the environments of `scripts/test_frameworks.py`, so it may only import the packages
there, and the standard library.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.interop import framework_calls as calls
from tests.interop.framework_server import framework_server


class Framework(NamedTuple):
    """A framework that calls a model.

    Attributes:
        calls: Returns the calls by name, given the base URL of the server.
        instrumentations: Functions that activate an instrumentation, given the tracer provider.
    """

    calls: Callable[[str], dict[str, calls.Action]]
    instrumentations: dict[str, Callable[[TracerProvider], None]]


def instrumentor(name: str, **options: Any) -> Callable[[TracerProvider], None]:
    """Return a function that activates `module:Instrumentor`."""

    def activate(provider: TracerProvider) -> None:
        module, _, attribute = name.partition(":")
        instrumentor = getattr(importlib.import_module(module), attribute)(**options)
        instrumentor.instrument(
            tracer_provider=provider,
            meter_provider=metrics.get_meter_provider(),
            skip_dep_check=True,
        )

    return activate


def langfuse_client(provider: TracerProvider) -> Any:
    from langfuse import Langfuse

    return Langfuse(
        public_key="pk-lf-1",
        secret_key="sk-lf-1",
        base_url=os.environ["MODEL_SERVER"],
        tracer_provider=provider,
    )


def langfuse_callback(provider: TracerProvider) -> None:
    langfuse_client(provider)
    from langfuse.langchain import CallbackHandler

    calls.LANGCHAIN_HANDLERS.append(CallbackHandler())


def logfire_for(method: str, **options: Any) -> Callable[[TracerProvider], None]:
    def activate(_: TracerProvider) -> None:
        import logfire

        getattr(logfire, method)(**options)

    return activate


def agents_set_up(activate: Callable[[TracerProvider], None]) -> Callable[[TracerProvider], None]:
    def set_up(provider: TracerProvider) -> None:
        import agents

        agents.set_trace_processors([])  # It would export to its vendor.
        activate(provider)

    return set_up


def pydantic_ai_own(provider: TracerProvider) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.instrumented import InstrumentationSettings

    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider))


def pydantic_ai_openinference(provider: TracerProvider) -> None:
    from openinference.instrumentation.pydantic_ai import OpenInferenceSpanProcessor

    provider.add_span_processor(OpenInferenceSpanProcessor())
    pydantic_ai_own(provider)


def litellm_own(_: TracerProvider) -> None:
    import litellm
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig

    litellm.callbacks = [OpenTelemetry(OpenTelemetryConfig(exporter="console"))]


def langfuse_openai(provider: TracerProvider) -> None:
    langfuse_client(provider)
    importlib.import_module("langfuse.openai")


OI, OLLM = "openinference.instrumentation", "opentelemetry.instrumentation"
FRAMEWORKS = {
    "langchain": Framework(
        calls.langchain_calls,
        {
            "openllmetry": instrumentor(f"{OLLM}.langchain:LangchainInstrumentor"),
            "openinference": instrumentor(f"{OI}.langchain:LangChainInstrumentor"),
            "official": instrumentor(f"{OLLM}.genai.langchain:LangChainInstrumentor"),
            "langfuse": langfuse_callback,
        },
    ),
    "llama-index": Framework(
        calls.llama_index_calls,
        {
            "openllmetry": instrumentor(f"{OLLM}.llamaindex:LlamaIndexInstrumentor"),
            "openinference": instrumentor(f"{OI}.llama_index:LlamaIndexInstrumentor"),
            "official": instrumentor(f"{OLLM}.genai.llama_index:LlamaIndexInstrumentor"),
        },
    ),
    "openai-agents": Framework(
        calls.agents_calls,
        {
            "openllmetry": agents_set_up(
                instrumentor(f"{OLLM}.openai_agents:OpenAIAgentsInstrumentor")
            ),
            "openinference": agents_set_up(
                instrumentor(f"{OI}.openai_agents:OpenAIAgentsInstrumentor")
            ),
            "official": agents_set_up(
                instrumentor(f"{OLLM}.genai.openai_agents:OpenAIAgentsInstrumentor")
            ),
            "logfire": agents_set_up(logfire_for("instrument_openai_agents")),
        },
    ),
    "pydantic-ai": Framework(
        calls.pydantic_ai_calls,
        {
            "own": pydantic_ai_own,
            "openinference": pydantic_ai_openinference,
            "logfire": logfire_for("instrument_pydantic_ai"),
        },
    ),
    "litellm": Framework(
        calls.litellm_calls,
        {
            "openllmetry": instrumentor(f"{OLLM}.litellm:LiteLLMInstrumentor"),
            "openinference": instrumentor(f"{OI}.litellm:LiteLLMInstrumentor"),
            "own": litellm_own,
        },
    ),
    "langfuse": Framework(calls.langfuse_openai_calls, {"own": langfuse_openai}),
    "instructor": Framework(
        calls.instructor_calls,
        {
            "openinference": instrumentor(f"{OI}.instructor:InstructorInstrumentor"),
            "langfuse": langfuse_openai,
        },
    ),
    "openai": Framework(
        calls.openai_calls,
        {
            # By default it suppresses all other instrumentations of the call.
            "logfire": logfire_for("instrument_openai", suppress_other_instrumentation=False),
        },
    ),
}


class Telemetry:
    """The providers of the process, and what they have recorded since the last call."""

    def __init__(self, instrumentation: str) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader(
            dict.fromkeys((Histogram, Counter), AggregationTemporality.DELTA)  # since the last call
        )
        processor = SimpleSpanProcessor(self._exporter)
        if instrumentation == "logfire":
            import logfire

            logfire.configure(
                send_to_logfire=False,
                console=False,
                inspect_arguments=False,
                additional_span_processors=[processor],
                metrics=logfire.MetricsOptions(additional_readers=[self._reader]),
            )
        else:
            trace.set_tracer_provider(TracerProvider())
            trace.get_tracer_provider().add_span_processor(processor)
            metrics.set_meter_provider(MeterProvider([self._reader]))
        self.tracer_provider: Any = trace.get_tracer_provider()

    def clear(self) -> None:
        """Drop what was recorded."""
        self._exporter.clear()
        self._reader.get_metrics_data()

    def spans(self) -> list[dict[str, Any]]:
        """Return the fields of each ended span that are compared."""
        return [span_to_json(span) for span in self._exporter.get_finished_spans()]

    def counted_tokens(self) -> dict[str, float]:
        """Return the sum of `gen_ai.client.token.usage` by scope."""
        data = self._reader.get_metrics_data()
        return {
            scope.scope.name: sum(point.sum for point in metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "gen_ai.client.token.usage" and metric.data.data_points
        }


def activate_plugins() -> None:
    """Activate the plugins for clients of servers, as the zero-code set-up does at the start."""
    for name, instrumentor in (
        ("llamatelemetry_instrumentation_openai", "OpenAIInstrumentor"),
        ("llamatelemetry_instrumentation_llamacpp", "LlamaCppInstrumentor"),
    ):
        getattr(importlib.import_module(name), instrumentor)().instrument()


def span_to_json(span: ReadableSpan) -> dict[str, Any]:
    """Return the fields of a span that are compared."""
    scope = span.instrumentation_scope
    return {
        "name": span.name,
        "kind": span.kind.name,
        "scope": scope.name if scope else "",
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent else None,
        "attributes": {
            name: value
            for name, value in (span.attributes or {}).items()
            if isinstance(value, str | int | float | bool)
        },
    }


def record(framework: Framework, instrumentation: str, with_plugins: bool) -> dict[str, Any]:
    """Make all calls. Return the spans, token metrics and received `traceparent` of each."""
    telemetry = Telemetry(instrumentation)
    results = {}
    with framework_server() as (url, traceparents):
        os.environ["MODEL_SERVER"] = url
        if with_plugins:
            activate_plugins()
        if instrumentation != "none":
            framework.instrumentations[instrumentation](telemetry.tracer_provider)
        for name, call in framework.calls(url).items():
            telemetry.clear()
            traceparents.clear()
            error = None
            try:
                call()
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
            results[name] = {
                "error": error,
                "spans": telemetry.spans(),
                "metrics": telemetry.counted_tokens(),
                "traceparents": list(traceparents),
            }
    return results


if __name__ == "__main__":
    framework_name, instrumentation_name, plugins = sys.argv[1:]
    found = record(FRAMEWORKS[framework_name], instrumentation_name, plugins == "plugins")
    sys.stdout.write("\n" + json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # Without waiting for the exporters of vendors.
