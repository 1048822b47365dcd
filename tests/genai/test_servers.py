"""What is known about servers: by host name, by headers, learned from replies."""

from __future__ import annotations

import httpx2
import pytest

from llamatelemetry.genai import Server, provider_from_headers, provider_from_models, server_of
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
def test_a_server_is_described_by_its_url(url, expected):
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
def test_a_provider_is_known_by_its_host_name(host, provider):
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
def test_one_host_of_azure_serves_two_providers_which_the_path_tells_apart(path, provider):
    server = server_of("https", "mine.services.ai.azure.com", None, path=path)
    assert KnownServers().provider_of(server, "the default") == provider


def test_what_the_client_is_for_is_stronger_than_the_name():
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
def test_a_unix_socket_is_an_address_without_a_port(url, socket, address):
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
def test_llama_cpp_owns_the_models_it_lists(models, provider):
    assert provider_from_models(models) == provider


def test_without_a_server_there_is_only_the_default():
    assert KnownServers().provider_of(None, "openai") == "openai"


def test_what_a_reply_has_proved_is_stronger_than_the_name_and_can_be_forgotten():
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


def test_ever_new_origins_do_not_grow_the_memory():
    known = KnownServers()
    servers = [server_of("http", "localhost", port) for port in range(1, 3000)]
    for server in servers:
        assert server is not None
        known.remember(server, "llama_cpp")
    remembered = [known.provider_of(server, "x") for server in servers].count("llama_cpp")
    assert remembered == 1024
    assert known.provider_of(servers[-1], "x") == "llama_cpp"


def test_a_server_that_changes_does_not_push_another_out():
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
def test_llama_cpp_signs_its_replies(headers, provider):
    assert provider_from_headers(httpx2.Headers(headers)) == provider
