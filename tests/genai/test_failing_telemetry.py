"""Every patch point while a part of the application's telemetry raises: the calls do not notice."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from opentelemetry import propagate
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import flush_pending, internal_errors
from llamatelemetry.inference import traced_engine
from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
from llamatelemetry.pipeline import PipelineTracer, task, tool, workflow
from llamatelemetry.pipeline._instruments import global_instruments
from tests.genai.test_patching_libraries import INSTRUMENTORS, POINTS, make_bedrock_client
from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.embedded_llama_server import make_embedded_server
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest

BODY = {"model": "smol", "messages": payloads.MESSAGES}
PLAIN = plain(json.dumps(payloads.chat(timings=payloads.TIMINGS)).encode())
STREAM = chunked(
    [payloads.sse([event], done=False) for event in payloads.chat_chunks(timings=payloads.TIMINGS)]
)
REFUSAL = plain(b'{"error": {"type": "invalid_request_error"}}', status="400 Bad Request")


class Fault:
    """A part of the telemetry that raises. It counts how often it did."""

    raised = 0

    def fail(self, *_args: Any, **_kwargs: Any) -> Any:
        self.raised += 1
        raise RuntimeError("broken telemetry")

    def providers(self) -> dict[str, Any]:
        tracer_provider, logger_provider = TracerProvider(), LoggerProvider()
        self.install(tracer_provider, logger_provider)
        return {
            "tracer_provider": tracer_provider,
            "logger_provider": logger_provider,
            "meter_provider": MeterProvider(),
        }

    def install(self, tracers: TracerProvider, loggers: LoggerProvider) -> None:
        """Add the broken part to the providers."""


class StartFault(Fault, SpanProcessor):
    on_start = Fault.fail

    def install(self, tracers: TracerProvider, _loggers: LoggerProvider) -> None:
        tracers.add_span_processor(self)


class EndFault(StartFault):
    on_start = SpanProcessor.on_start  # type: ignore[assignment]
    on_end = Fault.fail


class SamplerFault(Fault, Sampler):
    should_sample = Fault.fail

    def get_description(self) -> str:
        return "broken"

    def install(self, tracers: TracerProvider, _loggers: LoggerProvider) -> None:
        tracers.sampler = self


class ExporterFault(Fault, SpanExporter):
    export = Fault.fail

    def install(self, tracers: TracerProvider, _loggers: LoggerProvider) -> None:
        tracers.add_span_processor(SimpleSpanProcessor(self))


class PropagatorFault(Fault, TextMapPropagator):
    extract = Fault.fail
    inject = Fault.fail

    @property
    def fields(self) -> set[str]:
        return self.fail()


class LogFault(Fault, LogRecordProcessor):
    on_emit = Fault.fail

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def install(self, _tracers: TracerProvider, loggers: LoggerProvider) -> None:
        loggers.add_log_record_processor(self)


class LoggingFault(StartFault, logging.Handler):
    """A logging handler that raises when llamatelemetry logs that telemetry has failed."""

    emit = Fault.fail

    def __init__(self) -> None:
        logging.Handler.__init__(self)


FAULTS = (
    StartFault,
    EndFault,
    SamplerFault,
    ExporterFault,
    PropagatorFault,
    LogFault,
    LoggingFault,
)


def respond(request: Any) -> Any:
    body = json.loads(request.content)
    if body["model"] == "unknown":
        return payloads.error_response(400, type="invalid_request_error", message="no such model")
    if body.get("stream"):
        events = payloads.chat_chunks(usage=payloads.USAGE, timings=payloads.TIMINGS)
        return payloads.stream_response(payloads.sse(events))
    return payloads.json_response(payloads.chat(timings=payloads.TIMINGS))


def call_openai(model: str = "smol", *, chunks: int | None = None, **options: Any) -> Any:
    create = payloads.client(respond).chat.completions.create
    result = create(model=model, messages=payloads.MESSAGES, **options)
    if chunks is None:
        return result
    with result as stream:
        read = [chunk for _, chunk in zip(range(chunks), stream, strict=False)]
    return read, result.response.is_closed


async def call_openai_async(model: str = "smol", *, chunks: int | None = None, **more: Any) -> Any:
    create = payloads.async_client(respond).chat.completions.create
    result = await create(model=model, messages=payloads.MESSAGES, **more)
    if chunks is None:
        return result
    read = []
    async with result as stream:
        async for chunk in stream:
            read.append(chunk)
            if len(read) == chunks:
                break
    return read, result.response.is_closed


def call_openai_raw(*, parse: bool) -> Any:
    create = payloads.client(respond).chat.completions.with_streaming_response.create
    with create(model="smol", messages=payloads.MESSAGES, stream=True) as response:
        result = list(response.parse()) if parse else response.read()
    return result, response.is_closed


def call_http(name: str, answer: list[bytes], chunks: int | None = None) -> Any:
    with scripted(answer) as server:
        body = {**BODY, "stream": answer is STREAM}
        request = CallerRequest(f"{server.origin}/v1/chat/completions", body, chunks=chunks)
        return replace(CALLERS[name](request), headers={})


def call_client(answer: list[bytes], **options: Any) -> Any:
    with scripted(answer) as server, LlamaCppClient(server.origin) as client:
        result = client.chat(payloads.MESSAGES, **options)
        return list(result) if options.get("stream") else result


async def call_client_async(answer: list[bytes], **options: Any) -> Any:
    with scripted(answer) as server:
        async with AsyncLlamaCppClient(server.origin) as client:
            result = await client.chat(payloads.MESSAGES, **options)
            return [chunk async for chunk in result] if options.get("stream") else result


class Engine:
    model_name = "engine"

    def generate(self, prompt: str, **_options: Any) -> str:
        return prompt.upper()

    def chat(self, messages: list[dict[str, Any]], **_options: Any) -> dict[str, Any]:
        raise ValueError(len(messages))


def run_pipeline() -> Any:
    @tool
    def add(number: int) -> int:
        return number + 1

    @task
    def items() -> Iterator[int]:
        yield add(1)
        yield add(2)

    @workflow
    def run() -> list[int]:
        return list(items())

    tracer = PipelineTracer()
    with tracer.pipeline("p") as span, tracer.stage("s") as stage:
        stage.set_attribute("a", 1)
        span.set_attribute("b", 2)
        return run()


# What an application does, by name. The first part of a name is the package of the patch points.
CALLS: dict[str, Callable[[], Any]] = {
    "openai-plain": call_openai,
    "openai-stream": lambda: call_openai(stream=True, chunks=9),
    "openai-closed-stream": lambda: call_openai(stream=True, chunks=1),
    "openai-error": lambda: call_openai("unknown"),
    "openai-raw": lambda: call_openai_raw(parse=False),
    "openai-parsed-raw": lambda: call_openai_raw(parse=True),
    "openai-async-plain": lambda: asyncio.run(call_openai_async()),
    "openai-async-stream": lambda: asyncio.run(call_openai_async(stream=True, chunks=9)),
    "openai-async-closed-stream": lambda: asyncio.run(call_openai_async(stream=True, chunks=1)),
    "openai-async-error": lambda: asyncio.run(call_openai_async("unknown")),
    "openai-copy": lambda: str(payloads.client(respond).copy(timeout=5).base_url),
    **{f"{name}-plain": lambda name=name: call_http(name, PLAIN) for name in CALLERS},
    **{f"{name}-refusal": lambda name=name: call_http(name, REFUSAL) for name in CALLERS},
    **{f"{name}-events": lambda name=name: call_http(name, STREAM) for name in CALLERS},
    **{f"{name}-closed": lambda name=name: call_http(name, STREAM, 1) for name in STREAMED},
    "client-plain": lambda: call_client(PLAIN),
    "client-stream": lambda: call_client(STREAM, stream=True),
    "client-error": lambda: call_client(REFUSAL),
    "client-async-plain": lambda: asyncio.run(call_client_async(PLAIN)),
    "client-async-stream": lambda: asyncio.run(call_client_async(STREAM, stream=True)),
    "client-async-error": lambda: asyncio.run(call_client_async(REFUSAL)),
    "engine-plain": lambda: traced_engine(Engine()).generate("hello"),
    "engine-error": lambda: traced_engine(Engine()).chat([{"role": "user", "content": "x"}]),
    "pipeline": run_pipeline,
}
if hasattr(openai, "BedrockOpenAI"):
    CALLS["openai-bedrock-copy"] = lambda: str(
        make_bedrock_client("BedrockOpenAI").copy(timeout=5).base_url
    )


def observe(call: Callable[[], Any]) -> str:
    """Return the result or the exception of a call, without what differs between two runs."""
    try:
        text = repr(call())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return re.sub(r"0x[0-9a-f]+|127\.0\.0\.1:\d+", "", text)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Fault], None]]:
    """Return a function that instruments all libraries with a broken part of the telemetry."""
    before = propagate.get_global_textmap()

    def break_telemetry(fault: Fault) -> None:
        internal_errors.set_strict(False)
        if isinstance(fault, TextMapPropagator):
            propagate.set_global_textmap(fault)
        if isinstance(fault, logging.Handler):
            monkeypatch.setattr(logging.getLogger("llamatelemetry"), "handlers", [fault])
        made = fault.providers()
        monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", made["tracer_provider"])
        global_instruments.cache_clear()
        config = LlamaTelemetryConfig(capture_content="span_and_event")
        for instrumentor in INSTRUMENTORS:
            instrumentor().instrument(**made, config=config)

    yield break_telemetry
    propagate.set_global_textmap(before)
    global_instruments.cache_clear()
    for instrumentor in INSTRUMENTORS:
        if instrumentor().is_instrumented_by_opentelemetry:
            instrumentor().uninstrument()


# The rest runs with all tests only: each fault runs every call.
FAST = {StartFault, EndFault, PropagatorFault, LoggingFault}
each_fault = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in FAST else pytest.mark.slow, id=kind.__name__)
        for kind in FAULTS
    ],
)


@each_fault
@pytest.mark.parametrize("name", CALLS)
def test_call_has_same_result_when_telemetry_raises(
    name: str, kind: type[Fault], broken: Callable[[Fault], None]
) -> None:
    expected, fault = observe(CALLS[name]), kind()
    broken(fault)
    assert observe(CALLS[name]) == expected
    assert flush_pending(30)
    if kind in {StartFault, EndFault, SamplerFault, ExporterFault} and "copy" not in name:
        assert fault.raised


@each_fault
@pytest.mark.needs("xllamacpp")
def test_in_process_server_has_same_result_when_telemetry_raises(
    kind: type[Fault], broken: Callable[[Fault], None]
) -> None:
    server = make_embedded_server()
    chat = {"messages": payloads.MESSAGES, "max_tokens": 3, "temperature": 0}

    def run() -> Any:
        received: list[Any] = []
        server.handle_chat_completions({**chat, "stream": True}, received.append)
        whole = server.handle_chat_completions(chat)
        text = server.handle_completions({"prompt": "a", "max_tokens": 2, "temperature": 0})
        vectors = server.handle_embeddings({"input": "a"})["data"]
        refused = server.handle_rerank({"query": "a"})
        choices = [each["choices"][0] for each in (whole, text)]
        return len(received), choices, len(vectors), sorted(refused)

    expected, fault = observe(run), kind()
    broken(fault)
    assert observe(run) == expected


@pytest.mark.slow
@each_fault
@pytest.mark.needs("transformers")
def test_transformers_have_same_result_when_telemetry_raises(
    kind: type[Fault], broken: Callable[[Fault], None]
) -> None:
    models: Any = importlib.import_module("tests.support.transformers_models")
    model, tokenizer = models.llama(), models.tokenizer()
    generator = models.make_pipeline("text-generation", None, model)
    classifier = models.make_pipeline("text-classification", None)
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}

    def run() -> Any:
        tokens = model.generate(**models.encoded("Hello"), tokenizer=tokenizer, **settings)
        texts = generator("Hello", **settings)
        items = list(generator(iter(["Hello", "you"]), **settings))
        return tokens.tolist(), texts, items, classifier("good")

    expected, fault = observe(run), kind()
    broken(fault)
    assert observe(run) == expected


def test_every_patched_package_has_a_call_in_the_tables() -> None:
    packages = {point.module.partition(".")[0] for point in POINTS}
    in_own_tests = {"xllamacpp", "transformers", "llama_cpp"}
    assert packages - in_own_tests == {"openai", "httpx", "httpx2", "requests"}
    assert all(any(name.startswith(each) for name in CALLS) for each in packages - in_own_tests)
