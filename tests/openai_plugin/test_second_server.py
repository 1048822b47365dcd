"""The plugin compared with the responses and counters of a second real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from tests.support.components import require
from tests.support.llm_katan import (
    BETWEEN_CHUNKS_S,
    TIME_TO_FIRST_TOKEN_S,
    Katan,
    katan_server,
)
from tests.support.recorder import Recorder

# The server is installed from a package index on first use.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def katan() -> Iterator[Katan]:
    require("llm-katan")
    with katan_server() as server:
        yield server


@pytest.fixture
def client(katan: Katan) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=katan.url, api_key="any", max_retries=0) as client:
        yield client


def chat_request(text: str, **options: Any) -> dict[str, Any]:
    return {"model": Katan.model, "messages": [{"role": "user", "content": text}], **options}


def recorded_fields(span: ReadableSpan) -> tuple[Any, ...]:
    """Return the recorded fields of the response."""
    names = (
        *("response.id", "response.model", "response.finish_reasons"),
        *("usage.input_tokens", "usage.output_tokens"),
    )
    return tuple((span.attributes or {}).get(f"gen_ai.{name}") for name in names)


def response_fields(reply: Any, usage: Any = None) -> tuple[Any, ...]:
    """Return the same fields of the response, or of the last chunk with choices."""
    reasons = tuple(choice.finish_reason for choice in reply.choices)
    usage = usage or reply.usage
    return reply.id, reply.model, reasons, usage.prompt_tokens, usage.completion_tokens


async def test_telemetry_of_second_engine_equals_responses_and_server_counters(
    instrumented: Recorder, katan: Katan, client: openai.OpenAI
) -> None:
    """Run plain, streamed and raw calls, tool calls, JSON, Azure, asynchronous calls and errors."""
    before = katan.counted()
    create, expected = client.chat.completions.create, []

    expected.append(response_fields(create(**chat_request("one two three"))))
    expected.append(response_fields(list(create(**chat_request("Hi there", stream=True)))[-1]))
    expected.append(response_fields(create(**chat_request("the weather", tools=[TOOL]))))
    expected.append(
        response_fields(create(**chat_request("as JSON", response_format={"type": "json_object"})))
    )
    raw = client.chat.completions.with_raw_response.create(**chat_request("raw"))
    expected.append(response_fields(raw.parse()))
    raw = client.chat.completions.with_raw_response.create(
        **chat_request("raw stream", stream=True)
    )
    expected.append(response_fields(list(raw.parse())[-1]))
    with client.chat.completions.with_streaming_response.create(**chat_request("unread")) as unread:
        expected.append(response_fields(unread.parse()))
    azure: Any = openai.AzureOpenAI(
        azure_endpoint=katan.origin, api_key="any", api_version="2024-10-21"
    )
    with azure:
        expected.append(response_fields(azure.chat.completions.create(**chat_request("on Azure"))))
        streamed = list(azure.chat.completions.create(**chat_request("on Azure", stream=True)))
        named = [chunk for chunk in streamed if chunk.choices]
        usages = [chunk.usage for chunk in streamed if chunk.usage]
        expected.append(response_fields(named[-1], usages[-1]))
    async with openai.AsyncOpenAI(base_url=katan.url, api_key="any") as many:

        async def stream(n: int) -> Any:
            chunks = await many.chat.completions.create(**chat_request(f"stream {n}", stream=True))
            return [chunk async for chunk in chunks][-1]

        plain = (many.chat.completions.create(**chat_request(f"plain {n}")) for n in range(4))
        replies = await asyncio.gather(*plain, *(stream(n) for n in range(4)))
        expected += [response_fields(reply) for reply in replies]
    with pytest.raises(openai.BadRequestError):
        create(model=Katan.model, messages=[])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=Katan.model, input="it has none")

    good = [span for span in instrumented.calls() if span.status.status_code is StatusCode.UNSET]
    bad = [span for span in instrumented.calls() if span.status.status_code is StatusCode.ERROR]
    assert sorted(map(recorded_fields, good)) == sorted(expected)
    assert [span.attributes["error.type"] for span in bad] == ["invalid_request_error", "404"]
    moved = {name: count - before[name] for name, count in katan.counted().items()}
    assert moved == {
        "requests_total": len(good),
        "prompt_tokens_total": instrumented.tokens("input"),
        "completion_tokens_total": instrumented.tokens("output"),
    }
    providers = Counter(span.attributes["gen_ai.provider.name"] for span in good + bad)
    assert providers == {"azure.ai.openai": 2, "openai": len(good) + len(bad) - 2}
    port = int(katan.origin.rpartition(":")[2])
    for span in good + bad:
        assert span.attributes["server.address"] == "127.0.0.1"
        assert span.attributes["server.port"] == port


@pytest.mark.clock
def test_stream_times_match_times_of_second_engine(
    instrumented: Recorder, client: openai.OpenAI
) -> None:
    chunks = list(client.chat.completions.create(**chat_request("How long?", stream=True)))
    span = instrumented.call()
    first_chunk_s = span.attributes["gen_ai.response.time_to_first_chunk"]
    duration_s = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
    # The server waits twice before the stream and then before each chunk of content.
    assert first_chunk_s >= 2 * TIME_TO_FIRST_TOKEN_S
    assert duration_s >= first_chunk_s + (len(chunks) - 2) * BETWEEN_CHUNKS_S
    (gaps,) = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert gaps.count == len(chunks) - 1
    assert gaps.sum == pytest.approx(duration_s - first_chunk_s, abs=0.05)
