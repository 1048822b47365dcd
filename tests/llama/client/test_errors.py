"""Errors of a scripted server, and the requests of the clients."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest
from opentelemetry import trace

from llamatelemetry.config import effective_config, set_active_config
from llamatelemetry.llama import (
    AsyncChatStream,
    AsyncLlamaCppClient,
    ChatStream,
    LlamaCppClient,
    LlamaServerError,
    ServerLoadingError,
)
from tests.support.llama_clients import Driver
from tests.support.loopback_server import Loopback, ReceivedRequest, ScriptedResponse, loopback, sse

HELLO = [{"role": "user", "content": "Hello"}]
RESPONSE = {
    "id": "1",
    "model": "/models/smol.gguf",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}
LOADING = ScriptedResponse(
    503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
)
NO_SERVER = "http://127.0.0.1:1"

both = pytest.mark.parametrize("kind", ["sync", "async"])


class Script:
    """Responses in turn; the last one is repeated."""

    def __init__(self) -> None:
        self.replies: list[ScriptedResponse] = [ScriptedResponse(body=RESPONSE)]

    def __call__(self, asked: ReceivedRequest) -> ScriptedResponse:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[Loopback]:
    with loopback(script) as server:
        yield server


@both
def test_call_raises_at_once_when_server_is_loading(kind, server, script, recorded):
    script.replies = [LOADING]
    with Driver(kind, server.url) as driver:
        for call in (("chat", HELLO), ("props",), ("health",)):
            with pytest.raises(ServerLoadingError) as caught:
                driver(*call)
            assert (caught.value.status, caught.value.message) == (503, "Loading model")
    assert len(server.asked) == 3
    assert recorded.call().attributes["error.type"] == "unavailable_error"
    script.replies = [LOADING, ScriptedResponse(body={"status": "ok"})]
    with Driver(kind, server.url, load_wait_s=10) as driver, pytest.raises(ServerLoadingError):
        driver("health")


@both
def test_call_retries_in_one_span_while_server_is_loading(kind, server, script, recorded):
    script.replies = [LOADING, LOADING, ScriptedResponse(body=RESPONSE)]
    with Driver(kind, server.url, load_wait_s=10) as driver:
        assert driver("chat", HELLO).choices[0].message.content == "Hi"
    span = recorded.call()
    assert span.attributes["http.request.resend_count"] == 2
    assert "error.type" not in span.attributes


@both
def test_call_raises_when_server_is_loading_beyond_load_wait(kind, server, script):
    script.replies = [LOADING]
    started_s = time.monotonic()
    with (
        Driver(kind, server.url, load_wait_s=0.2) as driver,
        pytest.raises(ServerLoadingError),
    ):
        driver("chat", HELLO, stream=True)
    assert len(server.asked) > 1
    assert 0.2 <= time.monotonic() - started_s < 2


@both
def test_call_does_not_retry_when_no_slot_is_available(kind, server, script):
    no_slot = {"code": 503, "message": "no slot available", "type": "unavailable_error"}
    script.replies = [ScriptedResponse(503, {"error": no_slot})]
    with (
        Driver(kind, server.url, load_wait_s=10) as driver,
        pytest.raises(LlamaServerError) as caught,
    ):
        driver("slots")
    assert type(caught.value) is LlamaServerError
    assert len(server.asked) == 1


@both
def test_wait_until_ready_retries_without_spans(kind, server, script, recorded):
    script.replies = [LOADING, ScriptedResponse(body={"status": "ok"})]
    with Driver(kind, server.url) as driver:
        driver("wait_until_ready", 10)
    assert [asked.path for asked in server.asked] == ["/health", "/health"]
    assert recorded.spans() == []


@both
@pytest.mark.parametrize("status", [502, 503, 504])
def test_wait_until_ready_waits_for_server_behind_proxy(kind, server, script, status):
    script.replies = [ScriptedResponse(status, {}), ScriptedResponse(body={"status": "ok"})]
    with Driver(kind, server.url) as driver:
        driver("wait_until_ready", 10)
    assert len(server.asked) == 2
    script.replies = [ScriptedResponse(status, {})]
    with (
        Driver(kind, server.url) as driver,
        pytest.raises(TimeoutError, match=f"HTTP {status}"),
    ):
        driver("wait_until_ready", 0.1)


@both
def test_wait_until_ready_raises_error_of_another_server_at_once(kind, server, script):
    script.replies = [ScriptedResponse(404, {})]
    with Driver(kind, server.url) as driver, pytest.raises(LlamaServerError, match="HTTP 404"):
        driver("wait_until_ready", 10)
    assert len(server.asked) == 1


@pytest.mark.parametrize("key", ["secret\n", " secret", "secr\u00e9t", "sec\x00ret"])
@pytest.mark.parametrize("client", [LlamaCppClient, AsyncLlamaCppClient])
def test_key_that_no_header_can_hold_is_rejected_without_showing_it(client, key):
    with pytest.raises(ValueError, match="api_key must be printable ASCII") as raised:
        client(api_key=key)
    assert key.strip() not in str(raised.value)


@both
def test_empty_key_is_no_key(kind, server, script):
    script.replies = [ScriptedResponse(body={"status": "ok"})]
    with Driver(kind, server.url, api_key="") as driver:
        driver("health")
    assert "authorization" not in {name.lower() for name in server.asked[0].headers}


@pytest.mark.parametrize("timeout_s", [None, 0, -1, float("nan"), float("inf"), "5"])
def test_client_rejects_timeout_that_is_not_a_time(timeout_s):
    with pytest.raises(ValueError, match="timeout_s must be a number of seconds above 0, got"):
        LlamaCppClient(timeout_s=timeout_s)


@pytest.mark.parametrize("url", [None, "127.0.0.1:8080"])
def test_client_rejects_url_without_scheme(url):
    with pytest.raises(ValueError, match="base_url must start with http:// or https://, got"):
        LlamaCppClient(url)


@both
def test_wait_until_ready_raises_with_reason_after_timeout(kind, server, script):
    script.replies = [LOADING]
    with Driver(kind, server.url) as driver, pytest.raises(ServerLoadingError):
        driver("wait_until_ready", 0.1)
    with Driver(kind, NO_SERVER) as driver, pytest.raises(TimeoutError, match=NO_SERVER) as caught:
        driver("wait_until_ready", 0.1)
    assert isinstance(caught.value.__cause__, httpx2.ConnectError)


@both
def test_wait_until_ready_times_out_when_server_hangs(kind, server, script):
    script.replies = [ScriptedResponse(body={"status": "ok"}, delay_s=5)]
    with Driver(kind, server.url) as driver, pytest.raises(TimeoutError):
        driver("wait_until_ready", 0.2)


@both
def test_call_raises_connect_error_with_hint_when_no_server_runs(kind, recorded):
    with Driver(kind, NO_SERVER) as driver, pytest.raises(httpx2.ConnectError) as caught:
        driver("chat", HELLO)
    assert caught.value.__notes__ == [f"Is a llama.cpp server running at {NO_SERVER}?"]
    assert recorded.call().attributes["error.type"] == "httpx2.ConnectError"


@both
def test_call_times_out_when_server_hangs(kind, server, script, recorded):
    script.replies = [ScriptedResponse(body=RESPONSE, delay_s=5)]
    with Driver(kind, server.url, timeout_s=0.1) as driver, pytest.raises(httpx2.ReadTimeout):
        driver("chat", HELLO)
    assert recorded.call().attributes["error.type"] == "httpx2.ReadTimeout"


@both
@pytest.mark.parametrize(
    ("response", "error_type", "message"),
    [
        (
            ScriptedResponse(502, b"<html>Bad gateway</html>"),
            "http_error",
            "<html>Bad gateway</html>",
        ),
        (ScriptedResponse(500, b""), "http_error", "no reason given"),
        (ScriptedResponse(400, {"error": "plain words"}), "http_error", '{"error": "plain words"}'),
        (ScriptedResponse(404, {"error": {"message": "none"}}), "server_error", "none"),
        (ScriptedResponse(302, b"", headers={"location": "/"}), "http_error", "no reason given"),
        (ScriptedResponse(200, b"<html>"), "invalid_reply", "the response from .* is not JSON.*"),
    ],
)
def test_call_raises_for_unexpected_response(  # noqa: PLR0917 - a row
    kind, script, recorded, response, error_type, message
):
    script.replies = [response]
    with (
        loopback(script) as server,
        Driver(kind, server.url) as driver,
        pytest.raises(LlamaServerError, match=message) as caught,
    ):
        driver("chat", HELLO)
    assert (caught.value.status, caught.value.type) == (response.status, error_type)
    assert recorded.call().status.is_ok is False


@both
def test_stream_raises_for_error_event(kind, server, script, recorded):
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    error = {"error": {"code": 500, "message": "lost", "type": "server_error"}}
    script.replies = [ScriptedResponse(chunks=sse(chunk, error, chunk))]
    with Driver(kind, server.url) as driver:
        with pytest.raises(LlamaServerError, match="lost"):
            driver("chat", HELLO, stream=True)
        assert driver.busy_connections() == 0
    span = recorded.call()
    assert span.attributes["error.type"] == "server_error"
    assert span.attributes["gen_ai.response.id"] == "1"


@both
def test_stream_raises_when_connection_closes(kind, server, script, recorded):
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    script.replies = [ScriptedResponse(chunks=sse(chunk), cut=True)]
    with Driver(kind, server.url) as driver, pytest.raises(httpx2.RemoteProtocolError):
        driver("chat", HELLO, stream=True)
    assert recorded.call().attributes["error.type"] == "httpx2.RemoteProtocolError"


@both
def test_stream_parses_chunks_split_anywhere(kind, server, script):
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("ä", "b")]
    stream = b": ping\n\n" + b"".join(sse(*chunks)) + b"data: [DONE]\n\n"
    script.replies = [
        ScriptedResponse(chunks=[stream[at : at + 3] for at in range(0, len(stream), 3)])
    ]
    with Driver(kind, server.url) as driver:
        assert driver("chat", HELLO, stream=True) == chunks


@both
def test_stream_parses_last_chunk_without_empty_line(kind, server, script):
    script.replies = [ScriptedResponse(chunks=[sse(RESPONSE)[0].rstrip()])]
    with Driver(kind, server.url) as driver:
        assert driver("chat", HELLO, stream=True) == [RESPONSE]


@both
def test_stream_records_exception_of_caller(kind, server, script, recorded):
    script.replies = [ScriptedResponse(chunks=sse(RESPONSE, RESPONSE))]

    def read(stream: ChatStream) -> None:
        with stream:
            next(stream)
            raise LookupError

    async def read_async(stream: AsyncChatStream) -> None:
        async with stream:
            await anext(stream)
            raise LookupError

    with Driver(kind, server.url) as driver:
        stream = driver.run(driver.client.chat(HELLO, stream=True))
        with pytest.raises(LookupError):
            driver.run((read_async if driver.is_async else read)(stream))
    assert recorded.call().attributes["error.type"] == "LookupError"


@both
@pytest.mark.parametrize("started", [False, True])
def test_closed_stream_yields_no_chunks(kind, server, script, recorded, started):
    script.replies = [ScriptedResponse(chunks=sse(RESPONSE, RESPONSE))]
    with Driver(kind, server.url) as driver:
        stream = driver.run(driver.client.chat(HELLO, stream=True))
        if started:
            driver.run(anext(stream) if driver.is_async else next(stream))
        driver.run(stream.close())
        assert driver.busy_connections() == 0
        driver.run(stream.close())
        assert driver.listed(stream) == []
    assert "error.type" not in recorded.call().attributes


async def test_destroyed_coroutine_ends_span(recorded):
    async def never(_request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with AsyncLlamaCppClient(NO_SERVER) as client:
        client._connection.http = httpx2.AsyncClient(
            base_url=NO_SERVER, transport=httpx2.MockTransport(never)
        )
        waiting = client.chat(HELLO)
        waiting.send(None)
        waiting.close()
    assert recorded.call().attributes["error.type"] == "GeneratorExit"


@both
def test_abandoned_stream_ends_span(kind, server, script, recorded):
    chunk = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Hi"}}]}
    script.replies = [ScriptedResponse(chunks=sse(*[chunk] * 3))]
    with Driver(kind, server.url) as driver:
        stream = driver.run(driver.client.chat(HELLO, stream=True))
        driver.run(anext(stream)) if driver.is_async else next(stream)
        del stream
        assert recorded.call().attributes["gen_ai.response.id"] == "1"


@both
def test_request_body_has_given_parameters(kind, server):
    with Driver(kind, f"{server.url}/prefix/", api_key="secret", model="smol") as driver:
        driver("chat", iter(HELLO), 5, 0.1, top_k=3, seed=None, tools=[])
        driver("chat", HELLO, max_completion_tokens=7, model="other")
        driver("rerank", "q", ["a"], top_n=1)
        assert "secret" not in repr(driver.client)
    first, second, third = server.asked
    assert first.path == "/prefix/v1/chat/completions"
    assert first.headers["authorization"] == "Bearer secret"
    assert first.body == {
        "messages": HELLO,
        "max_tokens": 5,
        "temperature": 0.1,
        "top_k": 3,
        "tools": [],
        "model": "smol",
    }
    assert second.body == {
        "messages": HELLO,
        "temperature": 0.7,
        "max_completion_tokens": 7,
        "model": "other",
    }
    assert third.body == {"query": "q", "documents": ["a"], "top_n": 1, "model": "smol"}


@both
def test_messages_with_tools_images_and_reasoning_round_trip(kind, server, script):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]
    function = {"name": "look", "arguments": "{}"}
    message = {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    message["tool_calls"] = [{"id": "c", "type": "function", "function": function}]
    script.replies = [
        ScriptedResponse(body={"choices": [{"finish_reason": "tool_calls", "message": message}]})
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    with Driver(kind, server.url) as driver:
        answer = driver("chat", asked, tools=tools, reasoning_format="deepseek").choices[0].message
        assert answer.tool_calls[0].function.name == "look"
        assert answer.reasoning_content == "Hm."
        result = {"role": "tool", "tool_call_id": "c", "content": "A cat"}
        driver("chat", [*asked, answer, result])
    first, second = (each.body for each in server.asked)
    assert first["messages"] == asked
    assert (first["tools"], first["reasoning_format"]) == (tools, "deepseek")
    assert second["messages"] == [*asked, message, result]


@both
def test_request_has_traceparent_of_span(kind, server, recorded):
    with Driver(kind, server.url) as driver:
        driver("chat", HELLO)
        driver("props")
    span = recorded.call()
    trace_id, span_id = f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"
    chat, props = server.asked
    assert chat.headers["traceparent"].startswith(f"00-{trace_id}-{span_id}-")
    assert "traceparent" not in props.headers


@pytest.mark.parametrize("response", [ScriptedResponse(body=RESPONSE), ScriptedResponse(500)])
async def test_call_restores_current_span(server, script, recorded, response):
    script.replies = [response]
    outer = recorded.tracer_provider.get_tracer("t").start_span("outer")
    with trace.use_span(outer), LlamaCppClient(server.url) as client:
        for _ in range(2):
            with suppress(LlamaServerError):
                client.chat(HELLO)
            assert trace.get_current_span() is outer
        async with AsyncLlamaCppClient(server.url) as async_client:
            with suppress(LlamaServerError):
                await async_client.chat(HELLO)
            assert trace.get_current_span() is outer
    assert {span.parent.span_id for span in recorded.calls()} == {outer.context.span_id}


@both
def test_operation_name_is_custom_when_not_strict(kind, server, script, recorded):
    script.replies = [ScriptedResponse(body={"results": []})]
    with Driver(kind, server.url, strict_operation_names=False) as driver:
        driver("rerank", "q", ["a"])
    assert recorded.call().attributes["gen_ai.operation.name"] == "rerank"


@both
def test_model_name_omits_directory(kind, server, recorded):
    with Driver(kind, server.url) as driver:
        driver("chat", HELLO)
        assert driver.client.model_name == "smol.gguf"
    assert recorded.call().attributes["gen_ai.response.model"] == "smol.gguf"


def test_client_rejects_base_url_without_scheme():
    with pytest.raises(ValueError, match="must start with http://"):
        LlamaCppClient("localhost:8080")


def test_error_can_be_pickled_and_copied():
    error = ServerLoadingError(503, "unavailable_error", "Loading model")
    error.n_ctx = 5
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is ServerLoadingError
        assert vars(same) == vars(error)
        assert str(same) == str(error)


def test_client_names_install_command_when_httpx2_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(ImportError, match=r"pip install 'llamatelemetry-core\[llama\]'"):
        LlamaCppClient()


def test_configuration_applies_to_existing_client(server, recorded):
    with LlamaCppClient(server.url) as client:
        client.chat(HELLO)
        try:
            set_active_config(effective_config(provider_name="mine", propagate="off"))
            client.chat(HELLO)
        finally:
            set_active_config(None)
        client.chat(HELLO)
    names = [span.attributes["gen_ai.provider.name"] for span in recorded.calls()]
    assert names == ["llama_cpp", "mine", "llama_cpp"]
    assert ["traceparent" in asked.headers for asked in server.asked] == [True, False, True]


@pytest.mark.parametrize("content", [None, "not a certificate"])
@pytest.mark.parametrize("client_class", [LlamaCppClient, AsyncLlamaCppClient])
def test_constructor_names_variable_when_ca_certificates_cannot_be_read(
    client_class, content, tmp_path, monkeypatch
):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    error = FileNotFoundError if content is None else OSError
    with pytest.raises(error, match=r"SSL_CERT_FILE must be .*ca\.pem.*Correct or unset it"):
        client_class()
