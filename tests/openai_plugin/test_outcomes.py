"""Every operation, client, delivery and outcome has one span and does not change for the caller."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from opentelemetry.trace import StatusCode

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_operations import (
    CASES,
    IGNORE_DEPRECATED,
    OPERATIONS,
    STREAMS,
    Caller,
    Operation,
    shown,
    streams,
)
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for_async

pytestmark = IGNORE_DEPRECATED


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that neither llamatelemetry nor OpenTelemetry logs anything."""
    yield
    logged = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno > logging.DEBUG
        and record.name.startswith(("llamatelemetry", "opentelemetry"))
    ]
    assert logged == []


def tokens(recorder: Recorder) -> tuple[int | None, int | None]:
    """Return the input and output tokens of the token metric."""
    found = recorder.points("gen_ai.client.token.usage")
    kinds = {point.attributes["gen_ai.token.type"]: int(point.sum) for point in found}
    return kinds.get("input"), kinds.get("output")


@pytest.mark.parametrize(("operation", "is_async", "stream"), CASES)
async def test_successful_call_has_one_span_without_status(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    def good(_: Any) -> Any:
        return operation.reply(stream)

    answers = await Caller(is_async, good).run(operation, stream)
    OpenAIInstrumentor().uninstrument()
    bare = await Caller(is_async, good).run(operation, stream)
    assert [shown(answer) for answer in answers] == [shown(answer) for answer in bare]
    span = instrumented.call()
    assert span.name == operation.span_name
    assert span.status.status_code is StatusCode.UNSET
    assert ("gen_ai.request.stream" in span.attributes) is (stream and operation.is_measured)
    assert span.attributes.get("gen_ai.usage.input_tokens") == operation.tokens[0]
    assert span.attributes.get("gen_ai.usage.output_tokens") == operation.tokens[1]
    assert tokens(instrumented) == operation.tokens
    durations = instrumented.points("gen_ai.client.operation.duration")
    assert [point.count for point in durations] == ([1] if operation.is_named else [])
    assert not any("error.type" in point.attributes for point in durations)


def _refused(_: Any) -> Any:
    raise payloads.http.ConnectError("[Errno 111] Connection refused")


def _error(status: int, kind: str) -> payloads.Handler:
    return lambda _: payloads.error_response(status, type=kind, code=status)


@dataclass(frozen=True)
class Failure:
    handler: payloads.Handler
    error: type[Exception]
    error_type: str
    status: int | None


def _html(_: Any) -> Any:
    return payloads.http.Response(502, text="<html>Bad gateway</html>")


FAILURES = [
    Failure(_refused, openai.APIConnectionError, "openai.APIConnectionError", None),
    Failure(
        _error(400, "invalid_request_error"), openai.BadRequestError, "invalid_request_error", 400
    ),
    Failure(
        _error(401, "authentication_error"), openai.AuthenticationError, "authentication_error", 401
    ),
    Failure(_error(500, "server_error"), openai.InternalServerError, "server_error", 500),
    Failure(_error(503, "unavailable_error"), openai.InternalServerError, "unavailable_error", 503),
    Failure(_html, openai.InternalServerError, "502", 502),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.error_type)
@pytest.mark.parametrize(("operation", "is_async", "stream"), CASES)
async def test_failed_call_has_one_span_with_error_type(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, failure: Failure
) -> None:
    handler, error = failure.handler, failure.error
    with pytest.raises(error) as seen:
        await Caller(is_async, handler).run(operation, stream)
    OpenAIInstrumentor().uninstrument()
    with pytest.raises(error) as bare:
        await Caller(is_async, handler).run(operation, stream)
    assert type(seen.value) is type(bare.value)
    assert str(seen.value) == str(bare.value)
    assert seen.value.__dict__.keys() == bare.value.__dict__.keys()
    span = instrumented.call()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == failure.error_type
    assert span.attributes.get("http.response.status_code") == failure.status
    assert "SECRET" not in span.to_json()
    durations = instrumented.points("gen_ai.client.operation.duration")
    assert [point.attributes["error.type"] for point in durations] == (
        [failure.error_type] if operation.is_named else []
    )
    assert instrumented.points("gen_ai.client.token.usage") == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize(
    "body", ["", "no json", "[]", "null", '"text"', "{", '{"choices": null, "usage": 3}']
)
async def test_invalid_response_has_same_result_as_uninstrumented(
    instrumented: Recorder, operation: Operation, is_async: bool, body: str
) -> None:
    async def outcome() -> Any:
        reply = payloads.http.Response(200, text=body, headers={"content-type": "application/json"})
        try:
            return shown(*await Caller(is_async, lambda _: reply).run(operation, False))
        except Exception as error:  # The client may raise any error.
            return type(error), str(error)

    seen = await outcome()
    span = instrumented.call()
    OpenAIInstrumentor().uninstrument()
    assert seen == await outcome()
    assert (span.status.status_code is StatusCode.ERROR) == issubclass(seen[0], Exception)


class DyingStream(payloads.http.SyncByteStream, payloads.http.AsyncByteStream):
    """A body with a connection that is lost after the first bytes."""

    def __init__(self, head: bytes) -> None:
        self.head = head

    def __iter__(self) -> Any:
        yield self.head
        raise payloads.http.ReadError("connection lost")

    async def __aiter__(self) -> Any:
        yield self.head
        raise payloads.http.ReadError("connection lost")


@pytest.mark.parametrize(("operation", "is_async", "stream"), STREAMS)
async def test_call_fails_when_server_closes_connection_during_stream(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    assert operation.events is not None
    head = payloads.sse(operation.events()[:1], done=False)

    def handler(_: Any) -> Any:
        return payloads.http.Response(
            200, stream=DyingStream(head), headers={"content-type": "text/event-stream"}
        )

    async def outcome() -> tuple[int, BaseException]:
        caller, seen = Caller(is_async, handler), 0
        chunks = await caller.create(operation, True)
        try:
            if is_async:
                async for _ in chunks:
                    seen += 1
            else:
                for _ in chunks:
                    seen += 1
        except Exception as error:  # The type differs between versions of openai.
            return seen, error
        raise AssertionError("the stream should have broken")

    seen, error = await outcome()
    span = instrumented.call()
    OpenAIInstrumentor().uninstrument()
    bare_seen, bare_error = await outcome()
    assert (
        (seen, type(error), str(error))
        == (bare_seen, type(bare_error), str(bare_error))
        != (0, None, "")
    )
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"].endswith(type(error).__name__)
    assert span.attributes.get("gen_ai.response.model") == operation.response_model
    assert ("gen_ai.response.time_to_first_chunk" in span.attributes) is operation.is_measured


@pytest.mark.parametrize(("operation", "is_async", "stream"), STREAMS)
async def test_error_event_in_stream_fails_call(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    assert operation.events is not None
    error = {"error": {"code": 500, "message": "slot is gone: TOP SECRET", "type": "server_error"}}
    body = payloads.sse([operation.events()[0], error])
    with pytest.raises(openai.APIError, match="slot is gone"):
        await Caller(is_async, lambda _: payloads.stream_response(body)).run(operation, True)
    span = instrumented.call()
    assert span.attributes["error.type"] == "server_error"
    assert "SECRET" not in span.to_json()


@pytest.mark.parametrize(("operation", "is_async", "stream"), STREAMS)
@pytest.mark.parametrize("way", ["close", "with"])
async def test_stream_closed_early_succeeds_with_partial_response(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool, way: str
) -> None:
    caller = Caller(is_async, lambda _: operation.reply(True))
    chunks = await caller.create(operation, True)
    await caller.next(chunks)
    if way == "close":
        await caller.close(chunks)
    elif is_async:
        async with chunks:
            pass
    else:
        with chunks:
            pass
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in span.attributes
    assert span.attributes.get("gen_ai.response.model") == operation.response_model
    assert "gen_ai.response.finish_reasons" not in span.attributes
    assert "close" not in vars(chunks.response)
    assert "aclose" not in vars(chunks.response)
    await caller.close(chunks)
    assert len(instrumented.calls()) == 1


@pytest.mark.parametrize(("operation", "is_async", "stream"), STREAMS)
async def test_exception_in_with_block_is_recorded_without_message(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    caller = Caller(is_async, lambda _: operation.reply(True))
    chunks = await caller.create(operation, True)

    async def fail_inside() -> None:
        if is_async:
            async with chunks:
                raise KeyError("SECRET")
        with chunks:
            raise KeyError("SECRET")

    with pytest.raises(KeyError, match="SECRET"):
        await fail_inside()
    span = instrumented.call()
    assert span.attributes["error.type"] == "KeyError"
    assert "SECRET" not in span.to_json()


@pytest.mark.parametrize(("operation", "is_async", "stream"), STREAMS)
async def test_exception_handled_before_stream_is_not_recorded(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    """The stream is a fallback, started while the error of another model is handled."""
    caller = Caller(is_async, lambda _: operation.reply(True))
    try:
        raise KeyError("the other model")
    except KeyError:
        chunks = await caller.create(operation, True)
        if is_async:
            async with chunks:
                await caller.next(chunks)
        else:
            with chunks:
                await caller.next(chunks)
    assert instrumented.call().status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("operation", "is_async", "stream"), STREAMS)
async def test_abandoned_stream_ends_call_when_garbage_collected(
    instrumented: Recorder, operation: Operation, is_async: bool, stream: bool
) -> None:
    caller = Caller(is_async, lambda _: operation.reply(True))
    chunks = await caller.create(operation, True)
    await caller.next(chunks)
    assert instrumented.calls() == []
    del chunks
    # The event loop closes an async generator before it is collected.
    await wait_for_async(lambda: gc.collect() >= 0 and instrumented.calls())
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes.get("gen_ai.response.id") == operation.response_id


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_cancelled_call_ends_span(
    instrumented: Recorder, operation: Operation, stream: bool
) -> None:
    if stream and not streams(operation):
        return
    started = asyncio.Event()

    async def never(_: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Caller(True, never).run(operation, stream))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    span = instrumented.call()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "asyncio.exceptions.CancelledError"


async def test_task_cancelled_between_chunks_ends_span(instrumented: Recorder) -> None:
    class Endless(payloads.http.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield payloads.sse(payloads.chat_chunks()[:2], done=False)
            waits_for_next_chunk.set()
            await asyncio.Event().wait()

    def handler(_: Any) -> Any:
        return payloads.http.Response(
            200, stream=Endless(), headers={"content-type": "text/event-stream"}
        )

    waits_for_next_chunk = asyncio.Event()

    async def read() -> None:
        client = payloads.async_client(handler)
        async for _ in await client.chat.completions.create(
            model="smol", messages=payloads.MESSAGES, stream=True
        ):
            pass

    task = asyncio.create_task(read())
    await waits_for_next_chunk.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert instrumented.call().attributes["error.type"] == "asyncio.exceptions.CancelledError"


def test_raw_response_keeps_type_and_is_recorded(instrumented: Recorder) -> None:
    reply = payloads.chat(timings=payloads.TIMINGS)
    client = payloads.client(lambda _: payloads.json_response(reply))
    raw = client.chat.completions.with_raw_response.create(model="smol", messages=payloads.MESSAGES)
    assert raw.parse().choices[0].message.content == "Hi"
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5


def test_retries_are_counted_on_one_span(instrumented: Recorder) -> None:
    answers = [
        payloads.error_response(500),
        payloads.error_response(503),
        payloads.json_response(payloads.chat()),
    ]
    client = payloads.client(lambda _: answers.pop(0), max_retries=2)
    client._calculate_retry_timeout = lambda *_: 0.0  # type: ignore[method-assign]
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert instrumented.call().attributes["http.request.resend_count"] == 2


def test_other_endpoints_are_not_recorded(instrumented: Recorder) -> None:
    models = {"object": "list", "data": []}
    payloads.client(lambda _: payloads.json_response(models)).models.list()
    assert instrumented.spans() == []


def test_messages_iterator_is_sent_complete(instrumented: Recorder) -> None:
    sent: list[Any] = []

    def handler(request: Any) -> Any:
        sent.append(request.read())
        return payloads.json_response(payloads.chat())

    payloads.client(handler).chat.completions.create(model="smol", messages=iter(payloads.MESSAGES))
    assert b"Say hi." in sent[0]
    instrumented.call()
