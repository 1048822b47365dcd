"""The Responses API and raw responses, compared with the counters of a real llama.cpp server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from tests.support import payloads
from tests.support.llama_server import LlamaServer
from tests.support.openai_operations import VERSION
from tests.support.recorder import Recorder

CHAT: dict[str, Any] = {
    "model": "smol",
    "messages": [{"role": "user", "content": "Say hi."}],
    "max_tokens": 6,
}
RESPONSE: dict[str, Any] = {"model": "smol", "input": "Say hi.", "max_output_tokens": 6}
LIMITS = payloads.http.Limits(max_keepalive_connections=0)


@pytest.fixture
def client(llama_server: LlamaServer) -> Iterator[openai.OpenAI]:
    http_client = payloads.http.Client(limits=LIMITS)
    url = llama_server.url
    with openai.OpenAI(
        base_url=url, api_key="none", max_retries=0, http_client=http_client
    ) as client:
        yield client


def plain_response(client: openai.OpenAI) -> None:
    client.responses.create(**RESPONSE)


def streamed_response(client: openai.OpenAI) -> None:
    list(client.responses.create(**RESPONSE, stream=True))


def raw_chat(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.parse().choices[0].message.content


def raw_chat_as_lines(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as raw:
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def raw_chat_parsed(client: openai.OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as raw:
        assert list(raw.parse())


def raw_response_as_bytes(client: openai.OpenAI) -> None:
    with client.responses.with_streaming_response.create(**RESPONSE) as raw:
        assert json.loads(b"".join(raw.iter_bytes()))["status"] == "completed"


def ways() -> list[Callable[[openai.OpenAI], None]]:
    found = [raw_chat, raw_chat_as_lines, raw_chat_parsed]
    if VERSION >= (1, 66):
        found += [plain_response, streamed_response, raw_response_as_bytes]
    return found


def tokens(span: ReadableSpan) -> tuple[Any, Any]:
    found = span.attributes or {}
    return found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]


@pytest.mark.parametrize("way", ways(), ids=lambda way: way.__name__)
def test_recorded_tokens_equal_server_counters(
    instrumented: Recorder,
    client: openai.OpenAI,
    llama_server: LlamaServer,
    way: Callable[[openai.OpenAI], None],
) -> None:
    before = llama_server.metrics()
    way(client)
    after = llama_server.metrics()
    span = instrumented.call()
    counted = [
        after[name] - before[name]
        for name in (
            "prompt_tokens_total",
            "prompt_tokens_cached_total",
            "tokens_predicted_total",
        )
    ]
    assert tokens(span) == (counted[0] + counted[1], counted[2])
    found = span.attributes or {}
    assert found["gen_ai.provider.name"] == "llama_cpp"
    assert found["gen_ai.response.model"] == llama_server.model
    assert len(found["gen_ai.response.finish_reasons"]) == 1
    assert not any(name.startswith("openai.") for name in found)


@pytest.mark.parametrize(
    "way",
    [way for way in ways() if "stream" in way.__name__ or "lines" in way.__name__],
    ids=lambda way: way.__name__,
)
def test_stream_records_phases_for_every_way_of_reading(
    instrumented: Recorder, client: openai.OpenAI, way: Callable[[openai.OpenAI], None]
) -> None:
    way(client)
    span = instrumented.call()
    found = span.attributes or {}
    assert found["gen_ai.prefill_ms"] > 0
    assert found["gen_ai.decode_ms"] > 0
    assert found["gen_ai.ttft_ms"] > found["gen_ai.prefill_ms"]
    assert found["llamatelemetry.queue_source"] == "header"
    assert list(instrumented.phases(span)) == ["queue", "prefill", "decode"]


def test_long_raw_embeddings_response_records_tokens(
    instrumented: Recorder, client: openai.OpenAI
) -> None:
    raw = client.embeddings.with_raw_response.create(
        model="smol", input=["one", "two three"] * 4, encoding_format="float"
    )
    assert len(raw.http_response.content) > 16_384
    span = instrumented.call()
    reply = raw.parse()
    assert len(reply.data) == 8
    assert (span.attributes or {})["gen_ai.usage.input_tokens"] == reply.usage.prompt_tokens
