"""Servers with variants of the protocol, and how the provider is detected.

The responses have the formats in each server's documentation. The types of the installed client
must accept them.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.openai_operations import VERSION
from tests.support.recorder import Recorder


def _message(**message: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Hi", **message},
        }
    ]


def _first_choice(**more: Any) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop", **more}]


_COUNTS = {"prompt_tokens": 21, "completion_tokens": 5, "total_tokens": 26}
_AZURE_FILTER = {
    name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "violence")
}
PLAIN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai": (
        payloads.chat(
            choices=_message(refusal=None, annotations=[]),
            service_tier="default",
            system_fingerprint="fp_1",
            usage={
                **_COUNTS,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 2,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 1,
                    "rejected_prediction_tokens": 1,
                },
            },
        ),
        {
            "gen_ai.usage.cache_read.input_tokens": 0,
            "gen_ai.usage.audio.input_tokens": 0,
            "gen_ai.usage.audio.output_tokens": 0,
            "gen_ai.usage.reasoning.output_tokens": 2,
            "openai.response.service_tier": "default",
            "openai.response.system_fingerprint": "fp_1",
        },
    ),
    "azure": (
        payloads.chat(
            choices=[{**_message()[0], "content_filter_results": _AZURE_FILTER, "logprobs": None}],
            prompt_filter_results=[{"prompt_index": 0, "content_filter_results": _AZURE_FILTER}],
            system_fingerprint="fp_2",
            usage=_COUNTS,
        ),
        {"openai.response.system_fingerprint": "fp_2"},
    ),
    "vllm": (
        payloads.chat(
            choices=[
                {
                    **_message(reasoning_content="Hm.", tool_calls=[])[0],
                    "stop_reason": None,
                    "token_ids": None,
                }
            ],
            usage={**_COUNTS, "prompt_tokens_details": None},
            prompt_logprobs=None,
            kv_transfer_params=None,
        ),
        {},
    ),
    "ollama": (
        payloads.chat(
            choices=_message(reasoning="Hm."), system_fingerprint="fp_ollama", usage=_COUNTS
        ),
        {"gen_ai.provider.name": "ollama"},
    ),
    "deepseek": (
        payloads.chat(
            choices=_message(reasoning_content="Hm."),
            system_fingerprint="fp_3",
            usage={
                **_COUNTS,
                "prompt_cache_hit_tokens": 16,
                "prompt_cache_miss_tokens": 5,
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
        ),
        {
            "gen_ai.usage.cache_read.input_tokens": 16,
            "gen_ai.usage.reasoning.output_tokens": 2,
            "openai.response.system_fingerprint": "fp_3",
        },
    ),
    "xai": (
        payloads.chat(
            choices=_message(),
            usage={
                **_COUNTS,
                "prompt_tokens_details": {
                    "text_tokens": 12,
                    "image_tokens": 9,
                    "audio_tokens": 0,
                    "cached_tokens": 4,
                },
            },
        ),
        {
            "gen_ai.usage.text.input_tokens": 12,
            "gen_ai.usage.image.input_tokens": 9,
            "gen_ai.usage.audio.input_tokens": 0,
            "gen_ai.usage.cache_read.input_tokens": 4,
        },
    ),
    "litellm": (
        payloads.chat(
            choices=_message(),
            usage={**_COUNTS, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 4},
        ),
        {"gen_ai.usage.cache_read.input_tokens": 4, "gen_ai.usage.cache_write.input_tokens": 3},
    ),
}
STREAMED: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "azure": (
        [
            {
                "id": "",
                "object": "",
                "created": 0,
                "model": "",
                "choices": [],
                "prompt_filter_results": [
                    {"prompt_index": 0, "content_filter_results": _AZURE_FILTER}
                ],
            },
            *payloads.chat_chunks(),
            {**payloads.chunk({}), "choices": [], "usage": _COUNTS},
        ],
        {},
    ),
    "vllm": (
        [
            payloads.chunk({"role": "assistant", "content": ""}),
            payloads.chunk({"reasoning_content": "Hm."}, usage={**_COUNTS, "completion_tokens": 1}),
            payloads.chunk({"content": "Hi"}, "stop", usage={**_COUNTS, "completion_tokens": 3}),
            {**payloads.chunk({}), "choices": [], "usage": _COUNTS},
        ],
        {},
    ),
    "ollama": (
        [
            payloads.chunk({"role": "assistant", "content": "", "reasoning": "Hm."}),
            payloads.chunk({"role": "assistant", "content": "Hi"}),
            payloads.chunk({"role": "assistant", "content": ""}, "stop"),
            {**payloads.chunk({}), "choices": [], "usage": _COUNTS},
        ],
        {},
    ),
    "deepseek": (
        [
            payloads.chunk({"role": "assistant", "content": None, "reasoning_content": "Hm."}),
            payloads.chunk(
                {"content": "Hi"}, "stop", usage={**_COUNTS, "prompt_cache_hit_tokens": 16}
            ),
        ],
        {"gen_ai.usage.cache_read.input_tokens": 16},
    ),
    "groq": (
        [
            payloads.chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1"}),
            payloads.chunk({"content": "Hi"}),
            payloads.chunk({}, "stop", x_groq={"id": "req_1", "usage": _COUNTS}),
        ],
        {"gen_ai.provider.name": "groq"},
    ),
    "moonshot": (
        [
            payloads.chunk({"role": "assistant", "content": ""}),
            {**payloads.chunk({}), "choices": _first_choice(usage=_COUNTS)},
        ],
        {},
    ),
}
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "smol",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.model": "smol-v1",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 21,
    "gen_ai.usage.output_tokens": 5,
    "openai.api.type": "chat_completions",
    "server.address": "llm.test",
    "server.port": 8080,
}


def expected(found: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a chat span, without `openai.*` if the provider is another one."""
    attributes = {**CHAT, **found}
    is_openai = attributes["gen_ai.provider.name"] == "openai"
    return {k: v for k, v in attributes.items() if is_openai or not k.startswith("openai.")}


@pytest.mark.parametrize("server", PLAIN)
def test_plain_response_of_provider_is_fully_recorded(instrumented: Recorder, server: str) -> None:
    reply, found = PLAIN[server]
    ChatCompletion.model_validate(reply)
    client = payloads.client(lambda _: payloads.json_response(reply))
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert dict(instrumented.call().attributes or {}) == expected(found)


@pytest.mark.parametrize("server", STREAMED)
def test_stream_of_provider_is_fully_recorded(instrumented: Recorder, server: str) -> None:
    chunks, found = STREAMED[server]
    for chunk in chunks:
        ChatCompletionChunk.model_validate({**chunk, "object": "chat.completion.chunk"})
    client = payloads.client(lambda _: payloads.stream_response(payloads.sse(chunks)))
    list(client.chat.completions.create(model="smol", messages=payloads.MESSAGES, stream=True))
    seen = dict(instrumented.call().attributes or {})
    assert seen.pop("gen_ai.response.time_to_first_chunk") > 0
    assert seen == expected({"gen_ai.request.stream": True, **found})


def test_stream_of_several_choices_has_finish_reason_for_each(instrumented: Recorder) -> None:
    def of(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        return {**payloads.chunk({}), "choices": [choice]}

    chunks = [
        of(0, {"role": "assistant"}),
        of(1, {"content": "b"}),
        of(2, {"content": "c"}, "length"),
        of(0, {"content": "a"}, "stop"),
        {**payloads.chunk({}), "choices": [], "usage": _COUNTS},
    ]
    client = payloads.client(lambda _: payloads.stream_response(payloads.sse(chunks)))
    list(client.chat.completions.create(model="smol", messages=payloads.MESSAGES, stream=True, n=3))
    found = instrumented.call().attributes or {}
    assert found["gen_ai.request.choice.count"] == 3
    # The second choice has no finish reason.
    assert found["gen_ai.response.finish_reasons"] == ("stop", "error", "length")


def test_vllm_embeddings_record_response_id(instrumented: Recorder) -> None:
    reply = payloads.embeddings(id="embd-1", created=1)
    CreateEmbeddingResponse.model_validate(reply)
    payloads.client(lambda _: payloads.json_response(reply)).embeddings.create(model="e", input="a")
    assert (instrumented.call().attributes or {})["gen_ai.response.id"] == "embd-1"


def azure(handler: payloads.Handler, **options: Any) -> openai.AzureOpenAI:
    options = {"api_version": "2026-01-01", "api_key": "sk-secret", "max_retries": 0, **options}
    transport = payloads.http.MockTransport(handler)
    return openai.AzureOpenAI(http_client=payloads.http.Client(transport=transport), **options)


ENDPOINT = "https://mine.openai.azure.com"


@pytest.mark.parametrize(
    ("options", "url", "address"),
    [
        (
            {"azure_endpoint": ENDPOINT},
            f"{ENDPOINT}/openai/deployments/smol/chat/completions",
            "mine.openai.azure.com",
        ),
        (
            {"azure_endpoint": ENDPOINT, "azure_deployment": "mine"},
            f"{ENDPOINT}/openai/deployments/mine/chat/completions",
            "mine.openai.azure.com",
        ),
        (
            {"base_url": "https://gateway.test/openai"},
            "https://gateway.test/openai/deployments/smol/chat/completions",
            "gateway.test",
        ),
        (
            {"azure_endpoint": "https://mine.services.ai.azure.com"},
            "https://mine.services.ai.azure.com/openai/deployments/smol/chat/completions",
            "mine.services.ai.azure.com",
        ),
    ],
)
def test_azure_client_has_azure_provider_for_any_url(
    instrumented: Recorder, options: dict[str, Any], url: str, address: str
) -> None:
    requested: list[str] = []

    def handler(request: Any) -> Any:
        requested.append(str(request.url).partition("?")[0])
        return payloads.json_response(PLAIN["azure"][0])

    azure(handler, **options).chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert requested == [url]
    assert dict(instrumented.call().attributes or {}) == {
        **CHAT,
        "gen_ai.provider.name": "azure.ai.openai",
        "openai.response.system_fingerprint": "fp_2",
        "server.address": address,
        "server.port": 443,
    }


async def test_asynchronous_azure_client_has_azure_provider(instrumented: Recorder) -> None:
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=ENDPOINT,
        api_version="2026-01-01",
        api_key="sk-secret",
        http_client=payloads.http.AsyncClient(
            transport=payloads.http.MockTransport(
                lambda _: payloads.stream_response(payloads.sse(STREAMED["azure"][0]))
            )
        ),
    )
    stream = await client.chat.completions.create(
        model="smol", messages=payloads.MESSAGES, stream=True
    )
    assert len([chunk async for chunk in stream]) == 6
    found = instrumented.call().attributes or {}
    assert found["gen_ai.provider.name"] == "azure.ai.openai"
    assert found["gen_ai.response.model"] == "smol-v1"
    assert found["gen_ai.usage.output_tokens"] == 5
    (gaps,) = instrumented.points("gen_ai.client.operation.time_per_output_chunk")
    assert gaps.attributes["gen_ai.response.model"] == "smol-v1"


def test_azure_deployment_is_model_when_body_has_none(
    instrumented: Recorder,
) -> None:
    client = azure(
        lambda _: payloads.json_response(payloads.transcript()),
        azure_endpoint=ENDPOINT,
        azure_deployment="my-ear",
    )
    client.post("/audio/transcriptions", cast_to=object, body={"prompt": "Hi"})
    assert instrumented.call().name == "generate_content my-ear"


@pytest.mark.skipif(VERSION < (1, 66), reason="this client has no responses")
def test_fetch_response_has_no_model_of_azure_deployment(
    instrumented: Recorder,
) -> None:
    client = azure(
        lambda _: payloads.json_response(payloads.response()),
        azure_endpoint=ENDPOINT,
        azure_deployment="mine",
    )
    client.responses.retrieve("resp_1")
    span = instrumented.call()
    assert span.name == "fetch_response"
    assert "gen_ai.request.model" not in (span.attributes or {})


def test_azure_header_names_served_model(instrumented: Recorder) -> None:
    reply = payloads.chat(model="my-deployment")
    client = azure(
        lambda _: payloads.json_response(reply, **{"x-ms-served-model": "gpt-6-2026-01-01"}),
        azure_endpoint=ENDPOINT,
    )
    client.chat.completions.create(model="my-deployment", messages=payloads.MESSAGES)
    found = instrumented.call().attributes or {}
    assert found["gen_ai.request.model"] == "my-deployment"
    assert found["gen_ai.response.model"] == "gpt-6-2026-01-01"


@pytest.mark.parametrize(
    ("url", "provider", "address", "port"),
    [
        ("https://api.openai.com/v1", "openai", "api.openai.com", 443),
        ("https://eu.api.openai.com/v1", "openai", "eu.api.openai.com", 443),
        ("https://api.groq.com/openai/v1", "groq", "api.groq.com", 443),
        ("https://api.deepseek.com", "deepseek", "api.deepseek.com", 443),
        ("https://api.moonshot.ai/v1", "moonshot_ai", "api.moonshot.ai", 443),
        ("https://mine.services.ai.azure.com/openai/v1", "azure.ai.openai", None, 443),
        ("https://mine.services.ai.azure.com/models", "azure.ai.inference", None, 443),
        ("http://localhost:11434/v1", "openai", "localhost", 11434),
        ("http://127.0.0.1/v1", "openai", "127.0.0.1", 80),
        ("http://[::1]:8000/v1", "openai", "::1", 8000),
        ("http://user:SECRET@host.test/v1", "openai", "host.test", 80),
        ("https://UPPER.test:8443/a/b/c/", "openai", "upper.test", 8443),
        ("http+unix://%2Frun%2Fllm.sock/v1", "openai", "/run/llm.sock", None),
    ],
)
def test_server_and_provider_are_parsed_from_url(
    instrumented: Recorder, url: str, provider: str, address: str | None, port: int | None
) -> None:
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()), base_url=url)
    client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    span = instrumented.call()
    found = span.attributes or {}
    assert found["gen_ai.provider.name"] == provider
    assert found["server.address"] == (address or "mine.services.ai.azure.com")
    assert found.get("server.port") == port
    assert ("openai.api.type" in found) is (provider in {"openai", "azure.ai.openai"})
    assert "SECRET" not in span.to_json()


@contextlib.contextmanager
def serving_on(path: Path) -> Iterator[None]:
    """Serve one chat on a Unix socket."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps(payloads.chat()).encode()
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    with socketserver.UnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("is_mounted", [False, True], ids=["transport", "mount"])
def test_unix_socket_is_recorded_as_server_address(
    instrumented: Recorder, socket_path: Path, is_mounted: bool
) -> None:
    transport = payloads.http.HTTPTransport(uds=str(socket_path))
    options = {"mounts": {"http://": transport}} if is_mounted else {"transport": transport}
    with (
        serving_on(socket_path),
        openai.OpenAI(
            base_url="http://localhost/v1",
            api_key="sk-secret",
            http_client=payloads.http.Client(**options),
        ) as client,
    ):
        client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert dict(instrumented.call().attributes or {}) == {
        name: str(socket_path) if name == "server.address" else value
        for name, value in CHAT.items()
        if name != "server.port"
    } | {
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.usage.reasoning.output_tokens": 2,
    }


def test_configured_provider_name_takes_precedence(recorder: Recorder) -> None:
    config = LlamaTelemetryConfig(provider_name="ours")
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        reply = payloads.chat(timings=payloads.TIMINGS)
        client = azure(
            lambda _: payloads.json_response(reply, server="llama.cpp"),
            azure_endpoint=ENDPOINT,
        )
        client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    finally:
        OpenAIInstrumentor().uninstrument()
    assert (recorder.call().attributes or {})["gen_ai.provider.name"] == "ours"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("owner", "provider"), [("llamacpp", "llama_cpp"), ("vllm", "openai")])
async def test_models_list_identifies_provider(
    instrumented: Recorder, is_async: bool, owner: str, provider: str
) -> None:
    models = {"object": "list", "data": [{"id": "smol", "object": "model", "owned_by": owner}]}

    def handler(request: Any) -> Any:
        listing = request.url.path.endswith("/models")
        return payloads.json_response(models if listing else payloads.chat())

    if is_async:
        client = payloads.async_client(handler)
        assert [model.owned_by async for model in client.models.list()] == [owner]
        await client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    else:
        sync_client = payloads.client(handler)
        assert [model.owned_by for model in sync_client.models.list()] == [owner]
        sync_client.chat.completions.create(model="smol", messages=payloads.MESSAGES)
    assert (instrumented.call().attributes or {})["gen_ai.provider.name"] == provider


@pytest.mark.parametrize("body", [None, [], {"data": None}, {"data": [3]}, {"data": "x"}])
def test_unexpected_models_list_is_returned_unchanged(instrumented: Recorder, body: Any) -> None:
    def outcome() -> str:
        client = payloads.client(lambda _: payloads.json_response(body))
        try:
            return repr(client.models.list())
        except Exception as error:  # The client may raise any error.
            return repr(error)

    seen = outcome()
    OpenAIInstrumentor().uninstrument()
    assert seen == outcome()
    assert instrumented.spans() == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_error_response_identifies_provider(instrumented: Recorder, is_async: bool) -> None:
    """llama.cpp returns such an error while it loads its model."""
    error = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}

    def handler(_: Any) -> Any:
        return payloads.json_response(error, 503, server="llama.cpp")

    async def ask() -> None:
        if is_async:
            await payloads.async_client(handler).embeddings.create(model="smol", input="Hi")
        else:
            payloads.client(handler).embeddings.create(model="smol", input="Hi")

    with pytest.raises(openai.InternalServerError):
        await ask()
    found = instrumented.call().attributes or {}
    assert found["gen_ai.provider.name"] == "llama_cpp"
    assert found["error.type"] == "unavailable_error"


def test_openai_attributes_are_left_out_for_other_providers(instrumented: Recorder) -> None:
    reply = payloads.chat(system_fingerprint="b1", service_tier="default")
    client = payloads.client(lambda _: payloads.json_response(reply, server="llama.cpp"))
    client.chat.completions.create(
        model="smol", messages=payloads.MESSAGES, extra_body={"service_tier": "flex"}
    )
    assert "openai." not in json.dumps(list(instrumented.call().attributes or {}))
