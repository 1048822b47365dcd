"""Calls of an openai client in one process, and the spans and metrics of each, as JSON.

    python -m tests.interop.probe plugin opentelemetry.instrumentation.genai.openai
    opentelemetry-instrument python -m tests.interop.probe

The first command instruments in the given order and prints the recorded telemetry. The second one
only makes the calls. The module runs in an environment with the other instrumentations, and may
only import their dependencies and those of llamatelemetry.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import openai
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support import payloads

PLUGIN = "llamatelemetry_instrumentation_openai"
CHAT_REQUEST: dict[str, Any] = {"model": "smol", "messages": payloads.MESSAGES}


def respond(request: Any) -> Any:
    """Respond as a llama.cpp server with timings. The model `busy` is rate-limited."""
    body = request.read().replace(b" ", b"")
    if b'"model":"busy"' in body:
        return payloads.error_response(429, type="rate_limit")
    if request.url.path.endswith("/embeddings"):
        return payloads.json_response(payloads.embeddings(), server="llama.cpp")
    if request.url.path.endswith("/responses"):
        return payloads.json_response(payloads.response(), server="llama.cpp")
    last = {"usage": payloads.USAGE, "timings": payloads.TIMINGS}
    if b'"stream":true' in body:
        chunks = payloads.sse(payloads.chat_chunks(**last))
        return payloads.stream_response(chunks, server="llama.cpp")
    reply = payloads.completion if b'"prompt"' in body else payloads.chat
    return payloads.json_response(reply(**last), server="llama.cpp")


def chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(**CHAT_REQUEST)


def stream(client: openai.OpenAI) -> None:
    assert len(list(client.chat.completions.create(**CHAT_REQUEST, stream=True))) == 4


def closed_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**CHAT_REQUEST, stream=True) as chunks:
        next(iter(chunks))


def raw(client: openai.OpenAI) -> None:
    reply = client.chat.completions.with_raw_response.create(**CHAT_REQUEST).parse()
    assert reply.choices[0].message.content == "Hi"


def completion(client: openai.OpenAI) -> None:
    client.completions.create(model="smol", prompt="Say hi.")


def response(client: openai.OpenAI) -> None:
    client.responses.create(model="smol", input="Say hi.")


def embeddings(client: openai.OpenAI) -> None:
    client.embeddings.create(model="smol", input="hi")


def error(client: openai.OpenAI) -> None:
    try:
        client.chat.completions.create(**{**CHAT_REQUEST, "model": "busy"})
    except openai.RateLimitError:
        return
    raise AssertionError("no error was raised")


def async_chat(_client: openai.OpenAI) -> None:
    async def run() -> None:
        await payloads.async_client(respond).chat.completions.create(**CHAT_REQUEST)

    asyncio.run(run())


def async_stream(_client: openai.OpenAI) -> None:
    async def run() -> None:
        client = payloads.async_client(respond)
        chunks = await client.chat.completions.create(**CHAT_REQUEST, stream=True)
        assert len([chunk async for chunk in chunks]) == 4

    asyncio.run(run())


CALLS: tuple[Callable[[openai.OpenAI], None], ...] = (
    chat,
    stream,
    closed_stream,
    raw,
    completion,
    response,
    embeddings,
    error,
    async_chat,
    async_stream,
)


def span_to_json(span: ReadableSpan) -> dict[str, Any]:
    """Return the fields of a span that the tests compare."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "scope": span.instrumentation_scope.name,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "attributes": dict(span.attributes),
    }


def measurement_counts(reader: InMemoryMetricReader) -> dict[str, dict[str, int]]:
    """Return the number of measurements, by scope and metric."""
    found: dict[str, dict[str, int]] = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = metric.data.data_points
                number = sum(getattr(point, "count", 1) for point in points)
                found.setdefault(scope.scope.name, {})[metric.name] = number
    return found


def record(modules: list[str]) -> dict[str, Any]:
    """Instrument in the given order. Return the spans and metrics of each call."""
    exporter = InMemorySpanExporter()
    reader = InMemoryMetricReader(
        dict.fromkeys((Histogram, Counter), AggregationTemporality.DELTA)  # since the last call
    )
    tracer_provider, meter_provider = TracerProvider(), MeterProvider([reader])
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in modules:
        instrumentor = importlib.import_module(PLUGIN if module == "plugin" else module)
        instrumentor.OpenAIInstrumentor().instrument(
            tracer_provider=tracer_provider, meter_provider=meter_provider
        )
    results = {}
    for call in CALLS:
        exporter.clear()
        call(payloads.client(respond))
        spans = [span_to_json(span) for span in exporter.get_finished_spans()]
        results[call.__name__] = {"spans": spans, "metrics": measurement_counts(reader)}
    return results


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(record(sys.argv[1:])))
    else:
        for each in CALLS:
            each(payloads.client(respond))
