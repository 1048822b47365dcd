"""One contender of `compare_openai.py`: an openai client over a mock transport, instrumented or bare.

The arguments are the name of the contender and optionally a span processor of llamatelemetry.
A line on standard input names a kind of work and the number of repetitions. The answer is the CPU
time of this thread per repetition, in nanoseconds. llamatelemetry is imported only for its own
contender, because the other environments do not have it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx2
import openai

CHUNKS = 1000
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "smol", "system_fingerprint": "fp"}
_USAGE = {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}
# What is different in a response of these servers.
_LLAMA_CPP: dict[str, Any] = {
    "system_fingerprint": "b6500-1a2b3c4d",
    "timings": {
        "cache_n": 16,
        "prompt_n": 5,
        "prompt_ms": 2.5,
        "prompt_per_token_ms": 0.5,
        "prompt_per_second": 2000.0,
        "predicted_n": 5,
        "predicted_ms": 4.5,
        "predicted_per_token_ms": 0.9,
        "predicted_per_second": 1111.1,
    },
}
_VLLM: dict[str, Any] = {
    "system_fingerprint": "vllm-0.32.0-6057df73",
    "usage": {**_USAGE, "prompt_tokens_details": {"cached_tokens": 16}},
    "prompt_logprobs": None,
    "kv_transfer_params": None,
    "metrics": {
        "time_to_first_token_ms": 22.9,
        "generation_time_ms": 26.9,
        "queue_time_ms": 0.03,
        "mean_itl_ms": 2.4,
        "tokens_per_second": 240.9,
    },
}


def instrument(name: str, processor: str | None = None) -> None:
    """Instrument the client as the contender does."""
    if name == "bare":
        return
    from _dropping import global_providers

    providers = global_providers() if processor is None else _providers_with(processor)
    if name == "llamatelemetry":
        from llamatelemetry_instrumentation_openai import OpenAIInstrumentor

        OpenAIInstrumentor().instrument(**providers)
    elif name == "by hand":
        _by_hand()
    elif name == "official":
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor as Official

        Official().instrument(**providers)
    elif name == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        OpenInference().instrument(tracer_provider=providers["tracer_provider"])


def _providers_with(processor: str) -> dict[str, Any]:
    """Return providers with redaction by all patterns, or with a tail sampler that drops calls."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from _dropping import DroppingExporter, providers
    from llamatelemetry.otel import RedactionSpanProcessor
    from llamatelemetry.otel.sampling.rules import Policy
    from llamatelemetry.otel.sampling.tail_sampler import TailSampler

    traces, exporting = TracerProvider(), BatchSpanProcessor(DroppingExporter())
    if processor == "redaction":
        traces.add_span_processor(RedactionSpanProcessor(False, patterns=["all"]))
        traces.add_span_processor(exporting)
    else:
        sampler = TailSampler(Policy.named("only_errors,only_slow", rate=0.0, slow_s=60.0))
        sampler.add_span_processor(exporting)
        traces.add_span_processor(sampler)
    return {**providers(), "tracer_provider": traces}


def _by_hand() -> None:
    """Wrap plain calls with OpenTelemetry alone: one span and two metrics."""
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import SpanKind

    tracer, meter = trace.get_tracer("by hand"), metrics.get_meter("by hand")
    duration = meter.create_histogram(
        "gen_ai.client.operation.duration",
        explicit_bucket_boundaries_advisory=[0.01 * 2**power for power in range(14)],
    )
    tokens = meter.create_histogram(
        "gen_ai.client.token.usage",
        explicit_bucket_boundaries_advisory=[4**power for power in range(14)],
    )
    known: dict[str, Any] = {
        "gen_ai.provider.name": "openai",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "smol",
        "server.address": "llm.test",
        "server.port": 80,
    }
    wrapped = openai.OpenAI.request

    def request(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("stream"):
            return wrapped(*args, **kwargs)
        span = tracer.start_span("chat smol", kind=SpanKind.CLIENT, attributes=known)
        within = trace.set_span_in_context(span)
        token = context.attach(within)
        began = time.perf_counter()
        reply = wrapped(*args, **kwargs)
        context.detach(token)
        answered = {**known, "gen_ai.response.model": reply.model}
        span.set_attributes(
            {
                "openai.api.type": "chat_completions",
                "openai.response.system_fingerprint": reply.system_fingerprint,
                "gen_ai.response.id": reply.id,
                "gen_ai.response.model": reply.model,
                "gen_ai.response.finish_reasons": [one.finish_reason for one in reply.choices],
                "gen_ai.usage.input_tokens": reply.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": reply.usage.completion_tokens,
            }
        )
        duration.record(time.perf_counter() - began, answered, within)
        for kind, count in (
            ("input", reply.usage.prompt_tokens),
            ("output", reply.usage.completion_tokens),
        ):
            tokens.record(count, {**answered, "gen_ai.token.type": kind}, within)
        span.end()
        return reply

    openai.OpenAI.request = request  # type: ignore[method-assign, assignment]


def _client(body: bytes, content_type: str) -> openai.OpenAI:
    def handler(_: Any) -> Any:
        return httpx2.Response(200, content=body, headers={"content-type": content_type})

    http_client = httpx2.Client(transport=httpx2.MockTransport(handler))
    return openai.OpenAI(base_url="http://llm.test/v1", api_key="none", http_client=http_client)


def _plain(**different: Any) -> bytes:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Hi"},
    }
    reply = {**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE}
    return json.dumps({**reply, **different}).encode()


def _stream() -> bytes:
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode() * CHUNKS + b"data: [DONE]\n\n"


def main() -> None:
    """Run commands until standard input ends."""
    instrument(*sys.argv[1:])
    stream = _client(_stream(), "text/event-stream")
    messages: list[Any] = [{"role": "user", "content": "Hi"}]

    def call(body: bytes) -> Callable[[], object]:
        client = _client(body, "application/json")
        return lambda: client.chat.completions.create(model="smol", messages=messages)

    def chunks() -> None:
        for _ in stream.chat.completions.create(model="smol", messages=messages, stream=True):
            pass

    work: dict[str, tuple[Callable[[], object], int]] = {
        "call": (call(_plain()), 1),
        "llama.cpp": (call(_plain(**_LLAMA_CPP)), 1),
        "vllm": (call(_plain(**_VLLM)), 1),
        "chunk": (chunks, CHUNKS),
    }
    for line in sys.stdin:
        name, times = line.split()
        piece, parts = work[name]
        piece()  # Fill the CPU caches, which the previous contender has used.
        began = time.thread_time_ns()
        for _ in range(int(times)):
            piece()
        print((time.thread_time_ns() - began) / int(times) / parts, flush=True)
    if sys.argv[1] != "bare":
        _flush()


def _flush() -> None:
    """Record and export what is queued, which `instructions_per_call.py` counts."""
    from opentelemetry import metrics, trace

    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]
    metrics.get_meter_provider().force_flush()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
