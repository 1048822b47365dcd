"""Whatever a server sends: the application gets what it gets without the plugin, and one span is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.genai.strategies import REPLIES
from tests.openai_plugin import replies
from tests.openai_plugin.operations import VERSION
from tests.openai_plugin.sse_strategies import CUTS, bodies
from tests.openai_plugin.witness import Ask, Served, Witness, pieces, same_with_and_without

COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
Resource = Callable[[Any], Any]
RESOURCES: dict[str, tuple[Resource, dict[str, Any]]] = {
    "chat": (
        lambda client: client.chat.completions,
        {"model": "smol", "messages": replies.MESSAGES},
    ),
    "text_completion": (lambda client: client.completions, {"model": "smol", "prompt": "Hi"}),
    "embeddings": (lambda client: client.embeddings, {"model": "smol", "input": "Hi"}),
    "moderation": (lambda client: client.moderations, {"model": "smol", "input": "Hi"}),
}
SPAN_NAMES = {"responses": "chat"}
STREAMS = ["chat", "text_completion"]
if VERSION >= (1, 66):
    RESOURCES["responses"] = (lambda client: client.responses, {"model": "smol", "input": "Hi"})
    STREAMS.append("responses")
NAMES = st.sampled_from(sorted(RESOURCES))
STREAMED = st.sampled_from(STREAMS)
STATUSES = st.sampled_from([200, 200, 200, 200, 201, 400, 401, 404, 409, 422, 429, 500, 503])


def ask_by(way: Any, name: str) -> Ask:
    resource, options = RESOURCES[name]
    return lambda witness: way(witness, resource(witness.client), options)


# ---- plain replies


async def create(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    witness.note(await witness.result(resource.create(**options)))


async def raw(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    """The body is read; parsing is up to the application, and may fail there."""
    reply = await witness.result(resource.with_raw_response.create(**options))
    witness.note(type(reply), reply.text, dict(reply.headers))
    witness.note(await witness.result(reply.parse()))
    witness.note_response(reply.http_response)


async def raw_unparsed(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    reply = await witness.result(resource.with_raw_response.create(**options))
    witness.note(type(reply), reply.content)


async def unread(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    """The body is not read before the application asks for it."""
    async with witness.entered(resource.with_streaming_response.create(**options)) as reply:
        witness.note(type(reply), dict(reply.headers))
        witness.note(await witness.result(reply.parse()))
    witness.note_response(reply.http_response)


async def unread_bytes(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    async with witness.entered(resource.with_streaming_response.create(**options)) as reply:
        await witness.read(reply.iter_bytes())
    witness.note_response(reply.http_response)


async def never_read(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    async with witness.entered(resource.with_streaming_response.create(**options)) as reply:
        witness.note(type(reply))
    witness.note_response(reply.http_response)


PLAIN = [create, raw, raw_unparsed, unread, unread_bytes, never_read]


@pytest.mark.parametrize("way", PLAIN, ids=lambda way: way.__name__)
@settings(max_examples=100, **COMMON)
@given(name=NAMES, is_async=st.booleans(), reply=REPLIES, status=STATUSES, cuts=CUTS)
@example(name="chat", is_async=True, reply=None, status=200, cuts=None)
def test_any_json_in_place_of_a_reply(
    *, way: Any, name: str, is_async: bool, reply: Any, status: int, cuts: Any
) -> None:
    served = Served(pieces(json.dumps(reply).encode(), cuts), status=status)
    span = same_with_and_without(served, ask_by(way, name), is_async)
    assert span.name == SPAN_NAMES.get(name, name) + " smol"


# ---- streams


async def drained(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    stream = await witness.result(resource.create(**options, stream=True))
    await witness.read(stream)
    witness.note(type(stream), sorted(vars(stream)))
    witness.note_response(stream.response)


async def closed_early(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    stream = await witness.result(resource.create(**options, stream=True))
    await witness.read(stream, at_most=2)
    await witness.result(stream.close())
    witness.note_response(stream.response)


async def left_early(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    stream = await witness.result(resource.create(**options, stream=True))
    async with witness.entered(stream) as entered:
        witness.note(entered is stream)
        await witness.read(stream, at_most=1)
    witness.note_response(stream.response)


async def raw_stream(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    reply = await witness.result(resource.with_raw_response.create(**options, stream=True))
    witness.note(type(reply), dict(reply.headers))
    stream = await witness.result(reply.parse())
    witness.note((await witness.result(reply.parse())) is stream)
    await witness.read(stream)
    witness.note_response(reply.http_response)


async def unread_stream(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    call = resource.with_streaming_response.create(**options, stream=True)
    async with witness.entered(call) as reply:
        await witness.read(await witness.result(reply.parse()), at_most=3)
    witness.note_response(reply.http_response)


async def unread_lines(witness: Witness, resource: Any, options: dict[str, Any]) -> None:
    call = resource.with_streaming_response.create(**options, stream=True)
    async with witness.entered(call) as reply:
        await witness.read(reply.iter_lines())
    witness.note_response(reply.http_response)


WAYS = [drained, closed_early, left_early, raw_stream, unread_stream, unread_lines]
GOOD = replies.sse(replies.chat_chunks(usage=replies.USAGE))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@settings(max_examples=150, **COMMON)
@given(name=STREAMED, is_async=st.booleans(), body=bodies(), cuts=CUTS, breaks=st.booleans())
@example(name="chat", is_async=False, body=GOOD, cuts=None, breaks=False)
@example(name="chat", is_async=True, body=GOOD, cuts=(), breaks=False)
def test_any_event_stream_in_any_pieces(
    *, way: Any, name: str, is_async: bool, body: bytes, cuts: Any, breaks: bool
) -> None:
    served = Served(pieces(body, cuts), content_type="text/event-stream", breaks=breaks)
    span = same_with_and_without(served, ask_by(way, name), is_async)
    assert span.attributes["gen_ai.request.stream"] is True
