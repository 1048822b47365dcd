"""Clients of inference servers: ollama and huggingface_hub, and openai without its plugin."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import openai
import pytest
from opentelemetry.trace import StatusCode

from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.engine_formats import (
    OLLAMA_EMBED,
    as_events,
    as_lines,
    ollama_chat,
    ollama_chat_objects,
    ollama_generate_objects,
)
from tests.support.recorder import Recorder

MESSAGES = [{"role": "user", "content": "Hi"}]
STREAM = chunked(as_lines(ollama_chat_objects()), server="", kind="application/x-ndjson")
GENERATED = chunked(as_lines(ollama_generate_objects()), server="", kind="application/x-ndjson")


def test_ollama_client_is_recorded(instrumented: Recorder) -> None:
    ollama = pytest.importorskip("ollama", reason="needs ollama: pip install --group dev")
    answers = [json.dumps(body).encode() for body in (ollama_chat(), OLLAMA_EMBED)]
    chat, embed = (plain(answer, server="") for answer in answers)

    async def run(origin: str) -> Any:
        client = ollama.AsyncClient(origin)
        stream = await client.chat("smol", MESSAGES, stream=True, think=True)
        return [part async for part in stream]

    with scripted(chat, STREAM, STREAM, GENERATED, embed) as server:
        client = ollama.Client(server.origin)
        reply = client.chat("smol", MESSAGES, options={"temperature": 0.5})
        assert reply.message.content == "SECRET answer"
        parts = list(client.chat("smol", MESSAGES, stream=True))
        assert parts[-1].eval_count == 5
        assert asyncio.run(run(server.origin))[-1].done
        assert len(list(client.generate("smol", "Hi", stream=True))) == 3
        assert len(client.embed("smol", ["a", "b"]).embeddings) == 2
    spans = instrumented.calls()
    operations = ["chat", "chat", "chat", "text_completion", "embeddings"]
    assert [span.name for span in spans] == [f"{each} smol" for each in operations]
    assert {(span.attributes or {})["gen_ai.provider.name"] for span in spans} == {"ollama"}
    assert [(span.attributes or {}).get("gen_ai.decode_ms") for span in spans] == [
        *([1000.0] * 4),
        None,
    ]
    assert [(span.attributes or {}).get("gen_ai.request.stream") for span in spans] == [
        *(None, True, True, True, None),
    ]
    assert (spans[0].attributes or {})["gen_ai.request.temperature"] == 0.5


def test_ollama_client_gets_same_error(instrumented: Recorder) -> None:
    ollama = pytest.importorskip("ollama", reason="needs ollama: pip install --group dev")
    missing = plain(b'{"error": "model not found"}', status="404 Not Found", server="")
    known = plain(json.dumps(ollama_chat()).encode(), server="")
    with scripted(known, missing) as server:
        client = ollama.Client(server.origin)
        client.chat("smol", MESSAGES)
        with pytest.raises(ollama.ResponseError, match="model not found"):
            client.chat("smol", MESSAGES)
    assert (instrumented.calls()[1].attributes or {})["error.type"] == "404"


TGI = (
    *("x-queue-time: 500", "x-validation-time: 1", "x-time-per-token: 250"),
    *("x-generated-tokens: 5", "x-inference-time: 1250"),
)


def test_inference_client_of_hugging_face_is_recorded(instrumented: Recorder) -> None:
    hub = pytest.importorskip(
        "huggingface_hub", reason="needs huggingface_hub: pip install --group transformers"
    )
    reply = plain(json.dumps(payloads.chat()).encode(), *TGI, server="")
    # Streams have no such headers: the server is known from the call before.
    stream = chunked(as_events(payloads.chat_chunks(usage=payloads.USAGE)), server="")
    with scripted(reply, stream) as server:
        client = hub.InferenceClient(base_url=server.origin)
        assert client.chat_completion(MESSAGES, max_tokens=9).choices
        assert list(client.chat_completion(MESSAGES, stream=True))
    plain_call, streamed = (dict(span.attributes or {}) for span in instrumented.calls())
    assert plain_call["gen_ai.provider.name"] == streamed["gen_ai.provider.name"] == "tgi"
    assert plain_call["llamatelemetry.queue_duration"] == 0.5
    assert plain_call["llamatelemetry.queue_source"] == "engine"
    assert plain_call["gen_ai.request.max_tokens"] == 9
    assert "llamatelemetry.queue_duration" not in streamed
    assert streamed["gen_ai.usage.output_tokens"] == payloads.USAGE["completion_tokens"]


def test_stream_that_openai_reads_past_its_end_mark_succeeds(instrumented: Recorder) -> None:
    events = as_events(payloads.chat_chunks(timings=payloads.TIMINGS))

    async def run(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="smol", messages=MESSAGES, stream=True
            )
            # Old versions raise that the connection is lost, new ones ignore it.
            with contextlib.suppress(openai.APIConnectionError, httpx.RemoteProtocolError):
                async for _ in stream:
                    pass

    answer = chunked([*events, b"data: [DONE]\n\n"], is_ended=False)
    with scripted(answer) as server:
        asyncio.run(run(f"{server.origin}/v1"))
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["gen_ai.response.finish_reasons"] == ("stop",)
