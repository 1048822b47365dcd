"""Errors that a server sends with HTTP 200: the call failed, although the client raises nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from tests.support import payloads
from tests.support.recorder import Recorder
from tests.support.reported_errors import REPORTED_ERRORS

each_form = pytest.mark.parametrize(
    ("body", "error_type"), REPORTED_ERRORS.values(), ids=REPORTED_ERRORS
)


def check(recorder: Recorder, error_type: str) -> None:
    span = recorder.call()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == error_type
    assert "http.response.status_code" not in span.attributes
    assert "swordfish" not in span.to_json()
    (point,) = recorder.points("gen_ai.client.operation.duration")
    assert point.attributes["error.type"] == error_type


@each_form
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream requested"])
def test_error_body_with_status_200_fails_call(
    instrumented: Recorder, body: Any, error_type: str, stream: bool
) -> None:
    client = payloads.client(lambda _: payloads.json_response(body))
    result = client.chat.completions.create(model="m", messages=payloads.MESSAGES, stream=stream)
    if stream:
        assert list(result) == []
    check(instrumented, error_type)


@each_form
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream requested"])
async def test_error_body_with_status_200_fails_asynchronous_call(
    instrumented: Recorder, body: Any, error_type: str, stream: bool
) -> None:
    client = payloads.async_client(lambda _: payloads.json_response(body))
    result = await client.chat.completions.create(
        model="m", messages=payloads.MESSAGES, stream=stream
    )
    if stream:
        assert [chunk async for chunk in result] == []
    check(instrumented, error_type)


@each_form
@pytest.mark.parametrize("how", ["with_raw_response", "with_streaming_response"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream requested"])
def test_error_body_with_status_200_fails_raw_call(
    instrumented: Recorder, body: Any, error_type: str, how: str, stream: bool
) -> None:
    client = payloads.client(lambda _: payloads.json_response(body))
    create = getattr(client.chat.completions, how).create
    result = create(model="m", messages=payloads.MESSAGES, stream=stream)
    if how == "with_streaming_response":
        with result as response:
            response.read()
    elif stream:
        list(result.parse())
    check(instrumented, error_type)


@pytest.mark.parametrize("operation", ["responses", "embeddings", "images", "moderations"])
def test_error_body_with_status_200_fails_call_of_other_operations(
    instrumented: Recorder, operation: str
) -> None:
    client = payloads.client(lambda _: payloads.json_response(REPORTED_ERRORS["OpenRouter"][0]))
    if not hasattr(client, operation):
        pytest.skip("this version of openai does not have the operation")
    # The client itself rejects embeddings without vectors.
    with contextlib.suppress(ValueError, TypeError):
        if operation == "images":
            client.images.generate(model="m", prompt="x")
        else:
            getattr(client, operation).create(model="m", input="x")
    expected = {"502", "ValueError", "TypeError"} if operation == "embeddings" else {"502"}
    assert instrumented.call().attributes["error.type"] in expected


def test_plain_response_to_stream_request_has_its_tokens(instrumented: Recorder) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    stream = client.chat.completions.create(model="m", messages=payloads.MESSAGES, stream=True)
    assert list(stream) == []
    assert instrumented.call().attributes["gen_ai.usage.output_tokens"] == 5
    assert not {"iter_bytes", "close"} & vars(stream.response).keys()


def test_error_in_last_choice_of_stream_fails_raw_call(instrumented: Recorder) -> None:
    last = payloads.chunk({"content": ""}, "error")
    last["choices"][0]["error"] = {"code": "server_error", "message": "swordfish"}
    body = payloads.sse([payloads.chunk({"content": "Hi"}), last])
    client = payloads.client(lambda _: payloads.stream_response(body))
    create = client.chat.completions.with_streaming_response.create
    with create(model="m", messages=payloads.MESSAGES, stream=True) as response:
        response.read()
    assert instrumented.call().attributes["error.type"] == "server_error"
