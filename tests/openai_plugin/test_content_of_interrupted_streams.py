"""Output messages of streams that fail or end early match the schema of the conventions."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support import payloads
from tests.support.openai_content import on_span
from tests.support.openai_operations import CASES, Caller, Operation
from tests.support.recorder import Recorder

STREAMS = [
    pytest.param(*case.values[:2], id=case.id)
    for case in CASES
    if case.values[2] and case.values[0].name in {"chat", "text_completion", "responses"}
]
FULL_TEXTS = {"chat": "Hi", "text_completion": " there", "responses": '{"greeting": "Hi"}'}
ERROR = {"error": {"code": 500, "message": "slot is gone", "type": "server_error"}}
FAILURES = (openai.OpenAIError, payloads.http.HTTPError, asyncio.CancelledError)
# What follows the read part of a stream: an exception, an event of the server, or nothing.
INTERRUPTIONS: dict[str, Any] = {
    "lost-connection": payloads.http.ReadError("connection lost"),
    "error-event": payloads.sse([ERROR], done=False),
    "cancelled": asyncio.CancelledError(),
    "closed": None,
    "dropped": None,
}


def reply(events: list[dict[str, Any]], interruption: str) -> Any:
    parts = [payloads.sse([event], done=False) for event in events]
    follows = INTERRUPTIONS[interruption]
    rest = payloads.sse(payloads.chat_chunks()) if follows is None else follows
    return payloads.chunked_response(*parts, rest, media="text/event-stream")


async def read(caller: Caller, operation: Operation, count: int, interruption: str) -> None:
    """Read `count` events of a stream, and then interrupt it."""
    stream = await caller.create(operation, True)
    events: Any = aiter(stream) if caller.is_async else iter(stream)
    for _ in range(count):
        await anext(events) if caller.is_async else next(events)
    if interruption == "closed":
        await caller.close(stream)
    elif interruption != "dropped":
        with pytest.raises(FAILURES):
            await caller.next(stream)


async def collect_garbage() -> None:
    gc.collect()
    # The event loop closes asynchronous generators that the collector has found.
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize(("operation", "is_async"), STREAMS)
async def test_interrupted_stream_records_message_with_finish_reason(
    instrument: Callable[..., None],
    recorder: Recorder,
    operation: Operation,
    is_async: bool,
    interruption: str,
) -> None:
    instrument(capture_content="span_only")
    assert operation.events is not None
    events = operation.events()[:-1]  # The last one has the finish reason.
    caller = Caller(is_async, lambda _: reply(events, interruption))
    await read(caller, operation, len(events), interruption)
    await collect_garbage()
    is_failed = INTERRUPTIONS[interruption] is not None
    assert on_span(recorder)["gen_ai.output.messages"] == [
        {
            "role": "assistant",
            "parts": [{"type": "text", "content": FULL_TEXTS[operation.name]}],
            "finish_reason": "error" if is_failed else "unknown",
        }
    ]


@pytest.mark.parametrize("interruption", INTERRUPTIONS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_stream_interrupted_after_finish_reason_keeps_it(
    instrument: Callable[..., None], recorder: Recorder, is_async: bool, interruption: str
) -> None:
    instrument(capture_content="span_only")
    operation = next(case.values[0] for case in STREAMS if case.values[0].name == "chat")
    events = payloads.chat_chunks()
    caller = Caller(is_async, lambda _: reply(events, interruption))
    await read(caller, operation, len(events), interruption)
    await collect_garbage()
    [message] = on_span(recorder)["gen_ai.output.messages"]
    assert message["finish_reason"] == "stop"
