"""Every patch point while a part of the application's telemetry raises: the calls do not notice."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest

from llamatelemetry.genai import flush_pending
from llamatelemetry.inference import traced_engine
from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
from tests.support import payloads
from tests.support.broken_telemetry import (
    EndFault,
    ExporterFault,
    Fault,
    SamplerFault,
    StartFault,
    broken_telemetry,
    each_fault,
    observe,
)
from tests.support.byte_server import chunked, plain, scripted
from tests.support.embedded_llama_server import make_embedded_server
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.patch_points import POINTS, make_bedrock_client

BODY = {"model": "smol", "messages": payloads.MESSAGES}
PLAIN = plain(json.dumps(payloads.chat(timings=payloads.TIMINGS)).encode())
STREAM = chunked(
    [payloads.sse([event], done=False) for event in payloads.chat_chunks(timings=payloads.TIMINGS)]
)
REFUSAL = plain(b'{"error": {"type": "invalid_request_error"}}', status="400 Bad Request")


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
}
if hasattr(openai, "BedrockOpenAI"):
    CALLS["openai-bedrock-copy"] = lambda: str(
        make_bedrock_client("BedrockOpenAI").copy(timeout=5).base_url
    )


@each_fault
@pytest.mark.parametrize("name", CALLS)
def test_call_has_same_result_when_telemetry_raises(name: str, kind: type[Fault]) -> None:
    expected, fault = observe(CALLS[name]), kind()
    with broken_telemetry(fault):
        assert observe(CALLS[name]) == expected
        assert flush_pending(30)
    if kind in {StartFault, EndFault, SamplerFault, ExporterFault} and "copy" not in name:
        assert fault.raised


@each_fault
@pytest.mark.needs("xllamacpp")
def test_in_process_server_has_same_result_when_telemetry_raises(
    kind: type[Fault],
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

    expected = observe(run)
    with broken_telemetry(kind()):
        assert observe(run) == expected


@pytest.mark.slow
@each_fault
@pytest.mark.needs("transformers")
def test_transformers_have_same_result_when_telemetry_raises(
    kind: type[Fault],
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

    expected = observe(run)
    with broken_telemetry(kind()):
        assert observe(run) == expected


def test_every_patched_package_has_a_call_in_the_tables() -> None:
    packages = {point.module.partition(".")[0] for point in POINTS}
    in_own_tests = {"xllamacpp", "transformers", "llama_cpp"}
    assert packages - in_own_tests == {
        *("openai", "httpx", "httpx2", "requests", "aiohttp", "urllib3"),
    }
    assert all(any(name.startswith(each) for name in CALLS) for each in packages - in_own_tests)
