"""Benchmarks of a real llama.cpp server with a real model."""

from __future__ import annotations

import openai
import pytest

from llamatelemetry.bench import (
    BenchmarkProfile,
    BenchmarkResults,
    BenchmarkRunner,
    Conversation,
    synthetic_prompts,
)
from llamatelemetry.llama import LlamaCppClient
from tests.support.llama_server import SLOTS, LlamaServer
from tests.support.v1_proxy import v1_proxy


@pytest.fixture
def client(llama_server: LlamaServer):
    with LlamaCppClient(llama_server.origin) as client:
        yield client


def run(client, prompts, profile=BenchmarkProfile.QUICK, **options) -> BenchmarkResults:
    runner = BenchmarkRunner(client, profile, progress=False, **options)
    return runner.run("SmolLM2-135M-Instruct", prompts)


def assert_agrees_with_the_engine(results: BenchmarkResults) -> None:
    """Assert that the records add up to the server's own counters."""
    (counters,) = (run.engine for run in results.runs)
    requests = results.requests
    assert counters["prompt_tokens_total"] == sum(each.prefilled_tokens for each in requests)
    assert counters["tokens_predicted_total"] == sum(each.decoded_tokens for each in requests)
    assert counters["prompt_tokens_cached_total"] == sum(each.cached_tokens for each in requests)
    # Requests in one batch share its time: the server counts it once, but reports it for each.
    is_concurrent = results.settings["concurrency"] > 1
    for counter, phase in (
        ("prompt_seconds_total", "prefill_s"),
        ("tokens_predicted_seconds_total", "decode_s"),
    ):
        total_s = sum(getattr(each, phase) for each in requests)
        assert counters[counter] <= total_s + 0.001 * len(requests)
        assert is_concurrent or counters[counter] == pytest.approx(
            total_s, abs=0.001 * len(requests)
        )


def test_quick_benchmark_has_exact_prompt_and_response_lengths(client):
    prompts = synthetic_prompts(client, 10, 48)
    results = run(client, prompts, max_tokens=6, concurrency=SLOTS)
    assert results.totals.failures == {}
    assert [record.input_tokens for record in results.requests] == [48] * 10
    assert [record.cached_tokens for record in results.requests] == [0] * 10
    assert [record.output_tokens for record in results.requests] == [6] * 10
    assert [record.finish_reason for record in results.requests] == ["length"] * 10
    assert_agrees_with_the_engine(results)
    assert results.fingerprint["server.slots"] == SLOTS
    assert results.fingerprint["model.parameters"] > 130e6
    for record in results.requests:
        assert record.lag_s + record.queue_s <= record.ttft_s <= record.e2e_s
        assert len(record.token_times_s) <= 6


@pytest.mark.slow
def test_cache_option_controls_prompt_cache_of_server(client):
    prompt = synthetic_prompts(client, 1, 48, seed=5)
    cold = run(client, prompt, max_tokens=1)
    warm = run(client, prompt, max_tokens=1, cache="warm")
    assert {record.cached_tokens for record in cold.requests} == {0}
    # llama.cpp always evaluates the last prompt token, which yields the first output token.
    assert {record.cached_tokens for record in warm.requests} == {47}
    assert not any("cache" in warning for warning in [*cold.warnings, *warm.warnings])
    assert_agrees_with_the_engine(warm)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["OpenAI", "AsyncOpenAI"])
def test_openai_client_measures_engine_metrics(llama_server, kind):
    client = getattr(openai, kind)(base_url=llama_server.url, api_key="none")
    results = run(client, ["Why is the sky blue?"], max_tokens=4, concurrency=SLOTS)
    assert results.totals.failures == {}
    assert {record.output_tokens for record in results.requests} == {4}
    assert results.fingerprint["server"] == "llama_cpp"
    assert results.figures["queue"].count == results.figures["prefill"].count == 10
    assert_agrees_with_the_engine(results)


def test_async_openai_client_reaches_loopback_server_without_proxy(llama_server, monkeypatch):
    with v1_proxy(llama_server.origin, owner="other") as url:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
        prompts = synthetic_prompts(client, 10, 64)
        assert prompts.counted_by == "estimated from the usage of two requests"
        results = run(client, prompts, max_tokens=2)
    assert results.totals.failures == {}


def test_conversation_turns_reuse_warm_prompt_cache(client):
    conversation = Conversation.of_texts("Name a color.", "Another one.")
    results = run(client, [conversation], max_tokens=4, cache="warm")
    second = [record for record in results.requests if record.turn == 1]
    assert len(second) == 5
    assert all(record.cached_tokens > 0 for record in second)
    assert all(record.input_tokens > results.requests[0].input_tokens for record in second)


def test_prompt_longer_than_context_is_counted_by_error_type(client):
    results = run(client, ["Hello", "word " * 3000], max_tokens=2)
    assert results.totals.failures == {"exceed_context_size_error": 5}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_standard_profile_runs_end_to_end(client, tmp_path):
    prompts = synthetic_prompts(client, 50, 64)
    results = run(client, prompts, BenchmarkProfile.STANDARD, max_tokens=16, concurrency=SLOTS)
    assert len(results.requests) == 50
    assert results.totals.failures == {}
    assert_agrees_with_the_engine(results)
    assert results.figures["e2e"].quantiles[0.9].supported
    loaded = BenchmarkResults.load(results.save(tmp_path / "standard.json"))
    assert loaded.summary() == results.summary()
    assert not results.compare(loaded).is_worse
    results.to_html(tmp_path / "standard.html")
