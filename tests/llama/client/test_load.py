"""Concurrent calls of one asynchronous client release all resources."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import pytest

from llamatelemetry.genai import Call
from llamatelemetry.llama import (
    AsyncLlamaCppClient,
    LlamaCppClient,
    ServerConfig,
    ServerManager,
)
from tests.support.loopback_server import ReceivedRequest, ScriptedResponse, loopback, sse
from tests.support.tiny_gguf_models import make_llama
from tests.support.waiting import wait_for

SOCKETS = Path("/proc/self/fd")
HELLO = [{"role": "user", "content": "Hello"}]
CHUNK = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
RESPONSE = {"id": "1", "model": "m", "choices": [{"finish_reason": "stop", "message": {}}]}


def respond(asked: ReceivedRequest) -> ScriptedResponse:
    return (
        ScriptedResponse(chunks=sse(CHUNK, CHUNK))
        if asked.body.get("stream")
        else ScriptedResponse(body=RESPONSE)
    )


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_concurrent_calls_leave_no_connection_and_no_open_span(count, recorded):
    async def call_once(client: AsyncLlamaCppClient, index: int) -> None:
        match index % 4:
            case 0:
                await client.chat(HELLO)
            case 1:
                assert len([chunk async for chunk in await client.chat(HELLO, stream=True)]) == 2
            case 2:
                async with await client.chat(HELLO, stream=True) as stream:
                    await anext(stream)
            case _:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.chat(HELLO), 0)

    async def call_concurrently(url: str) -> None:
        async with AsyncLlamaCppClient(url) as client:
            await asyncio.gather(*(call_once(client, index) for index in range(count)))
            # Only idle connections are left.
            pool = client._connection.http._transport._pool
            assert all(connection.is_idle() for connection in pool.connections)
            assert len(pool.connections) <= 100

    with loopback(respond) as server:
        sockets = open_sockets()
        asyncio.run(call_concurrently(server.url))
        # A call that is canceled before it starts has no span.
        spans = recorded.calls()
        assert len(spans) == len({span.context.span_id for span in spans}) == count * 3 // 4
        assert all(span.end_time for span in spans)
        points = recorded.points("gen_ai.client.operation.duration")
        assert sum(point.count for point in points) == count * 3 // 4
        wait_for(lambda: not server.connections)
        # Those of earlier tests may have been closed meanwhile.
        assert open_sockets() <= sockets
    gc.collect()
    open_calls = [each for each in gc.get_objects() if type(each) is Call and not each.ended]
    assert open_calls == []


def open_sockets() -> set[str]:
    """Return the open sockets of this process, such as `socket:[4711]`."""
    return {name for name in map(_opened, SOCKETS.iterdir()) if name.startswith("socket:")}


def _opened(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        # The descriptor by which the directory itself was read.
        return ""


@pytest.mark.slow
@pytest.mark.needs("xllamacpp")
def test_real_server_answers_1000_calls_of_which_250_are_open(recorded, tmp_path):
    # The server has fewer slots than callers, so that spans have a queue duration.
    config = ServerConfig(
        make_llama(tmp_path / "tiny.gguf"), port=0, n_ctx=1024, n_parallel=8, threads=1
    )
    options = {"n_predict": 4, "grammar": "root ::= [a-z]{4}"}

    # The server closes a connection without a request after 5 seconds. On a busy machine, 1000 tasks
    # of one event loop can take longer between the connection and the request.
    is_free = asyncio.Semaphore(250)

    async def call_once(client: AsyncLlamaCppClient, index: int) -> int:
        async with is_free:
            if index % 2:
                return (await client.complete("Hi", **options)).tokens_predicted
            events = [event async for event in await client.complete("Hi", stream=True, **options)]
            return events[-1].tokens_predicted

    async def call_concurrently(url: str) -> list[int]:
        async with AsyncLlamaCppClient(url) as client:
            return await asyncio.gather(*(call_once(client, index) for index in range(1000)))

    with ServerManager(config, binary="embedded") as server:
        sockets = open_sockets()
        assert asyncio.run(call_concurrently(server.url)) == [4] * 1000
        # Those of earlier tests may have been closed meanwhile.
        assert open_sockets() <= sockets
    spans = recorded.calls()
    assert len(spans) == len({span.context.span_id for span in spans}) == 1000
    assert {span.attributes["gen_ai.usage.output_tokens"] for span in spans} == {4}
    assert all("llamatelemetry.queue_duration" in span.attributes for span in spans)
    assert recorded.tokens("output") == 4000


def test_unreferenced_client_is_freed_without_garbage_collector():
    client = LlamaCppClient("http://127.0.0.1:1")
    gone = weakref.ref(client)
    gc.disable()
    try:
        del client
        assert gone() is None
    finally:
        gc.enable()
