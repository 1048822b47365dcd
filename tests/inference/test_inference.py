"""`create_engine`, and tracing of custom engines."""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, get_current_span, use_span

from llamatelemetry.config import effective_config, set_active_config
from llamatelemetry.inference import InferenceEngine, create_engine, traced_engine
from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
from tests.support.loopback_server import ScriptedResponse, loopback, sse

HELLO = [{"role": "user", "content": "Hello"}]
COMPLETION = {
    "id": "1",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


class EchoEngine:
    """Engine that returns its prompt, and the chat response that a test sets."""

    model_name = "/models/echo.gguf"
    extra = 2

    def __init__(self, chat: Any = lambda messages: COMPLETION) -> None:
        self._chat = chat

    def generate(
        self,
        prompt: str,
        max_tokens: int = 99,
        temperature: float = 0.7,
        stop_sequences: list[str] | None = None,
        repetition_penalty: float = 1.0,
    ) -> str:
        return f"{prompt} {max_tokens}"

    def chat(
        self, messages: list[dict[str, Any]], max_tokens: int = 99, temperature: float = 0.7
    ) -> Any:
        return self._chat(messages)


def test_clients_satisfy_engine_protocol_without_request():
    with LlamaCppClient("http://127.0.0.1:1") as client:
        assert isinstance(client, InferenceEngine)
        assert traced_engine(client) is client
    assert not isinstance(object(), InferenceEngine)


@pytest.mark.parametrize("backend", ["llama.cpp", "llama_cpp", "llamacpp"])
def test_create_engine_returns_client_for_llama_cpp_names(backend):
    engine = create_engine(backend, base_url="http://127.0.0.1:1", model="m")
    assert isinstance(engine, LlamaCppClient)
    assert engine.model_name == "m"


def test_create_engine_lists_backends_when_name_is_unknown():
    with pytest.raises(ValueError, match=r"must be 'llama\.cpp' or 'transformers', got 'nope'"):
        create_engine("nope")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_create_engine_names_pip_command_when_package_is_missing(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"needs {missing}.*pip install transformers torch"):
        create_engine("transformers", model_name_or_path="x")


def test_traced_engine_records_one_internal_span_per_call(recorded):
    engine = traced_engine(EchoEngine(), provider="llama.cpp")
    assert engine.generate("a", temperature=0.5, stop_sequences=["x"]) == "a 99"
    assert engine.chat(HELLO, 5) == COMPLETION
    generate, chat = recorded.spans()
    assert generate.kind is chat.kind is SpanKind.INTERNAL
    assert (generate.name, chat.name) == ("text_completion echo.gguf", "chat echo.gguf")
    assert dict(generate.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "echo.gguf",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ("x",),
    }
    assert dict(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "echo.gguf",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.response.id": "1",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 1,
    }
    assert recorded.tokens("output") == 1


def test_traced_engine_records_and_raises_error_of_engine(recorded):
    def fail(messages: Any) -> Any:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        traced_engine(EchoEngine(fail)).chat(HELLO)
    (span,) = recorded.spans()
    assert span.attributes["error.type"] == "LookupError"
    assert span.attributes["gen_ai.provider.name"] == "_OTHER"


CHUNK = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}


class Chunks:
    """Stream of an engine that is also a context manager and has other attributes."""

    kind = "custom"

    def __init__(self) -> None:
        self.chunks = [CHUNK, CHUNK]
        self.calls: list[str] = []

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> Any:
        if not self.chunks:
            raise StopIteration
        return self.chunks.pop()

    def close(self) -> None:
        self.calls.append("close")

    def __enter__(self) -> Chunks:
        self.calls.append("enter")
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append("exit")


def test_traced_engine_records_stream_until_its_end(recorded):
    stream = traced_engine(EchoEngine(lambda messages: iter([CHUNK, CHUNK]))).chat(HELLO)
    assert next(stream) == CHUNK
    assert recorded.spans() == []
    assert list(stream) == [CHUNK]
    (span,) = recorded.spans()
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.time_to_first_chunk"] >= 0
    assert recorded.points("gen_ai.client.operation.time_to_first_chunk")


@pytest.mark.parametrize("how", ["close", "exit", "raise", "delete"])
def test_traced_stream_passes_close_to_engine(recorded, how):
    source = Chunks()
    stream: Any = traced_engine(EchoEngine(lambda messages: source)).chat(HELLO)
    assert stream.kind == "custom"
    assert isinstance(stream, Chunks)
    if how == "close":
        next(stream)
        stream.close()
    elif how == "delete":
        next(stream)
        del stream
    else:
        with suppress(LookupError), stream as entered:
            next(entered)
            if how == "raise":
                raise LookupError
    calls = {"close": ["close"], "delete": []}
    assert source.calls == calls.get(how, ["enter", "exit"])
    (span,) = recorded.spans()
    assert span.attributes.get("error.type") == ("LookupError" if how == "raise" else None)


def test_traced_engine_records_content_when_captured(recorded):
    class StreamingEngine(EchoEngine):
        def generate(self, prompt: str, *args: Any, **kwargs: Any) -> Any:
            return (word for word in ("", "one", " two"))

    try:
        set_active_config(effective_config(capture_content="span_only"))
        assert list(traced_engine(StreamingEngine()).generate("Count")) == ["", "one", " two"]
        assert traced_engine(EchoEngine()).generate("Say") == "Say 99"
        traced_engine(EchoEngine()).chat(HELLO)
    finally:
        set_active_config(None)
    texts = [
        [
            json.loads(span.attributes[f"gen_ai.{side}.messages"])[0]["parts"][0]["content"]
            for side in ("input", "output")
        ]
        for span in recorded.spans()
    ]
    assert texts == [["Count", "one two"], ["Say", "Say 99"], ["Hello", "Hi"]]


async def test_traced_engine_records_coroutine_until_its_result(recorded):
    may_return = asyncio.Event()

    async def respond(messages: Any) -> Any:
        await may_return.wait()
        return COMPLETION

    outer = recorded.tracer_provider.get_tracer("t").start_span("outer")
    with use_span(outer):
        waiting = asyncio.create_task(traced_engine(EchoEngine(respond)).chat(HELLO))
        await asyncio.sleep(0.05)  # The engine works. The span has this duration, too.
        assert recorded.spans() == []
        may_return.set()
        assert await waiting == COMPLETION
        assert get_current_span() is outer
    (span,) = recorded.spans()
    assert span.attributes["gen_ai.usage.output_tokens"] == 1
    assert (span.end_time - span.start_time) / 1e9 >= 0.05
    assert span.parent == outer.context


async def test_traced_engine_records_failed_or_cancelled_coroutine(recorded):
    async def fail(messages: Any) -> Any:
        await asyncio.sleep(0)
        raise LookupError("lost")

    async def hang(messages: Any) -> Any:
        await asyncio.sleep(600)

    with pytest.raises(LookupError, match="lost"):
        await traced_engine(EchoEngine(fail)).chat(HELLO)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(traced_engine(EchoEngine(hang)).chat(HELLO), 0.05)
    destroyed: Any = traced_engine(EchoEngine(hang)).chat(HELLO)
    destroyed.send(None)
    destroyed.close()
    types = [span.attributes["error.type"] for span in recorded.spans()]
    assert types == ["LookupError", "asyncio.exceptions.CancelledError", "GeneratorExit"]


@pytest.mark.parametrize("how", ["read", "close", "fail"])
async def test_traced_engine_records_async_stream_until_its_end(recorded, how):
    async def chunks(messages: Any) -> Any:
        yield CHUNK
        if how == "fail":
            raise LookupError
        yield CHUNK

    stream: Any = traced_engine(EchoEngine(chunks)).chat(HELLO)
    assert await anext(stream) == CHUNK
    assert recorded.spans() == []
    if how == "close":
        await stream.aclose()
    elif how == "read":
        assert [chunk async for chunk in stream] == [CHUNK]
    else:
        with pytest.raises(LookupError):
            await anext(stream)
    (span,) = recorded.spans()
    assert span.attributes.get("error.type") == ("LookupError" if how == "fail" else None)
    assert span.attributes["gen_ai.response.id"] == "1"


@pytest.fixture
def streaming_server() -> Iterator[str]:
    timings = {"prompt_n": 3, "prompt_ms": 1.0, "predicted_n": 1, "predicted_ms": 0.0}
    last = {"id": "1", "choices": [], "timings": timings}
    with loopback(lambda _: ScriptedResponse(chunks=sse(CHUNK, last))) as server:
        yield server.url


@pytest.mark.parametrize("engine_is_async", [False, True])
async def test_traced_stream_with_nested_http_call_is_one_span(
    recorded, streaming_server, engine_is_async
):
    def relay(messages: Any) -> Any:
        with LlamaCppClient(streaming_server) as client:
            yield from client.chat(messages, stream=True)

    async def relay_async(messages: Any) -> Any:
        async with AsyncLlamaCppClient(streaming_server) as client:
            async for chunk in await client.chat(messages, stream=True):
                yield chunk

    if engine_is_async:
        stream: Any = traced_engine(EchoEngine(relay_async)).chat(HELLO)
        assert len([chunk async for chunk in stream]) == 2
    else:
        assert len(list(traced_engine(EchoEngine(relay)).chat(HELLO))) == 2
    span, *phases = sorted(recorded.spans(), key=lambda span: span.parent is not None)
    assert span.name == "chat echo.gguf"
    assert {phase.parent.span_id for phase in phases} == {span.context.span_id}
    assert span.attributes["gen_ai.prefill_ms"] == 1.0
    assert recorded.tokens("input") == 3


def test_traced_engine_with_nested_http_call_is_one_span_with_tokens(recorded):
    with (
        loopback(lambda _: ScriptedResponse(body=COMPLETION)) as server,
        LlamaCppClient(server.url) as client,
    ):
        engine = traced_engine(EchoEngine(client.chat))
        assert engine.chat(HELLO) == COMPLETION
    (span,) = recorded.spans()
    assert span.kind is SpanKind.INTERNAL
    assert recorded.tokens("input") == 3


def test_traced_engine_exposes_other_attributes_of_engine():
    engine: Any = traced_engine(EchoEngine())
    assert engine.extra == 2
    assert traced_engine(engine) is engine
    assert copy.copy(engine).model_name == EchoEngine.model_name
    with pytest.raises(AttributeError):
        _ = engine.missing


def test_traced_engine_names_missing_attributes():
    engine: Any = type("IncompleteEngine", (), {"model_name": "x", "chat": print})()
    with pytest.raises(TypeError, match="which lacks generate"):
        traced_engine(engine)


def test_async_client_has_model_name():
    assert AsyncLlamaCppClient(model="m").model_name == "m"
