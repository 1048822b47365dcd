"""Engines: made by name, and one's own traced."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from llamatelemetry.inference import InferenceEngine, create_engine, traced_engine
from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
from tests.llama.conftest import recorded
from tests.llama.loopback import Reply, loopback

__all__ = ["recorded"]

HELLO = [{"role": "user", "content": "Hello"}]
ANSWER = {
    "id": "1",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


class Parrot:
    """Says what it is told, or does with it what a test wants."""

    model_name = "/models/parrot.gguf"
    wings = 2

    def __init__(self, chat: Any = lambda messages: ANSWER) -> None:
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


def test_the_clients_satisfy_the_protocol_and_looking_asks_no_server():
    with LlamaCppClient("http://127.0.0.1:1") as client:
        assert isinstance(client, InferenceEngine)
        assert traced_engine(client) is client
    assert not isinstance(object(), InferenceEngine)


@pytest.mark.parametrize("backend", ["llama.cpp", "llama_cpp", "llamacpp"])
def test_a_backend_is_made_by_its_name(backend):
    engine = create_engine(backend, base_url="http://127.0.0.1:1", model="m")
    assert isinstance(engine, LlamaCppClient)
    assert engine.model_name == "m"


def test_an_unknown_backend_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"'nope'; accepted: 'llama\.cpp', 'transformers'"):
        create_engine("nope")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_backend_whose_library_is_missing_says_how_to_get_it(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"needs {missing}.*pip install transformers torch"):
        create_engine("transformers", model_name_or_path="x")


def test_an_engine_of_ones_own_is_one_span_per_call_in_this_process(recorded):
    engine = traced_engine(Parrot(), provider="llama.cpp")
    assert engine.generate("a", temperature=0.5, stop_sequences=["x"]) == "a 99"
    assert engine.chat(HELLO, 5) == ANSWER
    generate, chat = recorded.spans()
    assert generate.kind is chat.kind is SpanKind.INTERNAL
    assert (generate.name, chat.name) == ("text_completion parrot.gguf", "chat parrot.gguf")
    assert dict(generate.attributes) == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "parrot.gguf",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ("x",),
    }
    assert dict(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama_cpp",
        "gen_ai.request.model": "parrot.gguf",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.response.id": "1",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 1,
    }
    assert recorded.tokens("output") == 1


def test_the_engines_own_error_comes_through(recorded):
    def fail(messages: Any) -> Any:
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        traced_engine(Parrot(fail)).chat(HELLO)
    (span,) = recorded.spans()
    assert span.attributes["error.type"] == "LookupError"
    assert span.attributes["gen_ai.provider.name"] == "_OTHER"


def test_an_engine_that_streams_is_recorded_to_the_streams_end(recorded):
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    stream = traced_engine(Parrot(lambda messages: iter([chunk, chunk]))).chat(HELLO)
    assert next(stream) == chunk
    assert recorded.spans() == []
    assert list(stream) == [chunk]
    (span,) = recorded.spans()
    assert span.attributes["gen_ai.request.stream"] is True


def test_an_engine_that_asks_a_server_is_one_span_with_the_servers_tokens(recorded):
    with (
        loopback(lambda asked: Reply(body=ANSWER)) as server,
        LlamaCppClient(server.url) as client,
    ):
        engine = traced_engine(Parrot(client.chat))
        assert engine.chat(HELLO) == ANSWER
    (span,) = recorded.spans()
    assert span.kind is SpanKind.INTERNAL
    assert recorded.tokens("input") == 3


def test_the_rest_of_the_engine_stays_reachable():
    engine: Any = traced_engine(Parrot())
    assert engine.wings == 2
    assert traced_engine(engine) is engine
    assert copy.copy(engine).model_name == Parrot.model_name
    with pytest.raises(AttributeError):
        _ = engine.tail


def test_what_is_no_engine_is_told_what_it_lacks():
    engine: Any = type("Half", (), {"model_name": "x", "chat": print})()
    with pytest.raises(TypeError, match="it lacks generate"):
        traced_engine(engine)


def test_the_asynchronous_client_has_a_models_name_too():
    assert AsyncLlamaCppClient(model="m").model_name == "m"
