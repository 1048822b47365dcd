"""`GET /props`: sent only if the option `llamacpp_props` is on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.llamacpp_plugin.conftest import wait_for_props
from tests.support import payloads
from tests.support.byte_server import ScriptedHttpServer, chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_cpp_responses import BODY, CHAT, EVENTS
from tests.support.recorder import Recorder

PROPS = json.dumps(
    {
        "build_info": "b7-abc",
        "total_slots": 3,
        "model_path": "/models/smol.gguf",
        "model_alias": "smol-v1",
        "model_ftype": "Q4_1",
        "default_generation_settings": {"n_ctx": 512},
    }
).encode()
FACTS = {
    "llamatelemetry.server.build": "b7-abc",
    "llamatelemetry.server.slots": 3,
    "llamatelemetry.server.model_file": "smol.gguf",
    "llamatelemetry.server.quantization": "Q4_1",
    "llamatelemetry.server.context_length": 512,
}


def call_with_openai(server: ScriptedHttpServer) -> None:
    with openai.OpenAI(base_url=f"{server.origin}/v1", api_key="k", max_retries=0) as client:
        client.chat.completions.create(model="smol", messages=payloads.MESSAGES)


def call_with(name: str, server: ScriptedHttpServer) -> None:
    if name == "openai":
        call_with_openai(server)
    else:
        headers = {"Authorization": "Bearer k"}
        CALLERS[name](CallerRequest(f"{server.origin}/v1/chat/completions", BODY, headers))


@pytest.fixture
def both_plugins(
    instrument: Callable[..., Recorder], recorder: Recorder
) -> Iterator[Callable[..., Recorder]]:
    """Turn the openai plugin on. Return a function that turns this plugin on, with options."""
    OpenAIInstrumentor().instrument(**recorder.providers)
    yield instrument
    OpenAIInstrumentor().uninstrument()


@pytest.mark.parametrize("caller", ["openai", *CALLERS])
@pytest.mark.parametrize("signature", ["header", "timings"])
def test_plugin_sends_no_request_of_its_own_by_default(
    both_plugins: Callable[..., Recorder], caller: str, signature: str
) -> None:
    recorder = both_plugins()
    shown = {} if signature == "header" else {"server": "Server: nginx\r\n"}
    is_stream = caller in STREAMED
    answer = chunked(EVENTS, **shown) if is_stream else plain(CHAT, **shown)
    with scripted(answer, props=PROPS) as server:
        for _ in range(2):
            call_with(caller, server)
        wait_for_props()
    assert server.request_lines == ["POST /v1/chat/completions HTTP/1.1"] * 2
    assert len(recorder.calls()) == 2
    for span in recorder.calls():
        assert not FACTS.keys() & span.attributes.keys()


@pytest.mark.parametrize("caller", ["openai", *CALLERS])
def test_plugin_requests_props_once_when_option_is_on(
    both_plugins: Callable[..., Recorder], caller: str
) -> None:
    recorder = both_plugins(llamacpp_props=True)
    answer = chunked(EVENTS) if caller in STREAMED else plain(CHAT)
    with scripted(answer, props=PROPS) as server:
        for _ in range(3):
            call_with(caller, server)
            wait_for_props()
    assert sorted(server.request_lines) == [
        "GET /props HTTP/1.1",
        *["POST /v1/chat/completions HTTP/1.1"] * 3,
    ]
    (request,) = server.other_requests
    assert (
        b"authorization: bearer k" in request.lower()
    )  # The credentials of the application's own request.
    assert b"traceparent" not in request.lower()
    _, *later = recorder.calls()
    for span in later:
        found: dict[str, Any] = {name: span.attributes.get(name) for name in FACTS}
        assert found == FACTS


def test_environment_variable_turns_the_option_on(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, instrument: Callable[..., Recorder]
) -> None:
    monkeypatch.setenv("LLAMATELEMETRY_LLAMACPP_PROPS", "true")
    instrument()
    with scripted(plain(CHAT), props=PROPS) as server:
        call_with("httpx2", server)
        wait_for_props()
    assert len(server.other_requests) == 1
