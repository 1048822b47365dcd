"""Synthetic prompts for servers that offer different ways to count tokens: a real tokenizer."""

from __future__ import annotations

import json
import urllib.request
from contextlib import ExitStack
from typing import Any

import openai
import pytest

from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner, synthetic_prompts
from llamatelemetry.bench.load.token_counts import _PREFIX
from llamatelemetry.llama import LlamaCppClient
from tests.support.llama_server import MODEL_ALIAS, LlamaServer
from tests.support.v1_proxy import v1_proxy

TOKENS = 64
CLIENTS = {
    "LlamaCppClient": LlamaCppClient,
    "OpenAI": lambda url: openai.OpenAI(base_url=f"{url}/v1", api_key="none"),
    "AsyncOpenAI": lambda url: openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none"),
}


@pytest.fixture
def client_of():
    """Return a function that creates a client, and close the synchronous ones afterwards."""
    with ExitStack() as stack:

        def create(kind: str, url: str) -> Any:
            client = CLIENTS[kind](url)
            if kind != "AsyncOpenAI":  # its own connections are never opened
                stack.callback(client.close)
            return client

        yield create


each_client = pytest.mark.parametrize("kind", CLIENTS)
each_openai_client = pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


def tokens_of(server: LlamaServer, text: str) -> int:
    """Return the number of input tokens that the server itself reports for a prompt."""
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": 1}
    return post(f"{server.url}/chat/completions", body)["usage"]["prompt_tokens"]


def vllm_tokenize(server: LlamaServer):
    """Return vLLM's `/tokenize` with the tokenizer and chat template of this server."""

    def tokenize(body: Any) -> Any:
        assert body["model"] == MODEL_ALIAS
        prompt = post(f"{server.origin}/apply-template", {"messages": body["messages"]})["prompt"]
        content = {"content": prompt, "add_special": True}
        found = post(f"{server.origin}/tokenize", content)["tokens"]
        return {"count": len(found), "max_model_len": 1024, "tokens": found}

    return tokenize


@each_client
def test_prompts_for_llama_cpp_are_exact_with_every_client(client_of, llama_server, kind):
    prompts = synthetic_prompts(client_of(kind, llama_server.origin), 3, TOKENS)
    assert prompts.counted_by == "counted with /apply-template and /tokenize"
    assert [tokens_of(llama_server, prompt) for prompt in prompts] == [TOKENS] * 3


@each_openai_client
def test_prompts_for_vllm_are_exact_with_the_prefix_of_the_driver(client_of, llama_server, kind):
    routes = {"/tokenize": vllm_tokenize(llama_server)}
    with v1_proxy(llama_server.origin, owner="vllm", routes=routes) as url:
        prompts = synthetic_prompts(client_of(kind, url), 3, TOKENS)
    assert prompts.counted_by == "counted with /tokenize"
    assert [tokens_of(llama_server, _PREFIX + each) for each in prompts] == [TOKENS] * 3


@each_client
def test_prompts_are_estimated_from_usage_when_proxy_exposes_only_v1(client_of, llama_server, kind):
    with v1_proxy(llama_server.origin) as url:
        prompts = synthetic_prompts(client_of(kind, url), 3, TOKENS)
    assert prompts.counted_by == "estimated from the usage of two requests"
    for prompt in prompts:
        assert tokens_of(llama_server, prompt) == pytest.approx(TOKENS, rel=0.1)


def test_words_are_counted_when_server_returns_no_usage(client_of, llama_server):
    with v1_proxy(llama_server.origin, owner="other", has_usage=False) as url:
        prompts = synthetic_prompts(client_of("OpenAI", url), 3, TOKENS)
    assert prompts.counted_by == "one word counted as one token"
    assert [len(prompt.split()) for prompt in prompts] == [TOKENS] * 3


def test_estimate_rejects_fewer_tokens_than_the_chat_template_has(client_of, llama_server):
    with (
        v1_proxy(llama_server.origin) as url,
        pytest.raises(ValueError, match="the chat template and one word; got 3"),
    ):
        synthetic_prompts(client_of("OpenAI", url), 1, 3)


def test_prompts_use_named_model_and_record_no_call(client_of, llama_server, recorder):
    asked = []

    def tokenize(body: Any) -> Any:
        asked.append(body["model"])
        return {"count": len(body["messages"][0]["content"].split()) + 1}

    with v1_proxy(llama_server.origin, owner="vllm", routes={"/tokenize": tokenize}) as url:
        synthetic_prompts(client_of("OpenAI", url), 1, TOKENS, model="named")
    assert set(asked) == {"named"}
    assert recorder.spans() == []


@pytest.mark.slow
def test_report_states_method_and_measured_length(client_of, llama_server):
    with v1_proxy(llama_server.origin, owner="other") as url:
        client = client_of("AsyncOpenAI", url)
        prompts = synthetic_prompts(client, 10, TOKENS)
        runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, progress=False, max_tokens=2)
        results = runner.run(MODEL_ALIAS, prompts)
    known = {record.input_tokens for record in results.requests}
    measured = f"{min(known)} to {max(known)}" if len(known) > 1 else str(*known)
    assert (
        f"Prompts of 64 tokens, estimated from the usage of two requests; {measured} reported by "
        "the server"
    ) in results.summary()
    assert results.settings["input_tokens"] == TOKENS
