"""`parse` and the stream helpers, which process a response after the HTTP call."""

from __future__ import annotations

import inspect
from typing import Any

import openai
import pytest
from opentelemetry.trace import StatusCode

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_operations import VERSION, Greeting
from tests.support.recorder import Recorder

if VERSION < (1, 92):
    pytest.skip("this client parses in its beta only", allow_module_level=True)

CUT_OFF = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": '{"gree'},
        }
    ]
}
OTHER = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": '{"SECRET": 1}'},
        }
    ]
}


def client_for(is_async: bool, handler: payloads.Handler) -> Any:
    return (payloads.async_client if is_async else payloads.client)(handler)


async def settle(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


SIDES = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@SIDES
@pytest.mark.parametrize(
    ("reply", "error", "error_type"),
    [
        (CUT_OFF, openai.LengthFinishReasonError, "openai.LengthFinishReasonError"),
        (OTHER, Exception, "pydantic_core.ValidationError"),
    ],
    ids=["cut off", "does not fit"],
)
async def test_usage_of_chat_is_recorded_when_parse_raises(
    instrumented: Recorder, is_async: bool, reply: Any, error: type[Exception], error_type: str
) -> None:
    async def outcome() -> tuple[type[BaseException], str]:
        client = client_for(is_async, lambda _: payloads.json_response(payloads.chat(**reply)))
        with pytest.raises(error) as caught:
            await settle(
                client.chat.completions.parse(
                    model="smol", messages=payloads.MESSAGES, response_format=Greeting
                )
            )
        return type(caught.value), str(caught.value)

    seen = await outcome()
    span = instrumented.call()
    OpenAIInstrumentor().uninstrument()
    assert seen == await outcome()
    found = span.attributes or {}
    assert span.status.status_code is StatusCode.ERROR
    assert found["error.type"] == error_type
    assert "http.response.status_code" not in found
    assert found["gen_ai.usage.input_tokens"] == 21
    assert found["gen_ai.usage.output_tokens"] == 5
    assert found["gen_ai.response.id"] == "chatcmpl-1"
    assert found["gen_ai.response.finish_reasons"] == (reply["choices"][0]["finish_reason"],)
    assert "SECRET" not in span.to_json()
    assert instrumented.tokens("output") == 5


@SIDES
async def test_usage_of_response_is_recorded_when_parse_raises(
    instrumented: Recorder, is_async: bool
) -> None:
    output = payloads.response()["output"]
    output[0]["content"][0]["text"] = '{"SECRET": 1}'
    client = client_for(
        is_async, lambda _: payloads.json_response(payloads.response(output=output))
    )
    with pytest.raises(Exception, match="validation error"):
        await settle(client.responses.parse(model="smol", input="Hi", text_format=Greeting))
    found = instrumented.call().attributes or {}
    assert found["error.type"] == "pydantic_core.ValidationError"
    assert found["gen_ai.usage.output_tokens"] == 5
    assert found["openai.response.service_tier"] == "default"


@SIDES
async def test_usage_is_recorded_when_client_rejects_response(
    instrumented: Recorder, is_async: bool
) -> None:
    reply = payloads.chat(choices=None)
    make = payloads.async_client if is_async else payloads.client
    client: Any = make(lambda _: payloads.json_response(reply), _strict_response_validation=True)
    with pytest.raises(openai.APIResponseValidationError):
        await settle(client.chat.completions.create(model="smol", messages=payloads.MESSAGES))
    found = instrumented.call().attributes or {}
    assert found["error.type"] == "openai.APIResponseValidationError"
    assert found["gen_ai.usage.output_tokens"] == 5


def stream_body(api: str) -> bytes:
    if api == "chat":
        chunks = [
            payloads.chunk({"role": "assistant", "content": None}),
            payloads.chunk({"content": '{"greeting"'}),
            payloads.chunk({"content": ': "Hi"}'}),
            payloads.chunk({}, "stop"),
            {**payloads.chunk({}), "choices": [], "usage": payloads.USAGE},
        ]
        return payloads.sse(chunks)
    return payloads.sse(payloads.response_events(), done=False)


def manager(client: Any, api: str) -> Any:
    if api == "chat":
        return client.chat.completions.stream(
            model="smol",
            messages=payloads.MESSAGES,
            response_format=Greeting,
            stream_options={"include_usage": True},
        )
    return client.responses.stream(model="smol", input="Hi", text_format=Greeting)


async def use(client: Any, api: str, *, stop_after: int | None = None) -> list[Any]:
    """Read all events of a helper, or the first ones, and its final result."""
    events: list[Any] = []
    entered = manager(client, api)
    if hasattr(entered, "__aenter__"):
        async with entered as stream:
            async for event in stream:
                events.append(event)
                if len(events) == stop_after:
                    return events
            final = await (
                stream.get_final_completion() if api == "chat" else stream.get_final_response()
            )
    else:
        with entered as stream:
            for event in stream:
                events.append(event)
                if len(events) == stop_after:
                    return events
            final = stream.get_final_completion() if api == "chat" else stream.get_final_response()
    return [type(stream), *events, final]


@SIDES
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_stream_helper_returns_same_events_as_uninstrumented(
    instrumented: Recorder, is_async: bool, api: str
) -> None:
    def handler(_: Any) -> Any:
        return payloads.chunked_response(
            *payloads.split(stream_body(api), 9), media="text/event-stream"
        )

    seen = await use(client_for(is_async, handler), api)
    span = instrumented.call()
    OpenAIInstrumentor().uninstrument()
    assert seen == await use(client_for(is_async, handler), api)
    found = dict(span.attributes or {})
    assert span.status.status_code is StatusCode.UNSET
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    own = (
        {"openai.api.type": "chat_completions", "gen_ai.response.id": "chatcmpl-1"}
        if api == "chat"
        else {
            "openai.api.type": "responses",
            "gen_ai.response.id": "resp_1",
            "gen_ai.usage.cache_write.input_tokens": 3,
            "openai.response.service_tier": "default",
        }
    )
    assert found == own | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "smol",
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "json",
        "gen_ai.response.model": "smol-v1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "llm.test",
        "server.port": 8080,
    }


@SIDES
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_call_succeeds_when_stream_helper_is_closed_early(
    instrumented: Recorder, is_async: bool, api: str
) -> None:
    parts = payloads.split(stream_body(api), 50)
    client = client_for(
        is_async, lambda _: payloads.chunked_response(*parts, media="text/event-stream")
    )
    assert len(await use(client, api, stop_after=2)) == 2
    span = instrumented.call()
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["gen_ai.response.model"] == "smol-v1"
    assert "gen_ai.usage.output_tokens" not in (span.attributes or {})


@SIDES
async def test_call_fails_when_stream_helper_cannot_parse_output(
    instrumented: Recorder, is_async: bool
) -> None:
    chunks = [
        payloads.chunk({"content": '{"gree'}),
        payloads.chunk({}, "length", usage=payloads.USAGE),
    ]
    client = client_for(is_async, lambda _: payloads.stream_response(payloads.sse(chunks)))
    with pytest.raises(openai.LengthFinishReasonError):
        await use(client, "chat")
    found = instrumented.call().attributes or {}
    assert found["error.type"] == "openai.LengthFinishReasonError"
    assert found["gen_ai.usage.output_tokens"] == 5


@SIDES
@pytest.mark.skipif(VERSION < (1, 99), reason="this client cannot take a stream up again")
async def test_stream_helper_with_response_id_is_fetch_response(
    instrumented: Recorder, is_async: bool
) -> None:
    body = payloads.sse(payloads.response_events(), done=False)
    client = client_for(is_async, lambda _: payloads.stream_response(body))
    entered = client.responses.stream(response_id="resp_1", starting_after=2)
    if is_async:
        async with entered as stream:
            events = [event.type async for event in stream]
    else:
        with entered as stream:
            events = [event.type for event in stream]
    assert events[-1] == "response.completed"
    span = instrumented.call()
    assert span.name == "fetch_response"
    assert (span.attributes or {})["gen_ai.response.id"] == "resp_1"
    assert "gen_ai.request.stream" not in (span.attributes or {})


def test_transcription_as_text_returns_str(instrumented: Recorder) -> None:
    client = payloads.client(
        lambda _: payloads.http.Response(200, text="Hi", headers={"content-type": "text/plain"})
    )
    text = client.audio.transcriptions.create(
        model="ear", file=("sound.wav", b"RIFF"), response_format="text"
    )
    assert text == "Hi"
    assert type(text) is str
    assert instrumented.call().status.status_code is StatusCode.UNSET


@pytest.mark.skipif(not hasattr(openai.resources.beta, "Responses"), reason="has no beta of it")
def test_beta_responses_api_is_recorded_like_responses_api(instrumented: Recorder) -> None:
    client: Any = payloads.client(lambda _: payloads.json_response(payloads.response()))
    client.beta.responses.create(model="smol", input="Hi")
    client.beta.responses.retrieve("resp_1")
    assert [span.name for span in instrumented.calls()] == ["chat smol", "fetch_response"]
