"""Spans of responses in the formats of OpenAI, Azure, vLLM, Ollama and DeepSeek."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.openai_plugin.server_shapes import SHAPES, Shape
from tests.support import payloads
from tests.support.recorder import Recorder

EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
SIDES = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
CALL = {"gen_ai.operation.name": "chat"}


def client_of(shape: Shape, is_async: bool, answer: payloads.Handler) -> Any:
    """Create a client as the server's documentation describes."""
    transport = payloads.http.MockTransport(answer)
    http = (payloads.http.AsyncClient if is_async else payloads.http.Client)(transport=transport)
    common = {"api_key": "secret", "max_retries": 0, "http_client": http}
    if shape.azure:
        azure: Any = openai.AsyncAzureOpenAI if is_async else openai.AzureOpenAI
        return azure(azure_endpoint=shape.base_url, api_version="2024-10-21", **common)
    plain: Any = openai.AsyncOpenAI if is_async else openai.OpenAI
    return plain(base_url=shape.base_url, **common)


async def ask(shape: Shape, is_async: bool, answer: payloads.Handler, **options: Any) -> Any:
    create = client_of(shape, is_async, answer).chat.completions.create
    parameters = payloads.known_to(create, **shape.request)
    result = create(model=shape.model, messages=payloads.MESSAGES, **parameters, **options)
    return await result if inspect.isawaitable(result) else result


def departures(model: type[pydantic.BaseModel], values: Iterable[Any]) -> set[tuple[str, ...]]:
    """Return the fields that violate openai's types, without positions in lists."""
    found: set[tuple[str, ...]] = set()
    for value in values:
        try:
            model.model_validate(value)
        except pydantic.ValidationError as error:
            places = [one["loc"] for one in error.errors()]
            found |= {tuple(part for part in place if isinstance(part, str)) for place in places}
    return found


@EVERY_SHAPE
def test_server_shape_matches_openai_types_except_known_deviations(
    shape: Shape,
) -> None:
    found = departures(ChatCompletion, [shape.reply]) | departures(
        ChatCompletionChunk, shape.events
    )
    assert found == shape.off_schema


@SIDES
@EVERY_SHAPE
async def test_plain_response_of_server_shape_is_recorded(
    instrumented: Recorder, shape: Shape, is_async: bool
) -> None:
    reply = await ask(
        shape,
        is_async,
        lambda _: payloads.http.Response(
            200, content=shape.body, headers={"content-type": "application/json"}
        ),
    )
    assert type(reply) is ChatCompletion
    span = instrumented.call()
    assert span.name == f"chat {shape.model}"
    assert dict(span.attributes) == CALL | shape.attributes
    assert instrumented.tokens("input") == shape.attributes["gen_ai.usage.input_tokens"]
    assert instrumented.tokens("output") == shape.attributes["gen_ai.usage.output_tokens"]


@SIDES
@EVERY_SHAPE
async def test_stream_of_server_shape_is_recorded(
    instrumented: Recorder, shape: Shape, is_async: bool
) -> None:
    stream = await ask(
        shape, is_async, lambda _: payloads.stream_response(shape.stream), stream=True
    )
    chunks = [chunk async for chunk in stream] if is_async else list(stream)
    assert len(chunks) == len(shape.events)
    found = dict(instrumented.call().attributes)
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == CALL | {"gen_ai.request.stream": True} | shape.attributes
    gaps = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert sum(point.count for point in gaps) == len(shape.events) - 1
    assert {point.attributes["gen_ai.response.model"] for point in gaps} == {
        shape.attributes["gen_ai.response.model"]
    }


@EVERY_SHAPE
async def test_error_of_server_shape_is_recorded(instrumented: Recorder, shape: Shape) -> None:
    status, body = shape.refusal
    with pytest.raises(openai.APIStatusError):
        await ask(shape, False, lambda _: payloads.json_response(body, status))
    span = instrumented.call()
    assert span.attributes["error.type"] == shape.error_type
    assert span.attributes["http.response.status_code"] == status
    assert body["error"]["message"] not in span.to_json()
