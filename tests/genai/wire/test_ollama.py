"""Requests and responses of Ollama's native routes as data."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llamatelemetry.genai import (
    OllamaAccumulator,
    Usage,
    parse_ollama_chat_request,
    parse_ollama_generate_request,
    parse_ollama_parameters,
    parse_ollama_response,
)
from llamatelemetry.genai.content.blobs import BlobData
from tests.genai.engines.formats import FORMATS
from tests.support.engine_formats import (
    OLLAMA_CALL,
    OLLAMA_DONE,
    OLLAMA_HEAD,
    ollama_chat,
    ollama_chat_objects,
)


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({"model": "m", "keep_alive": 5}, {}),
        ({"options": {"num_predict": -1, "num_ctx": 4096}}, {}),  # no limit
        ({"options": {"num_predict": 7}}, {"gen_ai.request.max_tokens": 7}),
        ({"options": "high"}, {}),
        ({"think": True}, {}),
        ({"think": "low"}, {"gen_ai.request.reasoning.level": "low"}),
        ({"format": {"type": "object"}}, {"gen_ai.output.type": "json"}),
        ({"format": ""}, {}),
        ({"temperature": 1.0}, {}),  # Ollama reads options only.
        ({"dimensions": 64}, {"gen_ai.embeddings.dimension.count": 64}),
        (
            {"options": {"frequency_penalty": 0.1, "presence_penalty": 0.2, "top_p": 0.3}},
            {
                "gen_ai.request.frequency_penalty": 0.1,
                "gen_ai.request.presence_penalty": 0.2,
                "gen_ai.request.top_p": 0.3,
            },
        ),
    ],
)
def test_parameters_are_read_from_options(body: dict[str, Any], parameters: dict[str, Any]) -> None:
    assert parse_ollama_parameters(body) == parameters


def test_messages_have_images_thoughts_and_tools() -> None:
    content = parse_ollama_chat_request(
        {
            "messages": [
                {"role": "user", "content": "What?", "images": ["aGk="]},
                {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [OLLAMA_CALL]},
                {"role": "tool", "tool_name": "weather", "content": "cold"},
            ],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        }
    )
    user, assistant, tool = content.inputs
    text, image = user["parts"]
    assert text == {"type": "text", "content": "What?"}
    assert (image["type"], image["modality"]) == ("blob", "image")
    assert isinstance(image["content"], BlobData)
    assert assistant["parts"] == [
        {"type": "reasoning", "content": "hm"},
        {"type": "tool_call", "name": "weather", "arguments": {"city": "Oslo"}},
    ]
    assert tool["name"] == "weather"
    assert tool["parts"] == [{"type": "tool_call_response", "response": "cold"}]
    assert content.tools == [{"type": "function", "name": "weather"}]


def test_prompt_and_system_prompt_are_read() -> None:
    content = parse_ollama_generate_request({"prompt": "Hi", "system": "Be brief", "images": [3]})
    assert content.inputs == [{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}]
    assert content.instructions == [{"type": "text", "content": "Be brief"}]
    assert parse_ollama_generate_request({"model": "m"}).inputs == []


def test_response_has_counts_and_timings() -> None:
    response = parse_ollama_response(ollama_chat())
    assert (response.model, response.provider, response.error) == ("smol", "ollama", None)
    assert response.finish_reasons == ("stop",)
    assert response.usage == Usage(input_tokens=20, output_tokens=5, cache_read_tokens=8)
    assert response.timings == FORMATS["ollama"][2]


@pytest.mark.parametrize("role", ["assistant", "model"])
def test_stream_equals_plain_response(role: str) -> None:
    accumulator = OllamaAccumulator(1000)
    objects = ollama_chat_objects()
    for each in objects:
        each["message"]["role"] = role
    assert [accumulator.add(each) for each in objects] == [True, True, True, True, True, False]
    streamed = accumulator.response()
    plain = parse_ollama_response(
        ollama_chat(role=role, thinking="SECRET thought", tool_calls=[OLLAMA_CALL])
    )
    for name in ("model", "finish_reasons", "usage", "timings", "provider", "error"):
        assert getattr(streamed, name) == getattr(plain, name)
    assert streamed.read_content is not None
    assert plain.read_content is not None
    assert streamed.read_content() == plain.read_content()


def test_calls_of_several_objects_stay_apart() -> None:
    accumulator = OllamaAccumulator(1000)
    for _ in range(2):
        message = {"role": "assistant", "content": "", "tool_calls": [OLLAMA_CALL]}
        accumulator.add({**OLLAMA_HEAD, "message": message, "done": False})
    read = accumulator.response().read_content
    assert read is not None
    (message,) = read().outputs
    assert [part["type"] for part in message["parts"]] == ["tool_call", "tool_call"]


def test_unfinished_stream_has_no_counts() -> None:
    accumulator = OllamaAccumulator()
    for each in ollama_chat_objects()[:3]:
        accumulator.add(each)
    response = accumulator.response()
    assert response.model == "smol"
    assert response.usage.output_tokens is None
    assert (response.timings, response.provider, response.finish_reasons) == (None, None, ())


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "5", True, None, [], 2**60])
@pytest.mark.parametrize(
    ("field", "count"),
    [
        ("prompt_eval_count", "input_tokens"),
        ("eval_count", "output_tokens"),
        ("prompt_eval_cached_count", "cache_read_tokens"),
    ],
)
def test_impossible_count_is_unknown(field: str, count: str, value: Any) -> None:
    usage = parse_ollama_response({**OLLAMA_HEAD, **OLLAMA_DONE, field: value}).usage
    assert getattr(usage, count) is None


@pytest.mark.parametrize("reply", [None, [], "text", 5, {"message": 5}, {"error": "SECRET"}])
def test_any_reply_can_be_parsed(reply: Any) -> None:
    response = parse_ollama_response(reply)
    assert response.provider is None
    assert response.read_content is not None
    response.read_content()
    has_error = isinstance(reply, dict) and "error" in reply
    assert (response.error is not None) is has_error
    accumulator = OllamaAccumulator(10)
    accumulator.add(reply)
    assert "SECRET" not in str(accumulator.response().error)
