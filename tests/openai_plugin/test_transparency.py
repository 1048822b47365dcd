"""Property tests: for any response, the application gets the same result and one span is recorded."""

from __future__ import annotations

import copy
import json
import pickle
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.openai_plugin.observed_application import (
    ObservedApplication,
    ServerResponse,
    check_same_when_instrumented,
    split_at,
)
from tests.openai_plugin.sse_strategies import CUTS, bodies
from tests.support import payloads
from tests.support.json_strategies import REPLIES, SCALARS, TEXTS, json_values
from tests.support.openai_operations import IGNORE_DEPRECATED, OPERATIONS, Operation, streams
from tests.support.payloads import OPENAI

pytestmark = IGNORE_DEPRECATED
GOOD = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE))
MESSAGE_FIELDS = st.sampled_from(
    [
        *("role", "content", "type", "text", "image_url", "url", "input_audio", "data", "format"),
        *("tool_calls", "tool_call_id", "function", "name", "arguments", "parameters", "id"),
    ]
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "developer", "other"])
MESSAGES = st.one_of(
    st.lists(
        st.fixed_dictionaries(
            {"role": ROLES},
            optional={
                "content": json_values(MESSAGE_FIELDS),
                "tool_calls": json_values(MESSAGE_FIELDS),
            },
        ),
        max_size=3,
    ),
    json_values(MESSAGE_FIELDS),
)
Mode = dict[str, bool]
MODES = st.fixed_dictionaries({"is_async": st.booleans(), "capture": st.booleans()})
SYNC, ASYNC = ({"is_async": is_async, "capture": True} for is_async in (False, True))
REQUESTS = st.fixed_dictionaries(
    {"model": st.one_of(st.just("smol"), TEXTS), "messages": MESSAGES},
    optional={
        "tools": st.one_of(st.lists(json_values(MESSAGE_FIELDS), max_size=2), json_values()),
        "temperature": SCALARS,
        "stop": json_values(),
        "extra_body": st.dictionaries(TEXTS, json_values(), max_size=3),
    },
)
COMMON: dict[str, Any] = {
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
STATUSES = st.sampled_from([200, 200, 200, 200, 201, 400, 401, 404, 409, 422, 429, 500, 503])
STREAMED = [operation for operation in OPERATIONS if streams(operation)]
HELPED = [operation for operation in STREAMED if operation.name in {"chat", "responses"}]


def has_face(operation: Operation, face: str) -> bool:
    """Return whether the installed client has the raw variant of the operation."""
    try:
        operation.bound(payloads.client(lambda _: None), face)
    except AttributeError:
        return False
    return True


RAW = [each for each in OPERATIONS if has_face(each, "with_raw_response")]
UNREAD = [each for each in OPERATIONS if has_face(each, "with_streaming_response")]


async def create(application: ObservedApplication, operation: Operation) -> None:
    application.record(await application.result(operation.call(application.client)))


async def raw(application: ObservedApplication, operation: Operation) -> None:
    """Read the body and parse it, which may fail."""
    reply = await application.result(operation.call(application.client, face="with_raw_response"))
    application.record(type(reply), reply.text, dict(reply.headers))
    application.record(await application.result(reply.parse()))


async def raw_unparsed(application: ObservedApplication, operation: Operation) -> None:
    reply = await application.result(operation.call(application.client, face="with_raw_response"))
    application.record(type(reply), reply.content)


async def unread(application: ObservedApplication, operation: Operation) -> None:
    """Parse an unread body."""
    call = operation.call(application.client, face="with_streaming_response")
    async with application.enter(call) as reply:
        application.record(type(reply), dict(reply.headers))
        application.record(await application.result(reply.parse()))


async def unread_bytes(application: ObservedApplication, operation: Operation) -> None:
    call = operation.call(application.client, face="with_streaming_response")
    async with application.enter(call) as reply:
        await application.read(reply.iter_bytes())


async def never_read(application: ObservedApplication, operation: Operation) -> None:
    call = operation.call(application.client, face="with_streaming_response")
    async with application.enter(call) as reply:
        application.record(type(reply))


PLAIN = {
    create: OPERATIONS,
    **dict.fromkeys([raw, raw_unparsed], RAW),
    **dict.fromkeys([unread, unread_bytes, never_read], UNREAD),
}


@pytest.mark.parametrize("way", PLAIN, ids=lambda way: way.__name__)
@settings(**COMMON)
@given(data=st.data(), mode=MODES, reply=REPLIES, status=STATUSES, cuts=CUTS)
def test_any_json_response_is_passed_on_unchanged(
    *, way: Any, data: st.DataObject, mode: Mode, reply: Any, status: int, cuts: Any
) -> None:
    operation = data.draw(st.sampled_from(PLAIN[way]), "operation")
    response = ServerResponse(split_at(json.dumps(reply).encode(), cuts), operation.media, status)
    span = check_same_when_instrumented(response, partial(way, operation=operation), **mode)
    assert span.name == operation.span_name


async def send(application: ObservedApplication, body: dict[str, Any], one_shot: bool) -> None:
    """Send messages and tools, optionally as iterators that can be read once."""
    options = {
        name: iter(value) if one_shot and isinstance(value, list) else value
        for name, value in body.items()
    }
    application.record(
        await application.result(application.client.chat.completions.create(**options))
    )


@settings(**COMMON)
@given(body=REQUESTS, mode=MODES, one_shot=st.booleans())
def test_any_request_is_sent_unchanged(*, body: dict[str, Any], mode: Mode, one_shot: bool) -> None:
    """The observations contain the sent bytes. A body that cannot be serialized is a failed call."""
    response = ServerResponse((json.dumps(payloads.chat()).encode(),))
    check_same_when_instrumented(response, partial(send, body=body, one_shot=one_shot), **mode)


async def drained(application: ObservedApplication, operation: Operation) -> None:
    stream = await application.result(operation.call(application.client, stream=True))
    await application.read(stream)
    application.record(type(stream), sorted(vars(stream)))


async def closed_early(application: ObservedApplication, operation: Operation) -> None:
    stream = await application.result(operation.call(application.client, stream=True))
    await application.read(stream, at_most=2)
    await application.result(stream.close())


async def left_early(application: ObservedApplication, operation: Operation) -> None:
    stream = await application.result(operation.call(application.client, stream=True))
    async with application.enter(stream) as entered:
        application.record(entered is stream)
        await application.read(stream, at_most=1)


async def left_with_an_error(application: ObservedApplication, operation: Operation) -> None:
    stream = await application.result(operation.call(application.client, stream=True))
    async with application.enter(stream):
        await application.read(stream, at_most=1)
        raise KeyError("of the application")


async def raw_stream(application: ObservedApplication, operation: Operation) -> None:
    face = {"face": "with_raw_response", "stream": True}
    reply = await application.result(operation.call(application.client, **face))
    application.record(type(reply), dict(reply.headers))
    stream = await application.result(reply.parse())
    application.record((await application.result(reply.parse())) is stream)
    await application.read(stream)


async def unread_stream(application: ObservedApplication, operation: Operation) -> None:
    face = {"face": "with_streaming_response", "stream": True}
    async with application.enter(operation.call(application.client, **face)) as reply:
        await application.read(await application.result(reply.parse()), at_most=3)


async def unread_lines(application: ObservedApplication, operation: Operation) -> None:
    face = {"face": "with_streaming_response", "stream": True}
    async with application.enter(operation.call(application.client, **face)) as reply:
        await application.read(reply.iter_lines())


WAYS = [
    *(drained, closed_early, left_early, left_with_an_error),
    *(raw_stream, unread_stream, unread_lines),
]


def check_stream(way: Any, operation: Operation, response: ServerResponse, mode: Mode) -> None:
    span = check_same_when_instrumented(response, partial(way, operation=operation), **mode)
    assert span.name == operation.span_name


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@settings(**COMMON)
@given(
    operation=st.sampled_from(STREAMED),
    mode=MODES,
    body=bodies(),
    cuts=CUTS,
    is_interrupted=st.booleans(),
)
@example(operation=STREAMED[0], mode=SYNC, body=GOOD, cuts=None, is_interrupted=False)
@example(operation=STREAMED[0], mode=ASYNC, body=GOOD, cuts=(), is_interrupted=False)
def test_any_event_stream_is_passed_on_unchanged_in_any_chunks(
    *, way: Any, operation: Operation, mode: Mode, body: bytes, cuts: Any, is_interrupted: bool
) -> None:
    response = ServerResponse(
        split_at(body, cuts), "text/event-stream", is_interrupted=is_interrupted
    )
    check_stream(way, operation, response, mode)


async def copied_stream(application: ObservedApplication, operation: Operation) -> None:
    stream = await application.result(operation.call(application.client, stream=True))
    await application.read(stream, at_most=1)
    await use_copies(application, stream.response)
    await application.read(stream)


async def copied_response(application: ObservedApplication, operation: Operation) -> None:
    face = {"face": "with_streaming_response", "stream": True}
    async with application.enter(operation.call(application.client, **face)) as reply:
        await use_copies(application, reply.http_response)
        await application.read(reply.iter_lines())


async def use_copies(application: ObservedApplication, response: Any) -> None:
    """Read and close copies of an open response, which have no connection."""
    is_async = application.is_async
    for made in (pickle.loads(pickle.dumps(response)), copy.deepcopy(response)):
        application.record(type(made), made.status_code, made.is_closed, response.is_closed)
        try:
            await application.read(made.aiter_bytes() if is_async else made.iter_bytes())
        except Exception as error:
            application.record_error(error)
        await application.result(made.aclose() if is_async else made.close())
        application.record(response.is_closed)


@pytest.mark.parametrize("mode", [SYNC, ASYNC], ids=["sync", "async"])
@pytest.mark.parametrize("way", [copied_stream, copied_response], ids=lambda way: way.__name__)
@pytest.mark.parametrize("media", ["text/event-stream", "application/json"])
def test_copies_of_an_open_response_are_the_same(way: Any, mode: Mode, media: str) -> None:
    response = ServerResponse(split_at(GOOD, ()), media)
    check_stream(way, STREAMED[0], response, mode)


async def helped(application: ObservedApplication, operation: Operation) -> None:
    resource = operation.bound(application.client).__self__
    async with application.enter(resource.stream(**operation.sent())) as stream:
        await application.read(stream)
        final = getattr(stream, "get_final_completion", None) or stream.get_final_response
        application.record(await application.result(final()))


@pytest.mark.skipif(OPENAI < (1, 92), reason="the helpers were in `beta` before")
@pytest.mark.parametrize("operation", HELPED, ids=lambda operation: operation.name)
@settings(**COMMON)
@given(mode=MODES, data=st.data(), cuts=CUTS, is_interrupted=st.booleans())
def test_stream_helpers_pass_on_any_event_stream_unchanged(
    *, operation: Operation, mode: Mode, data: st.DataObject, cuts: Any, is_interrupted: bool
) -> None:
    # Include valid streams without one or two events: helpers stop at the first unexpected event.
    events = (operation.events or list)()
    left_out = data.draw(st.sets(st.integers(0, len(events)), max_size=2), "left out")
    kept = [event for position, event in enumerate(events) if position not in left_out]
    body = data.draw(st.one_of(st.just(payloads.sse(kept)), bodies()), "body")
    response = ServerResponse(
        split_at(body, cuts), "text/event-stream", is_interrupted=is_interrupted
    )
    check_stream(helped, operation, response, mode)
