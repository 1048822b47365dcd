"""Options of a call: requested usage of streams, response headers, hosts of the trace context."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support import payloads
from tests.support.recorder import Recorder

Instrument = Callable[..., None]
USAGE_CHUNK = {**payloads.chunk({}), "choices": [], "usage": payloads.USAGE}
HEADERS = {
    "x-request-id": "req_1",
    "x-ratelimit-remaining-tokens": "5",
    "x-ratelimit-limit-tokens": "9",
    "set-cookie": "session=1",
}


class Server:
    """A transport that sends a chunk with usage only if the request asks for it."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.requests: list[Any] = []

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        body = json.loads(request.content)
        self.bodies.append(body)
        if not body.get("stream"):
            return payloads.json_response(payloads.chat(), **HEADERS)
        chunks = payloads.chat_chunks()
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append(USAGE_CHUNK)
        return payloads.stream_response(payloads.sse(chunks), **HEADERS)


def attributes(recorder: Recorder) -> dict[str, Any]:
    return dict(recorder.call().attributes or {})


def create(client: openai.OpenAI, **parameters: Any) -> Any:
    return client.chat.completions.create(model="smol", messages=payloads.MESSAGES, **parameters)


def test_requested_usage_is_recorded_and_its_chunk_hidden(
    instrument: Instrument, recorder: Recorder
) -> None:
    without = list(create(payloads.client(Server()), stream=True))
    instrument(stream_usage=True)
    server = Server()
    chunks = list(create(payloads.client(server), stream=True))
    assert chunks == without
    assert server.bodies[0]["stream_options"] == {"include_usage": True}
    assert attributes(recorder)["gen_ai.usage.input_tokens"] == 21


async def test_requested_usage_is_hidden_in_asynchronous_stream(
    instrument: Instrument, recorder: Recorder
) -> None:
    instrument(stream_usage=True)
    client = payloads.async_client(Server())
    stream = await client.chat.completions.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    assert [len(chunk.choices) async for chunk in stream] == [1, 1, 1, 1]
    assert attributes(recorder)["gen_ai.usage.output_tokens"] == 5


@pytest.mark.parametrize(
    ("parameters", "options", "sent", "lengths"),
    [
        (
            {"stream_options": {"include_usage": True}},
            True,
            {"include_usage": True},
            [1, 1, 1, 1, 0],
        ),
        ({"stream_options": {"include_usage": False}}, True, {"include_usage": False}, [1] * 4),
        ({}, False, None, [1] * 4),
        (
            {"extra_body": {"stream_options": {"continuous_usage_stats": True}}},
            True,
            {"continuous_usage_stats": True, "include_usage": True},
            [1] * 4,
        ),
    ],
)
def test_usage_is_requested_only_if_the_application_has_not_decided(
    instrument: Instrument,
    parameters: dict[str, Any],
    options: bool,
    sent: dict[str, Any] | None,
    lengths: list[int],
) -> None:
    instrument(stream_usage=options)
    server = Server()
    chunks = list(create(payloads.client(server), stream=True, **parameters))
    assert server.bodies[0].get("stream_options") == sent
    assert [len(chunk.choices) for chunk in chunks] == lengths


def test_usage_is_not_requested_for_raw_or_plain_response(instrument: Instrument) -> None:
    instrument(stream_usage=True)
    server = Server()
    client = payloads.client(server)
    create(client)
    client.chat.completions.with_raw_response.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    assert [body.get("stream_options") for body in server.bodies] == [None, None]


@pytest.mark.parametrize("stream", [False, True])
def test_named_response_headers_are_recorded(
    instrument: Instrument, recorder: Recorder, stream: bool
) -> None:
    instrument(response_headers=["X-Request-Id", "x-ratelimit-*"])
    result = create(payloads.client(Server()), stream=stream)
    if stream:
        list(result)
    found = {
        name.removeprefix("http.response.header."): value
        for name, value in attributes(recorder).items()
        if name.startswith("http.response.header.")
    }
    assert found == {
        "x-request-id": ("req_1",),
        "x-ratelimit-remaining-tokens": ("5",),
        "x-ratelimit-limit-tokens": ("9",),
    }


@pytest.mark.parametrize(
    ("names", "is_recorded"), [([], False), (["*"], False), (["set-cookie"], True)]
)
def test_cookies_are_recorded_only_by_their_exact_name(
    instrument: Instrument, recorder: Recorder, names: list[str], is_recorded: bool
) -> None:
    instrument(response_headers=names)
    create(payloads.client(Server()))
    assert ("http.response.header.set-cookie" in attributes(recorder)) is is_recorded


def test_failed_call_records_named_response_headers(
    instrument: Instrument, recorder: Recorder
) -> None:
    instrument(response_headers=["retry-after"])
    client = payloads.client(
        lambda _: payloads.json_response({"error": {}}, 429, **{"retry-after": "7"})
    )
    with pytest.raises(openai.RateLimitError):
        create(client)
    assert attributes(recorder)["http.response.header.retry-after"] == ("7",)


@pytest.mark.parametrize(
    ("hosts", "is_sent"),
    [
        ([], True),
        (["llm.test"], True),
        (["*.test"], True),
        (["LLM.test"], True),
        (["api.openai.com", "*.internal"], False),
    ],
)
@pytest.mark.parametrize("propagate", ["auto", "on"])
def test_trace_context_is_sent_only_to_named_hosts(
    instrument: Instrument, hosts: list[str], is_sent: bool, propagate: str
) -> None:
    instrument(propagate=propagate, propagate_hosts=hosts)
    server = Server()
    create(payloads.client(server))
    assert ("traceparent" in server.requests[0].headers) is is_sent


def test_cost_that_the_server_reports_is_recorded(
    instrument: Instrument, recorder: Recorder
) -> None:
    instrument()
    usage = {**payloads.USAGE, "cost": 0.0012}
    create(payloads.client(lambda _: payloads.json_response(payloads.chat(usage=usage))))
    assert attributes(recorder)["gen_ai.usage.cost"] == 0.0012
