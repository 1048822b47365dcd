"""Errors that a server or a proxy sends with HTTP 200: the clients raise them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient, LlamaServerError
from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.recorder import Recorder
from tests.support.reported_errors import NOT_ERRORS, REPORTED_ERRORS

# A client of llama.cpp does not look into the choices.
BODIES = {name: body for name, (body, _) in REPORTED_ERRORS.items() if not body.get("choices")}
each_form = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
ANSWERS = {
    "plain": (plain, False),
    "plain, stream requested": (plain, True),
    "event": (lambda body: chunked([b"data: " + body + b"\n\n"]), True),
}
each_answer = pytest.mark.parametrize(("make", "stream"), ANSWERS.values(), ids=ANSWERS)


@each_form
@each_answer
def test_error_body_with_status_200_is_raised(
    recorded: Recorder, body: Any, make: Any, stream: bool
) -> None:
    with (
        scripted(make(json.dumps(body, indent=None).encode())) as server,
        LlamaCppClient(server.origin) as client,
        pytest.raises(LlamaServerError),
    ):
        list(client.chat(payloads.MESSAGES, stream=stream))
    assert "error.type" in recorded.call().attributes


@each_form
@each_answer
async def test_error_body_with_status_200_is_raised_by_asynchronous_client(
    recorded: Recorder, body: Any, make: Any, stream: bool
) -> None:
    with scripted(make(json.dumps(body, indent=None).encode())) as server:
        async with AsyncLlamaCppClient(server.origin) as client:

            async def call() -> None:
                result = await client.chat(payloads.MESSAGES, stream=stream)
                [chunk async for chunk in result]

            with pytest.raises(LlamaServerError):
                await call()
    assert "error.type" in recorded.call().attributes


def test_raised_error_has_code_type_and_message_of_server(recorded: Recorder) -> None:
    body = {"error": {"code": 502, "type": "upstream", "message": "bad gateway"}}
    with (
        scripted(plain(json.dumps(body, indent=2).encode())) as server,
        LlamaCppClient(server.origin) as client,
    ):
        for stream in (False, True):
            with pytest.raises(LlamaServerError) as raised:
                client.chat(payloads.MESSAGES, stream=stream)
            assert (raised.value.status, raised.value.type) == (502, "upstream")
            assert raised.value.message == "bad gateway"
    assert [span.attributes["error.type"] for span in recorded.calls()] == ["upstream"] * 2


@pytest.mark.parametrize("body", [each for each in NOT_ERRORS if isinstance(each, dict)], ids=str)
def test_other_bodies_are_returned(body: dict[str, Any]) -> None:
    with (
        scripted(plain(json.dumps(body).encode())) as server,
        LlamaCppClient(server.origin) as client,
    ):
        assert client.chat(payloads.MESSAGES) == body
