"""Detection of servers and providers from URLs, host names, headers and model lists."""

from __future__ import annotations

import httpx2
import pytest

from llamatelemetry.genai import (
    Server,
    is_loopback,
    provider_from_headers,
    provider_from_models,
    server_of,
)
from llamatelemetry.genai.servers import KnownServers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (("http", "localhost", 8080), Server("localhost", 8080, "http://localhost:8080")),
        (("http", "localhost", None), Server("localhost", 80, "http://localhost:80")),
        (("https", "api.openai.com", None), Server("api.openai.com", 443, "https://api.openai.com:443")),
        (("https", "api.openai.com", 443), Server("api.openai.com", 443, "https://api.openai.com:443")),
        (("unix", "socket", None), Server("socket", None, "unix://socket:None")),
        (("http", "::1", 8080), Server("::1", 8080, "http://::1:8080")),
        (("http", "", 8080), None),
    ],
)  # fmt: skip
def test_server_of_returns_server_of_url(url, expected):
    assert server_of(*url) == expected


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("eu.api.openai.com", "openai"),
        ("mine.openai.azure.com", "azure.ai.openai"),
        ("mine.cognitiveservices.azure.com", "azure.ai.openai"),
        ("mine.services.ai.azure.com", "azure.ai.inference"),
        ("api.groq.com", "groq"),
        ("api.deepseek.com", "deepseek"),
        ("api.mistral.ai", "mistral_ai"),
        ("api.x.ai", "x_ai"),
        ("api.perplexity.ai", "perplexity"),
        ("api.cohere.com", "cohere"),
        ("api.moonshot.cn", "moonshot_ai"),
        ("api.anthropic.com", "anthropic"),
        ("generativelanguage.googleapis.com", "gcp.gemini"),
        ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("localhost", "the default"),
        ("notapi.openai.com", "the default"),
        ("api.openai.com.example.org", "the default"),
        ("api.openai.com.", "openai"),
        ("mine.openai.azure.us", "azure.ai.openai"),
        ("models.inference.ai.azure.com", "azure.ai.inference"),
        ("aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("bedrock-mantle.us-east-1.api.aws", "aws.bedrock"),
        ("s3.us-east-1.amazonaws.com", "the default"),
        ("us-south.ml.cloud.ibm.com", "ibm.watsonx.ai"),
    ],
)
def test_provider_of_recognizes_host_name(host, provider):
    server = server_of("https", host, None)
    assert KnownServers().provider_of(server, "the default") == provider


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/openai/v1/", "azure.ai.openai"),
        ("/models/", "azure.ai.inference"),
        ("/", "azure.ai.inference"),
    ],
)
def test_azure_host_has_provider_by_path(path, provider):
    server = server_of("https", "mine.services.ai.azure.com", None, path=path)
    assert KnownServers().provider_of(server, "the default") == provider


def test_provider_of_client_library_overrides_host_name():
    server = server_of("https", "api.openai.com", None, provider="azure.ai.openai")
    assert KnownServers().provider_of(server, "the default") == "azure.ai.openai"
    assert server == server_of("https", "api.openai.com", None)


@pytest.mark.parametrize(
    ("url", "socket", "address"),
    [
        (("http", "localhost", None), "/run/llm.sock", "/run/llm.sock"),
        (("http", "", 8080), "/run/llm.sock", "/run/llm.sock"),
        (("http+unix", "%2frun%2fllm.sock", None), None, "/run/llm.sock"),
    ],
)
def test_unix_socket_has_address_and_no_port(url, socket, address):
    assert server_of(*url, socket=socket) == Server(address, None, f"unix:{address}")


@pytest.mark.parametrize(
    ("models", "provider"),
    [
        ({"data": [{"id": "smol", "owned_by": "llamacpp"}]}, "llama_cpp"),
        ({"data": [{"id": "smol", "owned_by": "vllm"}]}, None),
        ({"data": [{"id": "smol"}]}, None),
        ({"data": [3]}, None),
        ({"data": []}, None),
        ({"data": None}, None),
        (None, None),
    ],
)
def test_provider_from_models_recognizes_llama_cpp_owner(models, provider):
    assert provider_from_models(models) == provider


def test_provider_of_returns_default_when_server_is_unknown():
    assert KnownServers().provider_of(None, "openai") == "openai"


def test_remembered_provider_overrides_host_name_until_forgotten():
    known, server = KnownServers(), server_of("https", "api.openai.com", None)
    assert server is not None
    known.remember(server, "llama_cpp")
    assert known.provider_of(server, "x") == "llama_cpp"
    assert known.provider_of(server_of("https", "api.openai.com", 8443), "x") == "openai"
    known.remember(server, "openai")
    assert known.provider_of(server, "x") == "openai"
    known.remember(server, "llama_cpp")
    known.forget()
    assert known.provider_of(server, "x") == "openai"


def test_number_of_remembered_servers_is_bounded():
    known = KnownServers()
    servers = [server_of("http", "localhost", port) for port in range(1, 3000)]
    for server in servers:
        assert server is not None
        known.remember(server, "llama_cpp")
    remembered = [known.provider_of(server, "x") for server in servers].count("llama_cpp")
    assert remembered == 1024
    assert known.provider_of(servers[-1], "x") == "llama_cpp"


def test_changed_provider_evicts_no_other_server():
    known = KnownServers()
    servers = [server_of("http", "localhost", port) for port in range(1, 1025)]
    for server in servers:
        assert server is not None
        known.remember(server, "llama_cpp")
    assert servers[-1] is not None
    known.remember(servers[-1], "openai")
    assert known.provider_of(servers[0], "x") == "llama_cpp"


@pytest.mark.parametrize(
    ("headers", "provider"),
    [
        ({"Server": "llama.cpp"}, "llama_cpp"),
        ({"server": "llama.cpp"}, "llama_cpp"),
        ({"Server": "nginx"}, None),
        ({}, None),
    ],
)
def test_provider_from_headers_recognizes_llama_cpp(headers, provider):
    assert provider_from_headers(httpx2.Headers(headers)) == provider


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(
            (each, True)
            for each in ("127.0.0.1", "127.1.2.3", "localhost", "LocalHost", "localhost.")
        ),
        *((each, True) for each in ("::1", "[::1]", "::ffff:127.0.0.1", "0.0.0.0", "::")),
        *((each, False) for each in ("127.example.com", "127.0.0.1.nip.test", "localhost.test")),
        *((each, False) for each in ("10.0.0.1", "::2", "", None)),
    ],
)
def test_is_loopback_accepts_only_addresses_of_this_machine(host, expected):
    assert is_loopback(host) is expected
