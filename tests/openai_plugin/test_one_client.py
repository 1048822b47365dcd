"""Instrumentation of one client and its copies only."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import openai
import pytest

from llamatelemetry.llama import unwrap_openai_client, wrap_openai_client
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor, instrument_client
from tests.support import payloads
from tests.support.loopback_server import Loopback, ReceivedRequest, ScriptedResponse, loopback, sse

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hi"}}],
}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}
    ],
}
MODERATION = {"id": "1", "model": "m", "results": []}

both = pytest.mark.parametrize("make", [openai.OpenAI, openai.AsyncOpenAI])


def answer(asked: ReceivedRequest) -> ScriptedResponse:
    if asked.path == "/moderations":
        return ScriptedResponse(body=MODERATION)
    return (
        ScriptedResponse(chunks=sse(CHUNK, CHUNK))
        if asked.body.get("stream")
        else ScriptedResponse(body=ANSWER)
    )


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback(answer) as server:
        yield server


@pytest.fixture
def plugin(recorder) -> Iterator[OpenAIInstrumentor]:
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield OpenAIInstrumentor()
    if OpenAIInstrumentor().is_instrumented_by_opentelemetry:
        OpenAIInstrumentor().uninstrument()


def calls(*clients: Any, streamed: bool = False) -> None:
    """Make one complete call with each client and close the clients."""

    async def one_async(client: openai.AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(model="m", messages=HELLO, stream=streamed)
        if streamed:
            assert len([chunk async for chunk in reply]) == 2
        await client.close()

    async def all_async() -> None:
        for client in clients:
            await one_async(client)

    if isinstance(clients[0], openai.AsyncOpenAI):
        asyncio.run(all_async())
        return
    for client in clients:
        reply = client.chat.completions.create(model="m", messages=HELLO, stream=streamed)
        if streamed:
            assert len(list(reply)) == 2
        client.close()


def new(make: Any, server: Loopback) -> Any:
    return make(base_url=server.url, api_key="k", max_retries=0)


@both
@pytest.mark.parametrize("streamed", [False, True])
def test_only_wrapped_client_is_recorded(make, streamed, server, recorded):
    wrapped, other = new(make, server), new(make, server)
    assert wrap_openai_client(wrapped) is wrapped
    assert type(wrapped) is make
    calls(wrapped, other, streamed=streamed)
    span = recorded.call()
    assert span.name == "chat m"
    assert span.instrumentation_scope.name == "llamatelemetry_instrumentation_openai"
    assert ("gen_ai.request.stream" in span.attributes) is streamed
    assert "http.request.resend_count" not in span.attributes


@both
def test_resource_obtained_before_wrapping_is_recorded(make, server, recorded):
    client = new(make, server)
    resource = client.chat.completions
    wrap_openai_client(client)
    assert client.chat.completions is resource
    calls(client)
    assert len(recorded.calls()) == 1


@both
@pytest.mark.parametrize("how", ["copy", "with_options"])
def test_copies_of_wrapped_client_are_recorded(make, how, server, recorded):
    client = wrap_openai_client(new(make, server))
    first = getattr(client, how)(timeout=5)
    second = getattr(first, how)(timeout=6)
    calls(second)
    assert len(recorded.calls()) == 1
    unwrap_openai_client(second)
    assert not any("llamatelemetry" in name for name in vars(second))


def new_copy(client: Any, server: Loopback) -> Any:
    """Return a `copy.copy` of a client, with a server and a key of its own."""
    copied = copy.copy(client)
    copied.base_url = server.url
    copied.api_key = "key-of-copy"
    return copied


@both
@pytest.mark.parametrize("is_wrapped_later", [False, True])
def test_shallow_copy_of_wrapped_client_uses_its_own_server_and_key(
    make, is_wrapped_later, server, recorded
):
    client = new(make, server)
    with loopback(answer) as other:
        if is_wrapped_later:
            copied = wrap_openai_client(new_copy(client, other))
        else:
            copied = new_copy(wrap_openai_client(client), other)
        assert copied.request.__self__ is copied
        calls(copied.copy(max_retries=0))
        assert server.asked == []
        assert [each.headers["authorization"] for each in other.asked] == ["Bearer key-of-copy"]
        span = recorded.call()
        assert f"http://127.0.0.1:{span.attributes['server.port']}" == other.url
    unwrap_openai_client(copied)
    unwrap_openai_client(client)


def class_members() -> dict[str, Any]:
    return {kind.__name__: dict(vars(kind)) for kind in (openai.OpenAI, openai.AsyncOpenAI)}


@both
def test_wrapping_leaves_methods_of_client_in_its_class(make, server):
    client, before = new(make, server), class_members()
    own = set(vars(client))
    wrap_openai_client(client)
    assert len(set(vars(client)) - own) == 1  # The mark.
    assert make.copy is make.with_options
    assert pickle.loads(pickle.dumps(make.with_options)) is make.copy
    with mock.patch.object(client, "request") as request:
        assert client.request is request
    assert "request" not in vars(client)
    unwrap_openai_client(client)
    assert class_members() == before


@pytest.mark.skipif(
    not hasattr(openai, "BedrockOpenAI"), reason="this openai has no Bedrock client"
)
@pytest.mark.parametrize("how", ["copy", "with_options"])
@pytest.mark.parametrize("name", ["AzureOpenAI", "BedrockOpenAI"])
def test_copies_of_wrapped_clients_of_clouds_are_recorded(name, how, server, recorded):
    options = {"api_version": "2024-10-21"} if name == "AzureOpenAI" else {}
    client = getattr(openai, name)(base_url=server.url, api_key="k", max_retries=0, **options)
    calls(getattr(wrap_openai_client(client), how)(timeout=5))
    assert len(recorded.calls()) == 1
    unwrap_openai_client(client)


class PicklableClient(openai.OpenAI):
    """A client that leaves its HTTP client out of pickles."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_client"}


LOADER = """
import pickle, sys
sys.modules["llamatelemetry"] = sys.modules["llamatelemetry_instrumentation_openai"] = None
print(pickle.load(sys.stdin.buffer)["api_key"])
"""


def test_pickle_of_wrapped_client_loads_without_llamatelemetry(server):
    client = PicklableClient(base_url=server.url, api_key="k")
    try:
        pickle.dumps(client)
    except pickle.PicklingError:
        pytest.skip("no client of this version of openai can be pickled")
    state = pickle.dumps(wrap_openai_client(client).__getstate__())
    command = [sys.executable, "-c", LOADER]
    done = subprocess.run(command, input=state, capture_output=True, check=True)
    assert done.stdout.split() == [b"k"]
    loaded = pickle.loads(pickle.dumps(client))
    loaded._client = client._client
    calls(loaded)
    calls(wrap_openai_client(new(openai.OpenAI, server)))
    unwrap_openai_client(client)


def test_calls_of_unwrapped_client_inside_wrapped_call_belong_to_no_span(server, recorded):
    inner = new(openai.OpenAI, server)

    class Transport(payloads.http.BaseTransport):
        def handle_request(self, _request: Any) -> Any:
            calls(inner)
            return payloads.json_response(ANSWER)

    http_client = payloads.http.Client(transport=Transport())
    client = wrap_openai_client(openai.OpenAI(api_key="k", http_client=http_client))
    calls(client)
    assert "http.request.resend_count" not in recorded.call().attributes
    unwrap_openai_client(client)


@both
def test_wrapping_twice_records_one_span(make, server, recorded):
    client = new(make, server)
    before = set(vars(client))
    calls(wrap_openai_client(wrap_openai_client(client)))
    assert len(recorded.calls()) == 1
    unwrap_openai_client(client)
    assert set(vars(client)) - before <= {"chat"}  # Newer clients create the resource on first use.


@both
@pytest.mark.parametrize("streamed", [False, True])
def test_wrapped_client_records_one_span_and_attempt_when_plugin_is_active(
    make, streamed, server, recorded, plugin
):
    client = wrap_openai_client(new(make, server))
    calls(client, streamed=streamed)
    assert "http.request.resend_count" not in recorded.call().attributes
    assert [point.count for point in recorded.points("gen_ai.client.operation.duration")] == [1]


@both
def test_wrapped_client_is_recorded_before_and_after_plugin_is_active(
    make, server, recorded, recorder
):
    first, second = (wrap_openai_client(new(make, server)) for _ in range(2))
    OpenAIInstrumentor().instrument(**recorder.providers)
    calls(first)
    assert "http.request.resend_count" not in recorded.call().attributes
    OpenAIInstrumentor().uninstrument()
    calls(second)
    assert len(recorded.calls()) == 2


@both
def test_client_wrapped_during_plugin_is_recorded_after_uninstrument(
    make, server, recorded, plugin
):
    client = wrap_openai_client(new(make, server))
    plugin.uninstrument()
    calls(client)
    assert len(recorded.calls()) == 1


@both
def test_methods_of_wrapped_client_are_copied_and_compared_like_original(make, server):
    client, bare = new(make, server), new(make, server)
    wrap_openai_client(client)
    for name in ("request", "copy", "with_options", "_prepare_request"):
        method, original = getattr(client, name), getattr(bare, name)
        assert type(method) is type(original) is types.MethodType
        assert method.__self__ is client
        assert method == getattr(client, name)
        assert copy.copy(method) == method
        assert inspect.signature(method) == inspect.signature(original)
        assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(original)
        assert method.__reduce__()[0] is getattr
    for each in (client, bare):
        asyncio.run(each.close()) if make is openai.AsyncOpenAI else each.close()


@both
def test_unwrapping_restores_client(make, server, recorded):
    client = new(make, server)
    before = set(vars(client))
    assert unwrap_openai_client(wrap_openai_client(client)) is client
    assert set(vars(client)) == before
    assert unwrap_openai_client(client) is client
    calls(client)
    assert recorded.calls() == []


def test_unwrapping_keeps_foreign_wrapper_and_disables_own(server, recorded):
    client = wrap_openai_client(new(openai.OpenAI, server))
    own, seen = client.request, []

    def other_wrapper(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        return own(*args, **kwargs)

    client.request = other_wrapper
    unwrap_openai_client(client)
    calls(client)
    assert len(seen) == 1
    assert recorded.calls() == []


def test_strict_operation_names_are_set_per_client(server, recorded):
    strict = wrap_openai_client(new(openai.OpenAI, server))
    loose = wrap_openai_client(new(openai.OpenAI, server), strict_operation_names=False)
    for client in (strict, loose):
        client.moderations.create(input="x")
        client.close()
    names = [span.attributes.get("gen_ai.operation.name") for span in recorded.calls()]
    assert names == [None, "moderation"]


def test_wrapping_rejects_client_of_other_library():
    with pytest.raises(
        TypeError, match=r"client must be an openai\.OpenAI or openai\.AsyncOpenAI, got"
    ):
        wrap_openai_client(object())


def test_wrapping_changes_nothing_when_sdk_is_disabled(monkeypatch, server):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    client = new(openai.OpenAI, server)
    before = set(vars(client))
    instrument_client(client)
    assert set(vars(client)) == before
    client.close()


def test_wrapping_names_missing_package_when_plugin_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "llamatelemetry_instrumentation_openai", None)
    with pytest.raises(ImportError, match="pip install llamatelemetry-instrumentation-openai"):
        wrap_openai_client(object())
