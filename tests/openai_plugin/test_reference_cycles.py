"""Calls that have ended leave nothing to the garbage collector: some programs turn it off."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import payloads
from tests.support.recorder import Recorder

CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}]}
EVENTS = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE))


def handle(request: Any) -> Any:
    is_stream = b'"stream"' in request.content
    body = EVENTS if is_stream else json.dumps(payloads.chat()).encode()
    media = "text/event-stream" if is_stream else "application/json"
    return payloads.chunked_response(*payloads.split(body, 90), media=media)


def plain(completions: Any) -> None:
    completions.create(**CHAT)


def stream(completions: Any) -> None:
    list(completions.create(**CHAT, stream=True))


def closed_stream(completions: Any) -> None:
    with completions.create(**CHAT, stream=True) as chunks:
        next(chunks)


def raw(completions: Any) -> None:
    completions.with_raw_response.create(**CHAT).parse()


def raw_stream(completions: Any) -> None:
    list(completions.with_raw_response.create(**CHAT, stream=True).parse())


def unread(completions: Any) -> None:
    with completions.with_streaming_response.create(**CHAT) as response:
        response.parse()


def lines(completions: Any) -> None:
    with completions.with_streaming_response.create(**CHAT, stream=True) as response:
        list(response.iter_lines())


def garbage_of(run: Callable[[], None]) -> list[str]:
    """Return the names of our classes whose instances only the garbage collector frees."""
    run()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        run()
        gc.collect()
        kinds = [type(each) for each in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return [kind.__qualname__ for kind in kinds if kind.__module__.startswith("llamatelemetry")]


@pytest.mark.parametrize("way", [plain, stream, closed_stream, raw, raw_stream, unread, lines])
def test_ended_call_is_freed_at_once(instrumented: Recorder, way: Callable[[Any], None]) -> None:
    completions = payloads.client(handle).chat.completions
    assert garbage_of(lambda: way(completions)) == []
    assert len(instrumented.calls()) == 2


def test_ended_asynchronous_stream_is_freed_at_once(instrumented: Recorder) -> None:
    client = payloads.async_client(handle)

    async def read() -> None:
        async for _ in await client.chat.completions.create(**CHAT, stream=True):
            pass

    with asyncio.Runner() as runner:
        assert garbage_of(lambda: runner.run(read())) == []
    assert len(instrumented.calls()) == 2
