"""Raw responses do not change for the caller, and the call ends with the body."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import inspect
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_operations import (
    CASES,
    IGNORE_DEPRECATED,
    OPERATIONS,
    STREAMS,
    VERSION,
    Caller,
    Operation,
    shown,
)
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for_async

pytestmark = IGNORE_DEPRECATED
Way = Callable[[Any], Awaitable[Any]]


async def settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def everything(iterator: Any) -> list[Any]:
    if hasattr(iterator, "__aiter__"):
        return [item async for item in iterator]
    return list(iterator)


async def parse(raw: Any) -> Any:
    parsed = await settle(raw.parse())
    if hasattr(type(parsed), "__stream__"):
        return [shown(item) for item in await everything(parsed)]
    return shown(parsed)


def is_async(raw: Any) -> bool:
    return isinstance(raw._client, openai.AsyncOpenAI)


async def read(raw: Any) -> Any:
    return await settle(raw.read()) if hasattr(raw, "read") else await read_http(raw)


async def text(raw: Any) -> Any:
    if hasattr(raw, "read"):
        return await settle(raw.text())
    await read_http(raw)
    return raw.text


async def read_http(raw: Any) -> Any:
    http = raw.http_response
    return await http.aread() if is_async(raw) else http.read()


def _http_iterator(name: str, raw: Any, *args: Any) -> Any:
    return getattr(raw.http_response, f"a{name}" if is_async(raw) else name)(*args)


async def over_bytes(raw: Any) -> Any:
    iterator = raw.iter_bytes() if hasattr(raw, "iter_bytes") else _http_iterator("iter_bytes", raw)
    return b"".join(await everything(iterator))


async def over_small_chunks(raw: Any) -> Any:
    return await everything(_http_iterator("iter_bytes", raw, 5))


async def over_lines(raw: Any) -> Any:
    iterator = raw.iter_lines() if hasattr(raw, "iter_lines") else _http_iterator("iter_lines", raw)
    return await everything(iterator)


async def over_text(raw: Any) -> Any:
    return "".join(await everything(_http_iterator("iter_text", raw)))


async def over_raw_bytes(raw: Any) -> Any:
    return b"".join(await everything(_http_iterator("iter_raw", raw)))


async def nothing(_raw: Any) -> None:
    return None


WAYS = [parse, read, text, read_http, over_bytes, over_small_chunks, over_lines, over_text]
# One operation of each kind is read in every way, the others in the two that differ most.
READ_IN_ALL_WAYS = {"chat", "responses", "speech"}


def handler(operation: Operation, stream: bool, *, size: int = 7) -> payloads.Handler:
    body = operation.stream if stream else operation.plain
    media = "text/event-stream" if stream else operation.media
    return lambda _: payloads.chunked_response(*payloads.split(body, size), media=media)


async def with_streaming_response(
    caller: Caller, operation: Operation, stream: bool, way: Way
) -> Any:
    manager = await settle(caller.create(operation, stream, face="with_streaming_response"))
    async with contextlib.AsyncExitStack() as stack:
        raw = (
            await stack.enter_async_context(manager)
            if caller.is_async
            else stack.enter_context(manager)
        )
        return type(raw), await way(raw)


async def with_raw_response(caller: Caller, operation: Operation, stream: bool, way: Way) -> Any:
    raw = await caller.create(operation, stream, face="with_raw_response")
    return type(raw), await way(raw)


FACES = [with_raw_response, with_streaming_response]


CLIENT = openai.OpenAI(api_key="x")


def has_face(operation: Operation) -> bool:
    """Return whether the installed client has the raw variant of the method."""
    try:
        operation.bound(CLIENT, "with_streaming_response")
        operation.bound(CLIENT, "with_raw_response")
    except AttributeError:
        return False
    return True


RAW_CASES = [case for case in CASES if has_face(case.values[0])]
RAW_STREAMS = [case for case in STREAMS if has_face(case.values[0])]


def check_tokens(span: ReadableSpan, operation: Operation) -> None:
    found = span.attributes or {}
    assert (
        found.get("gen_ai.usage.input_tokens"),
        found.get("gen_ai.usage.output_tokens"),
    ) == operation.tokens
    assert found.get("gen_ai.response.id") == operation.response_id
    assert found.get("gen_ai.response.model") == operation.response_model


READINGS = [
    pytest.param(*case.values, (face, way), id=f"{case.id}-{face.__name__}-{way.__name__}")
    for case in RAW_CASES
    for face in FACES
    for way in (WAYS if case.values[0].name in READ_IN_ALL_WAYS else [parse, over_bytes])
]


@pytest.mark.parametrize(("operation", "is_async", "stream", "reading"), READINGS)
async def test_usage_of_raw_response_is_recorded_for_every_way_of_reading(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, reading: Any
) -> None:
    face, way = reading
    seen = await face(Caller(is_async, handler(operation, stream)), operation, stream, way)
    span = instrumented.call()
    OpenAIInstrumentor().uninstrument()
    bare = await face(Caller(is_async, handler(operation, stream)), operation, stream, way)
    assert seen == bare
    assert span.name == operation.span_name
    assert span.status.status_code is StatusCode.UNSET
    check_tokens(span, operation)
    assert ("gen_ai.response.time_to_first_chunk" in (span.attributes or {})) is (
        stream and operation.is_measured
    )


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_STREAMS)
async def test_reading_undecoded_bytes_records_only_the_end(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, face: Any
) -> None:
    caller = Caller(is_async, handler(operation, stream))
    _, body = await face(caller, operation, stream, over_raw_bytes)
    assert body == operation.stream
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert "gen_ai.usage.input_tokens" not in (span.attributes or {})


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_CASES)
async def test_closing_unread_body_ends_call(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    caller = Caller(is_async, handler(operation, stream))
    await with_streaming_response(caller, operation, stream, nothing)
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert "gen_ai.usage.input_tokens" not in (span.attributes or {})


@pytest.mark.parametrize("way", [parse, read, over_lines], ids=lambda way: way.__name__)
@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_CASES)
async def test_response_with_preloaded_content_is_recorded(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, way: Way
) -> None:
    """HTTP test doubles return responses that have been read already."""
    caller = Caller(is_async, lambda _: operation.reply(stream))
    await with_streaming_response(caller, operation, stream, way)
    check_tokens(instrumented.call(), operation)


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_STREAMS)
async def test_interrupted_raw_stream_fails_call(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, face: Any
) -> None:
    parts = [operation.stream[:3], payloads.http.ReadError("connection lost")]
    caller = Caller(
        is_async, lambda _: payloads.chunked_response(*parts, media="text/event-stream")
    )
    with pytest.raises(payloads.http.ReadError):
        await face(caller, operation, stream, over_small_chunks)
    assert (instrumented.call().attributes or {})["error.type"].endswith("ReadError")


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_CASES)
async def test_interrupted_raw_body_fails_call(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    head = (operation.stream if stream else operation.plain)[:3]
    media = "text/event-stream" if stream else operation.media

    def breaking(_: Any) -> Any:
        return payloads.chunked_response(
            head, payloads.http.ReadError("connection lost"), media=media
        )

    async def outcome() -> tuple[type[BaseException], str]:
        caller = Caller(is_async, breaking)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the type differs between versions
            await with_streaming_response(caller, operation, stream, over_bytes)
        return type(caught.value), str(caught.value)

    seen = await outcome()
    span = instrumented.call()
    OpenAIInstrumentor().uninstrument()
    assert seen == await outcome()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"].endswith("ReadError")


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_CASES)
async def test_exception_in_with_block_of_raw_response_fails_call(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    async def fail(_raw: Any) -> None:
        raise KeyError("SECRET")

    caller = Caller(is_async, handler(operation, stream))
    with pytest.raises(KeyError, match="SECRET"):
        await with_streaming_response(caller, operation, stream, fail)
    span = instrumented.call()
    assert (span.attributes or {})["error.type"] == "KeyError"
    assert "SECRET" not in span.to_json()


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_STREAMS)
@pytest.mark.parametrize("is_parsed", [False, True], ids=["unparsed", "parsed"])
async def test_abandoned_raw_stream_ends_call_when_garbage_collected(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, is_parsed: bool
) -> None:
    caller = Caller(is_async, handler(operation, stream))
    raw = await caller.create(operation, stream, face="with_raw_response")
    if is_parsed:
        chunks = await settle(raw.parse())
        await caller.next(chunks)
        del chunks
    assert instrumented.calls() == []
    del raw
    await wait_for_async(lambda: gc.collect() >= 0 and instrumented.calls())
    assert instrumented.call().status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_STREAMS)
async def test_raw_stream_closed_early_records_partial_response(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    async def read_one(raw: Any) -> None:
        chunks = await settle(raw.parse())
        await caller.next(chunks)
        await caller.close(chunks)

    caller = Caller(is_async, handler(operation, stream))
    await with_streaming_response(caller, operation, stream, read_one)
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {}).get("gen_ai.response.id") == operation.response_id


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_CASES)
async def test_hooks_are_removed_from_raw_response_when_call_ends(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    kept: list[Any] = []

    async def keep(raw: Any) -> None:
        kept.append(raw)
        await parse(raw)

    caller = Caller(is_async, handler(operation, stream))
    await with_streaming_response(caller, operation, stream, keep)
    (raw,) = kept
    assert not {"close", "aclose", "iter_bytes", "aiter_bytes"} & vars(raw.http_response).keys()
    assert "parse" not in vars(raw)
    instrumented.call()


async def test_cancelled_read_of_raw_response_ends_call(instrumented: Recorder) -> None:
    class Endless(payloads.http.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b'{"id"'
            started.set()
            await asyncio.Event().wait()

    started = asyncio.Event()

    def endless(_: Any) -> Any:
        return payloads.http.Response(200, stream=Endless())

    async def use() -> None:
        client = payloads.async_client(endless)
        async with client.chat.completions.with_streaming_response.create(
            model="smol", messages=payloads.MESSAGES
        ) as raw:
            await raw.read()

    task = asyncio.create_task(use())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = instrumented.call().attributes or {}
    assert found["error.type"] == "asyncio.exceptions.CancelledError"


def test_call_ends_at_last_byte_of_raw_response(instrumented: Recorder) -> None:
    class Slow(payloads.http.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for part in payloads.split(json.dumps(payloads.chat()).encode(), 100):
                time.sleep(0.005)
                yield part

    client = payloads.client(lambda _: payloads.http.Response(200, stream=Slow()))
    with client.chat.completions.with_streaming_response.create(
        model="smol", messages=payloads.MESSAGES
    ) as raw:
        begun = time.time_ns()
        raw.read()
        read_ns = time.time_ns()
        time.sleep(0.05)  # Not part of the call, which has ended.
    span = instrumented.call()
    assert span.end_time is not None
    assert begun < span.end_time <= read_ns + 1_000_000


def test_compressed_raw_body_is_recorded(instrumented: Recorder) -> None:
    body = gzip.compress(json.dumps(payloads.chat()).encode())
    reply = {"content-encoding": "gzip"}
    client = payloads.client(
        lambda _: payloads.chunked_response(*payloads.split(body, 50), **reply)
    )
    with client.chat.completions.with_streaming_response.create(
        model="smol", messages=payloads.MESSAGES
    ) as raw:
        assert list(raw.iter_lines()) == [json.dumps(payloads.chat())]
    assert (instrumented.call().attributes or {})["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "iterated"])
@pytest.mark.parametrize("what", ["embeddings", "images"])
def test_long_arrays_of_raw_response_are_not_parsed_again(
    instrumented: Recorder, what: str, is_read: bool
) -> None:
    """The array here is invalid, so parsing it would fail."""
    usage = json.dumps(payloads.IMAGE_USAGE if what == "images" else {"prompt_tokens": 7})
    body = b'{"data":[%s],"usage":%s}' % (b"[0.5 0.5]" * 100_000, usage.encode())
    client = payloads.client(lambda _: payloads.chunked_response(*payloads.split(body, 50_000)))
    resource: Any = getattr(client, what)
    face = resource.with_raw_response if is_read else resource.with_streaming_response
    options: dict[str, Any] = {"model": "smol", "prompt": "a cat"}
    if what == "embeddings":
        options = {"model": "smol", "input": "Hi"}
    reply = (face.generate if what == "images" else face.create)(**options)
    if is_read:
        assert reply.http_response.content == body
    else:
        with reply as raw:
            assert b"".join(raw.iter_bytes()) == body
    found = instrumented.call().attributes or {}
    assert found["gen_ai.usage.input_tokens"] == (50 if what == "images" else 7)


def test_speech_is_streamed_to_file(instrumented: Recorder, tmp_path: Path) -> None:
    client = payloads.client(
        lambda _: payloads.chunked_response(b"ID3", b"sound", media="audio/mpeg")
    )
    with client.audio.speech.with_streaming_response.create(
        model="voice", voice="alloy", input="Hi"
    ) as raw:
        raw.stream_to_file(tmp_path / "speech.mp3")
    assert (tmp_path / "speech.mp3").read_bytes() == b"ID3sound"
    assert instrumented.call().name == "generate_content voice"


def test_speech_events_record_tokens(instrumented: Recorder) -> None:
    usage = {"input_tokens": 4, "output_tokens": 80, "total_tokens": 84}
    events = [
        {"type": "speech.audio.delta", "audio": "aGk="},
        {"type": "speech.audio.done", "usage": usage},
    ]
    body = payloads.sse(events, done=False)
    client = payloads.client(lambda _: payloads.chunked_response(body, media="text/event-stream"))
    with client.audio.speech.with_streaming_response.create(
        model="voice", voice="alloy", input="Hi", extra_body={"stream_format": "sse"}
    ) as raw:
        assert raw.read() == body
    found = instrumented.call().attributes or {}
    assert found["gen_ai.usage.input_tokens"] == 4
    assert found["gen_ai.usage.output_tokens"] == 80


@pytest.mark.parametrize("way", [over_lines, parse], ids=lambda way: way.__name__)
async def test_error_event_in_raw_stream_fails_call(instrumented: Recorder, way: Way) -> None:
    error = {"error": {"code": 500, "message": "TOP SECRET", "type": "server_error"}}
    body = payloads.sse([payloads.chat_chunks()[0], error], done=False)
    client = payloads.client(lambda _: payloads.chunked_response(body, media="text/event-stream"))
    raw = client.chat.completions.with_raw_response.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    with contextlib.suppress(openai.APIError):
        await way(raw)
    span = instrumented.call()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "server_error"
    assert "SECRET" not in span.to_json()


def test_raw_stream_is_parsed_into_custom_type(instrumented: Recorder) -> None:
    class Mine(openai.Stream[openai.types.Completion]):
        """A stream class of the caller."""

    body = payloads.sse([*payloads.chat_chunks(usage=payloads.USAGE)])
    client = payloads.client(lambda _: payloads.chunked_response(body, media="text/event-stream"))
    raw = client.chat.completions.with_raw_response.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    stream = raw.parse(to=Mine)
    assert type(stream) is Mine
    assert {type(chunk) for chunk in stream} == {openai.types.Completion}
    assert raw.parse(to=Mine) is stream
    assert (instrumented.call().attributes or {})["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize(("operation", "is_async", "stream"), RAW_STREAMS)
async def test_parsing_raw_stream_twice_counts_tokens_once(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    raw = await Caller(is_async, handler(operation, stream)).create(
        operation, stream, face="with_raw_response"
    )
    chunks = await settle(raw.parse())
    assert await settle(raw.parse()) is chunks
    seen = await everything(chunks)
    instrumented.call()
    gaps = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert [point.count for point in gaps] == ([len(seen) - 1] if operation.is_measured else [])


def test_post_with_http_response_type_is_recorded(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    reply = client.post(
        "/chat/completions",
        cast_to=payloads.http.Response,
        body={"model": "smol", "messages": []},
    )
    assert type(reply) is payloads.http.Response
    assert (instrumented.call().attributes or {})["gen_ai.usage.output_tokens"] == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 60), min_size=1, max_size=12), crlf=st.booleans())
def test_raw_stream_is_recorded_alike_for_any_split_into_bytes(
    instrumented: Recorder, cuts: list[int], crlf: bool
) -> None:
    body = payloads.sse(payloads.chat_chunks(usage=payloads.USAGE))
    if crlf:
        body = body.replace(b"\n", b"\r\n")
    parts, at = [], 0
    while at < len(body):
        size = cuts[len(parts) % len(cuts)]
        parts.append(body[at : at + size])
        at += size
    client = payloads.client(lambda _: payloads.chunked_response(*parts, media="text/event-stream"))
    raw = client.chat.completions.with_raw_response.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    assert list(raw.http_response.iter_bytes()) == parts
    found = instrumented.call().attributes or {}
    instrumented.clear_spans()
    assert found["gen_ai.usage.output_tokens"] == 5
    assert found["gen_ai.response.finish_reasons"] == ("stop",)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("way", [parse, over_lines])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.skipif(VERSION < (1, 88), reason="this client cannot fetch a response as a stream")
async def test_fetched_raw_stream_is_not_recorded_as_streaming_request(
    instrumented: Recorder, face: Any, way: Way, is_async: bool
) -> None:
    operation = next(each for each in OPERATIONS if each.name == "fetch_response")
    caller = Caller(is_async, handler(operation, stream=True))
    await face(caller, operation, True, way)
    attributes = instrumented.call().attributes or {}
    assert attributes["gen_ai.response.status"] == "completed"
    assert "gen_ai.request.stream" not in attributes
