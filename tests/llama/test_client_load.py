"""Many calls at once through one asynchronous client: none of them leaves anything behind."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from llamatelemetry.genai import Call
from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
from tests.llama.loopback import Asked, Reply, loopback, sse

HELLO = [{"role": "user", "content": "Hello"}]
CHUNK = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
ANSWER = {"id": "1", "model": "m", "choices": [{"finish_reason": "stop", "message": {}}]}


def answer(asked: Asked) -> Reply:
    return Reply(pieces=sse(CHUNK, CHUNK)) if asked.body.get("stream") else Reply(body=ANSWER)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_concurrent_calls_leave_neither_connections_nor_spans(count, recorded):
    async def one(client: AsyncLlamaCppClient, index: int) -> None:
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

    async def all_of_them(url: str) -> None:
        async with AsyncLlamaCppClient(url) as client:
            await asyncio.gather(*(one(client, index) for index in range(count)))
            # What is left is idle connections that wait for the next call.
            pool = client._connection.http._transport._pool
            assert all(connection.is_idle() for connection in pool.connections)
            assert len(pool.connections) <= 100

    with loopback(answer) as server:
        asyncio.run(all_of_them(server.url))
        # A call that was cancelled before it began has made nothing.
        assert len(recorded.calls()) == count * 3 // 4
        assert all(span.end_time for span in recorded.calls())
        deadline = asyncio.run(_until(lambda: not server.connections))
        assert deadline, "the server still has connections"
    gc.collect()
    open_calls = [each for each in gc.get_objects() if type(each) is Call and not each.ended]
    assert open_calls == []


async def _until(condition: object) -> bool:
    for _ in range(200):
        if condition():  # type: ignore[operator]
            return True
        await asyncio.sleep(0.02)
    return False


def test_a_client_that_is_dropped_is_freed_without_the_garbage_collector():
    client = LlamaCppClient("http://127.0.0.1:1")
    gone = weakref.ref(client)
    gc.disable()
    try:
        del client
        assert gone() is None
    finally:
        gc.enable()
