"""The plugin compared with the counters and the order of service of a real llama.cpp server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from tests.support import payloads
from tests.support.llama_server import LlamaServer, embedded_server
from tests.support.recorder import Recorder

SLOTS = 2


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# openai 1 reuses a connection that llama.cpp closes after a stream, and then retries. The tests
# count attempts, so each call gets a new connection.
KEPT = 0 if payloads.OPENAI < (2, 0) else None
LIMITS = payloads.http.Limits(max_keepalive_connections=KEPT)


@pytest.fixture
def client(llama_server: LlamaServer) -> Iterator[openai.OpenAI]:
    http_client = payloads.http.Client(limits=LIMITS)
    with openai.OpenAI(
        base_url=llama_server.url, api_key="none", max_retries=0, http_client=http_client
    ) as client:
        client.models.list()  # Connect first, because the cost of a new connection is not measured.
        yield client


@pytest.fixture
async def async_client(llama_server: LlamaServer) -> AsyncIterator[openai.AsyncOpenAI]:
    http_client = payloads.http.AsyncClient(limits=LIMITS)
    async with openai.AsyncOpenAI(
        base_url=llama_server.url, api_key="none", max_retries=0, http_client=http_client
    ) as client:
        await asyncio.gather(*(client.models.list() for _ in range(2 * SLOTS)))
        yield client


async def read(stream: Any) -> None:
    async for _ in await stream:
        pass


def duration_s(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def phases_s(span: ReadableSpan) -> float:
    found = span.attributes or {}
    return (
        found["llamatelemetry.queue_duration"]
        + found["gen_ai.prefill_ms"] / 1000
        + found["gen_ai.decode_ms"] / 1000
    )


async def test_recorded_tokens_equal_counters_of_real_server(
    instrumented: Recorder,
    llama_server: LlamaServer,
    client: openai.OpenAI,
    async_client: openai.AsyncOpenAI,
) -> None:
    """Run plain, streamed, asynchronous and concurrent calls, completions, embeddings and an error."""
    before = llama_server.metrics()

    def chat(text: str, **options: Any) -> Any:
        return client.chat.completions.create(
            model="smol", messages=messages(text), max_tokens=12, **options
        )

    chat("Name a colour.")
    chat("Name a colour.")  # The second time most tokens come from the prompt cache.
    list(chat("Name a river.", stream=True))
    list(chat("Name a mountain.", stream=True, stream_options={"include_usage": True}))
    client.completions.create(model="smol", prompt="Once upon a time", max_tokens=6)
    list(client.completions.create(model="smol", prompt="Once upon", max_tokens=6, stream=True))
    client.embeddings.create(model="smol", input=["one sentence", "another, longer sentence"])
    with pytest.raises(openai.BadRequestError):
        chat("far too long " * 2000)
    ask = async_client.chat.completions.create
    await asyncio.gather(
        *(ask(model="smol", messages=messages(f"Count to {n}."), max_tokens=10) for n in range(4)),
        *(
            read(ask(model="smol", messages=messages(f"Add {n}."), max_tokens=10, stream=True))
            for n in range(4)
        ),
    )

    after = llama_server.metrics()
    moved = {name: after[name] - before[name] for name in after}
    cached = sum(
        span.attributes.get("gen_ai.usage.cache_read.input_tokens", 0)
        for span in instrumented.calls()
    )
    assert len(instrumented.calls()) == 16
    assert instrumented.tokens("output") == moved["tokens_predicted_total"] > 0
    assert cached == moved["prompt_tokens_cached_total"] > 0
    assert (
        instrumented.tokens("input")
        == moved["prompt_tokens_total"] + moved["prompt_tokens_cached_total"]
    )
    assert {span.attributes["gen_ai.provider.name"] for span in instrumented.calls()} == {
        "llama_cpp"
    }


@pytest.mark.clock
async def test_phases_of_stream_add_up_to_duration(
    instrumented: Recorder, async_client: openai.AsyncOpenAI
) -> None:
    """There are three times as many calls as slots."""

    async def ask(n: int) -> None:
        text = f"Tell me a story about the number {n} and its friends. " * 5
        await read(
            async_client.chat.completions.create(
                model="smol", messages=messages(text), max_tokens=24, stream=True
            )
        )

    await asyncio.gather(*(ask(n) for n in range(3 * SLOTS)))
    calls = instrumented.calls()
    assert len(calls) == 3 * SLOTS
    for span in calls:
        assert span.attributes["llamatelemetry.queue_source"] == "header"
        assert phases_s(span) == pytest.approx(duration_s(span), rel=0.05, abs=0.005)
    queues = sorted(span.attributes["llamatelemetry.queue_duration"] for span in calls)
    # Two calls found a free slot. The others waited for at least one complete call.
    shortest = min(
        duration_s(span) - span.attributes["llamatelemetry.queue_duration"] for span in calls
    )
    assert queues[SLOTS] > 0.8 * shortest > queues[0]


@pytest.mark.slow
@pytest.mark.clock
async def test_queue_of_plain_calls_matches_order_of_service(
    instrumented: Recorder, async_client: openai.AsyncOpenAI
) -> None:
    """The end of each recorded queue is the time at which a slot becomes free."""

    async def ask(n: int) -> None:
        await async_client.chat.completions.create(
            model="smol",
            messages=messages(f"Tell me about the number {n}."),
            max_tokens=30,
            extra_body={"ignore_eos": True},
        )

    await ask(0)  # The common prefix of the prompts is cached now, so prefill is short.
    instrumented.clear_spans()
    await asyncio.gather(*(ask(n) for n in range(3 * SLOTS)))

    served = []
    for span in instrumented.calls():
        assert span.attributes["llamatelemetry.queue_source"] == "remainder"
        queue_s = span.attributes["llamatelemetry.queue_duration"]
        served.append(((span.start_time or 0) / 1e9 + queue_s, (span.end_time or 0) / 1e9))
    served.sort()
    for position in range(SLOTS, len(served)):
        began, _ = served[position]
        ended = sorted(end for _, end in served[:position])
        assert began == pytest.approx(ended[-SLOTS], abs=0.06)


@pytest.mark.slow
@pytest.mark.clock
def test_queue_starts_at_last_attempt(instrumented: Recorder, llama_server: LlamaServer) -> None:
    """Two attempts fail before they reach the server, which is idle."""
    failures = [payloads.error_response(503), payloads.error_response(503)]
    transport = payloads.http.HTTPTransport()

    class Flaky(payloads.http.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            if failures:
                time.sleep(0.2)
                return failures.pop()
            return transport.handle_request(request)

        def close(self) -> None:
            transport.close()

    client = openai.OpenAI(
        base_url=llama_server.url,
        api_key="none",
        max_retries=2,
        http_client=payloads.http.Client(transport=Flaky()),
    )
    with client:
        client.chat.completions.create(model="smol", messages=messages("Say hi."), max_tokens=8)
    span = instrumented.call()
    assert span.attributes["http.request.resend_count"] == 2
    assert duration_s(span) > 0.9  # Two slow failures and the client's pauses.
    assert span.attributes["llamatelemetry.queue_duration"] < 0.1
    queue = instrumented.phases(span)["queue"]
    assert (queue.start_time or 0) - (span.start_time or 0) > 0.8e9


@pytest.mark.needs("xllamacpp")
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_call_fails_when_server_is_killed(instrumented: Recorder, stream: bool) -> None:
    # Before openai 3, errors inside a stream are those of the HTTP client.
    wrapped = not stream or payloads.OPENAI >= (3, 0)
    expected = openai.APIConnectionError if wrapped else payloads.http.RemoteProtocolError
    with embedded_server(alias="smol") as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        killer = threading.Timer(0.8, os.kill, (server.pid, signal.SIGKILL))

        def ask() -> None:
            killer.start()
            reply: Any = client.completions.create(
                model="smol",
                prompt="Once upon a time",
                max_tokens=2000,
                extra_body={"ignore_eos": True},
                stream=stream,
            )
            for _ in reply if stream else ():
                pass

        # The setup cost of a client's first call is outside the span and would exceed the timeout.
        client.completions.create(model="smol", prompt="Hi", max_tokens=1)
        instrumented.clear_spans()
        with client, pytest.raises(expected) as seen:
            ask()
    span = instrumented.call()
    kind = "openai.APIConnectionError" if wrapped else "httpx.RemoteProtocolError"
    assert type(seen.value) is expected
    assert span.attributes["error.type"] == kind
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is stream
    assert 0.5 < duration_s(span) < 10
