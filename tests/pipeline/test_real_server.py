"""Pipelines and agents around real calls to a llama.cpp server."""

from __future__ import annotations

import asyncio

import openai
import pytest

from llamatelemetry import session, workflow
from llamatelemetry.pipeline import PipelineTracer, agent
from llamatelemetry_instrumentation_llamacpp import LlamaCppInstrumentor
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.llama_server import LlamaServer
from tests.support.recorder import Recorder

QUESTION = [{"role": "user", "content": "Say hi."}]


@pytest.fixture
def instrumented(telemetry: Recorder):
    plugins = [OpenAIInstrumentor(), LlamaCppInstrumentor()]
    for plugin in plugins:
        plugin.instrument(**telemetry.providers)
    yield telemetry
    for plugin in plugins:
        plugin.uninstrument()


def test_real_calls_are_children_of_their_stage(
    instrumented: Recorder, llama_server: LlamaServer
) -> None:
    tracer = PipelineTracer()
    client = openai.OpenAI(base_url=llama_server.url, api_key="none")
    with session("thread-42", "ada"), tracer.pipeline("rag") as pipeline:
        with tracer.stage("retrieve") as stage:
            stage.set_attribute("top_k", 5)
        with tracer.stage("answer") as answer:
            client.chat.completions.create(model="m", messages=QUESTION, max_tokens=4)
    call = instrumented.call()
    assert call.parent is not None
    assert call.parent.span_id == answer.get_span_context().span_id
    assert call.context.trace_id == pipeline.get_span_context().trace_id
    assert set(instrumented.phases(call)) == {"queue", "prefill", "decode"}
    for span in instrumented.spans():
        assert (span.attributes or {})["gen_ai.conversation.id"] == "thread-42"
        assert (span.attributes or {})["user.id"] == "ada"


async def test_agent_counts_parallel_real_calls(
    instrumented: Recorder, llama_server: LlamaServer
) -> None:
    client = openai.AsyncOpenAI(base_url=llama_server.url, api_key="none")

    @agent
    async def researcher() -> None:
        ask = client.chat.completions.create
        await asyncio.gather(*(ask(model="m", messages=QUESTION, max_tokens=2) for _ in range(3)))

    @workflow
    async def research() -> None:
        await researcher()

    await research()
    await client.close()
    parent = next(span for span in instrumented.spans() if "researcher" in span.name)
    for call in instrumented.calls():
        assert call.parent is not None
        assert call.parent.span_id == parent.context.span_id
    (calls,) = instrumented.points("gen_ai.invoke_agent.inference_calls")
    assert calls.sum == len(instrumented.calls()) == 3
