"""Realtime connections of the real client to a WebSocket server."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from llamatelemetry.genai import flush_pending
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.recorder import Recorder

sync_server = pytest.importorskip(
    "websockets.sync.server", reason="needs websockets: openai[realtime]"
)
if not hasattr(openai.OpenAI, "realtime"):
    pytest.skip("this client has no Realtime API", allow_module_level=True)

USAGE = {
    "total_tokens": 30,
    "input_tokens": 20,
    "output_tokens": 10,
    "input_token_details": {"text_tokens": 5, "audio_tokens": 15, "cached_tokens": 4},
    "output_token_details": {"text_tokens": 3, "audio_tokens": 7},
}
SESSION = {"type": "session.created", "session": {"type": "realtime", "model": "gpt-realtime"}}


def created(response_id: str = "resp_1") -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": response_id, "status": "in_progress"}}


def delta(response_id: str = "resp_1") -> dict[str, Any]:
    return {"type": "response.output_text.delta", "response_id": response_id, "delta": "Hi"}


def done(response_id: str = "resp_1", status: str = "completed", **more: Any) -> dict[str, Any]:
    response = {"id": response_id, "status": status, "usage": USAGE, "output": [], **more}
    return {"type": "response.done", "response": response}


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Return a function that runs a server, which sends `first` at once and `then` on request."""
    servers: list[Any] = []

    def start(then: list[dict[str, Any]], first: tuple[dict[str, Any], ...] = (SESSION,)) -> str:
        def handle(connection: Any) -> None:
            for event in first:
                connection.send(json.dumps(event))
            for message in connection:
                if json.loads(message)["type"] == "response.create":
                    for event in then:
                        connection.send(json.dumps(event))

        server = sync_server.serve(handle, "127.0.0.1", 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.socket.getsockname()[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()


def connect(url: str) -> Any:
    client = openai.OpenAI(base_url=url, api_key="none")
    return client.realtime.connect(model="gpt-realtime")


def receive(connection: Any, kind: str) -> None:
    while connection.recv().type != kind:
        pass


def test_response_is_a_span_with_tokens_and_time_to_first_chunk(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    url = serve([created(), delta(), delta(), done()])
    with connect(url) as connection:
        connection.response.create()
        receive(connection, "response.done")
    span = instrumented.call()
    assert span.name == "generate_content gpt-realtime"
    found = dict(span.attributes or {})
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-realtime",
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.text.input_tokens": 5,
        "gen_ai.usage.audio.input_tokens": 15,
        "gen_ai.usage.text.output_tokens": 3,
        "gen_ai.usage.audio.output_tokens": 7,
        "llamatelemetry.task": "realtime",
        "server.address": "127.0.0.1",
        "server.port": int(url.rpartition(":")[2].partition("/")[0]),
    }
    assert instrumented.tokens("input") == 20


async def test_asynchronous_connection_records_each_response(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    url = serve([created("a"), delta("a"), done("a"), created("b"), done("b")])
    client = openai.AsyncOpenAI(base_url=url, api_key="none")
    async with client.realtime.connect(model="gpt-realtime") as connection:
        await connection.response.create()
        async for event in connection:
            if event.type == "response.done" and event.response.id == "b":
                break
    found = [dict(span.attributes or {}) for span in instrumented.calls()]
    assert [each["gen_ai.response.id"] for each in found] == ["a", "b"]
    assert instrumented.tokens("output") == 20


def test_response_that_the_server_started_has_no_time_to_first_chunk(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    with connect(serve([], first=(SESSION, created(), delta(), done()))) as connection:
        receive(connection, "response.done")
    found = instrumented.call().attributes or {}
    assert "gen_ai.response.time_to_first_chunk" not in found
    assert found["gen_ai.usage.output_tokens"] == 10


FAILED = {"type": "failed", "error": {"type": "server_error", "code": "boom"}}
CANCELLED = {"type": "cancelled", "reason": "turn_detected"}
CUT_OFF = {"type": "incomplete", "reason": "max_output_tokens"}
FILTERED = {"type": "incomplete", "reason": "content_filter"}


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (FAILED, ("error", "boom")),
        (CANCELLED, ("cancelled", None)),
        (CUT_OFF, ("length", None)),
        (FILTERED, ("content_filter", None)),
    ],
)
def test_response_that_does_not_complete_has_its_reason(
    instrumented: Recorder,
    serve: Callable[..., str],
    details: dict[str, Any],
    expected: tuple[str, str | None],
) -> None:
    ended = done(status=details["type"], status_details=details)
    with connect(serve([created(), ended])) as connection:
        connection.response.create()
        receive(connection, "response.done")
    found = instrumented.call().attributes or {}
    assert found["gen_ai.response.finish_reasons"] == (expected[0],)
    assert found.get("error.type") == expected[1]


def test_open_response_ends_with_its_connection(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    def fail_while_open() -> None:
        with connect(serve([created(), delta()])) as connection:
            connection.response.create()
            receive(connection, "response.output_text.delta")
            raise KeyError("application")

    with pytest.raises(KeyError):
        fail_while_open()
    found = instrumented.call().attributes or {}
    assert found["error.type"] == "KeyError"
    assert "gen_ai.usage.output_tokens" not in found


def test_open_response_of_a_dropped_connection_ends(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    connection = connect(serve([created()])).enter()
    connection.response.create()
    receive(connection, "response.created")
    connection.close()
    del connection
    gc.collect()  # The connection and its resources refer to one another.
    assert flush_pending(10)
    assert instrumented.call().name == "generate_content gpt-realtime"


def test_refused_request_does_not_shift_the_start_of_the_next_response(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "code": "bad"}}
    url = serve([error])
    with connect(url) as connection:
        connection.response.create()
        receive(connection, "error")
    assert instrumented.calls() == []
    with connect(serve([created(), done()], first=(SESSION, error))) as connection:
        receive(connection, "error")
        asked_ns = time.time_ns()
        connection.response.create()
        receive(connection, "response.done")
    assert (instrumented.call().start_time or 0) >= asked_ns


def test_uninstrumented_connection_is_not_recorded(
    instrumented: Recorder, serve: Callable[..., str]
) -> None:
    OpenAIInstrumentor().uninstrument()
    with connect(serve([created(), done()])) as connection:
        connection.response.create()
        receive(connection, "response.done")
    assert instrumented.calls() == []
