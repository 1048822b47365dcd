"""Calls of an openai client in one process, and what every instrumentation made of each, as JSON.

    python -m tests.rivals.probe ours opentelemetry.instrumentation.genai.openai
    opentelemetry-instrument python -m tests.rivals.probe

The first instruments in the order given and prints what was recorded; the second only makes the
calls. It runs where the rivals are installed: nothing here may need more than they and we bring.
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

from tests.openai_plugin import replies

OURS = "llamatelemetry_instrumentation_openai"
ASKED: dict[str, Any] = {"model": "smol", "messages": replies.MESSAGES}


def answer(request: Any) -> Any:
    """What a llama.cpp server says, with its timings; of a model called ``busy`` that it is."""
    body = request.read().replace(b" ", b"")
    if b'"model":"busy"' in body:
        return replies.error_reply(429, type="rate_limit")
    if request.url.path.endswith("/embeddings"):
        return replies.json_reply(replies.embeddings(), server="llama.cpp")
    if request.url.path.endswith("/responses"):
        return replies.json_reply(replies.response(), server="llama.cpp")
    last = {"usage": replies.USAGE, "timings": replies.TIMINGS}
    if b'"stream":true' in body:
        chunks = replies.sse(replies.chat_chunks(**last))
        return replies.stream_reply(chunks, server="llama.cpp")
    reply = replies.completion if b'"prompt"' in body else replies.chat
    return replies.json_reply(reply(**last), server="llama.cpp")


def chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(**ASKED)


def stream(client: openai.OpenAI) -> None:
    assert len(list(client.chat.completions.create(**ASKED, stream=True))) == 4


def closed_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(**ASKED, stream=True) as chunks:
        next(iter(chunks))


def raw(client: openai.OpenAI) -> None:
    reply = client.chat.completions.with_raw_response.create(**ASKED).parse()
    assert reply.choices[0].message.content == "Hi"


def completion(client: openai.OpenAI) -> None:
    client.completions.create(model="smol", prompt="Say hi.")


def response(client: openai.OpenAI) -> None:
    client.responses.create(model="smol", input="Say hi.")


def embeddings(client: openai.OpenAI) -> None:
    client.embeddings.create(model="smol", input="hi")


def error(client: openai.OpenAI) -> None:
    try:
        client.chat.completions.create(**{**ASKED, "model": "busy"})
    except openai.RateLimitError:
        return
    raise AssertionError("the error was swallowed")


def async_chat(_client: openai.OpenAI) -> None:
    async def run() -> None:
        await replies.async_client(answer).chat.completions.create(**ASKED)

    asyncio.run(run())


def async_stream(_client: openai.OpenAI) -> None:
    async def run() -> None:
        client = replies.async_client(answer)
        chunks = await client.chat.completions.create(**ASKED, stream=True)
        assert len([chunk async for chunk in chunks]) == 4

    asyncio.run(run())


USES: tuple[Callable[[openai.OpenAI], None], ...] = (
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


def told(span: ReadableSpan) -> dict[str, Any]:
    """A span as JSON can hold it."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "scope": span.instrumentation_scope.name,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "attributes": dict(span.attributes),
    }


def counts(reader: InMemoryMetricReader) -> dict[str, dict[str, int]]:
    """By scope and metric, how often something was recorded."""
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
    """Instrument in this order, and give what each use leaves behind."""
    exporter = InMemorySpanExporter()
    reader = InMemoryMetricReader(
        dict.fromkeys((Histogram, Counter), AggregationTemporality.DELTA)  # since the last use
    )
    tracer_provider, meter_provider = TracerProvider(), MeterProvider([reader])
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in modules:
        instrumentor = importlib.import_module(OURS if module == "ours" else module)
        instrumentor.OpenAIInstrumentor().instrument(
            tracer_provider=tracer_provider, meter_provider=meter_provider
        )
    results = {}
    for use in USES:
        exporter.clear()
        use(replies.client(answer))
        spans = [told(span) for span in exporter.get_finished_spans()]
        results[use.__name__] = {"spans": spans, "metrics": counts(reader)}
    return results


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(record(sys.argv[1:])))
    else:
        for each in USES:
            each(replies.client(answer))
