"""The methods of the clients with a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llamatelemetry.config import effective_config, set_active_config
from llamatelemetry.inference import create_engine
from llamatelemetry.llama import LlamaCppClient, LlamaServerError
from tests.support.llama_clients import Driver
from tests.support.llama_server import LlamaServer
from tests.support.recorder import Recorder
from tests.support.waiting import wait_for

HELLO = [{"role": "user", "content": "Say hello."}]
PHASES = {"queue", "prefill", "decode"}

both = pytest.mark.parametrize("driver", ["sync", "async"], indirect=True)


@pytest.fixture
def driver(
    request: pytest.FixtureRequest, recorded: Recorder, llama_server: LlamaServer
) -> Iterator[Driver]:
    with Driver(request.param, llama_server.url) as driver:
        yield driver


@both
def test_helper_methods_return_results_without_spans(driver, recorded, llama_server):
    assert driver("wait_until_ready", 10) is None
    assert driver("health") == {"status": "ok"}
    assert driver("models").data[0].id == llama_server.model
    assert driver("props").total_slots == 2
    assert [slot.id for slot in driver("slots")] == [0, 1]
    assert driver("metrics")["requests_processing"] == 0
    tokens = driver("tokenize", "Hello world")
    assert all(isinstance(token, int) for token in tokens)
    assert driver("detokenize", tokens) == "Hello world"
    assert "Say hello." in driver("apply_template", HELLO)
    assert recorded.spans() == []


@both
def test_chat_records_span_with_phases(driver, recorded, llama_server):
    response = driver("chat", HELLO, max_tokens=8, temperature=0.0, seed=1)

    assert response["choices"][0]["message"] == response.choices[0].message
    assert response.choices[0].message.content
    assert response.usage.completion_tokens == response.timings.predicted_n
    span = recorded.call()
    attributes = dict(span.attributes)
    assert span.name == "chat"
    assert span.instrumentation_scope.name == "llamatelemetry.llama"
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "llama_cpp"
    assert attributes["gen_ai.response.model"] == llama_server.model
    assert attributes["gen_ai.request.max_tokens"] == 8
    assert attributes["gen_ai.request.temperature"] == 0.0
    assert attributes["gen_ai.request.seed"] == 1
    assert attributes["gen_ai.usage.input_tokens"] == response.usage.prompt_tokens
    assert attributes["gen_ai.usage.output_tokens"] == response.usage.completion_tokens
    assert attributes["gen_ai.prefill_ms"] == pytest.approx(response.timings.prompt_ms)
    assert attributes["gen_ai.decode_ms"] == pytest.approx(response.timings.predicted_ms)
    assert attributes["llamatelemetry.queue_source"] == "remainder"
    assert f"http://{attributes['server.address']}:{attributes['server.port']}" == (
        driver.client.base_url
    )
    assert set(recorded.phases(span)) == PHASES
    assert recorded.tokens("output") == response.usage.completion_tokens


def test_latency_names_have_what_the_server_reports(recorded, llama_server):
    set_active_config(effective_config(engine_latency_names=True))
    try:
        with LlamaCppClient(llama_server.origin) as client:
            timings = client.chat(HELLO, max_tokens=4).timings
    finally:
        set_active_config(None)
    found = recorded.call().attributes
    assert {name: value for name, value in found.items() if "gen_ai.latency." in name} == (
        pytest.approx(
            {
                "gen_ai.latency.time_in_model_prefill": timings.prompt_ms / 1000,
                "gen_ai.latency.time_in_model_decode": timings.predicted_ms / 1000,
                "gen_ai.latency.time_in_model_inference": (
                    (timings.prompt_ms + timings.predicted_ms) / 1000
                ),
            }
        )
    )


@both
def test_streamed_chat_equals_plain_chat(driver, recorded):
    whole = driver("chat", HELLO, max_tokens=8, temperature=0.0)
    recorded.clear_spans()
    chunks = driver("chat", HELLO, max_tokens=8, temperature=0.0, stream=True)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    span = recorded.call()
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.usage.output_tokens"] == whole.usage.completion_tokens
    assert span.attributes["llamatelemetry.queue_source"] == "header"
    assert span.attributes["gen_ai.ttft_ms"] > 0
    assert set(recorded.phases(span)) == PHASES


@both
def test_chat_supports_interface_of_openai_client(driver, recorded):
    response = driver(
        "chat.completions.create",
        model="any",
        messages=HELLO,
        max_tokens=4,
        extra_body={"top_k": 1},
    )
    assert response.usage.completion_tokens == 4
    span = recorded.call()
    assert span.name == "chat any"
    assert span.attributes["gen_ai.request.top_k"] == 1
    assert "gen_ai.request.temperature" not in span.attributes
    chunks = driver("chat.completions.create", messages=HELLO, max_tokens=4, stream=True)
    assert chunks[-1].timings.predicted_n == 4


@both
def test_chat_applies_json_schema_and_grammar(driver, recorded):
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    shaped = driver(
        "chat",
        HELLO,
        64,
        0.0,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    )
    assert isinstance(json.loads(shaped.choices[0].message.content)["yes"], bool)
    assert recorded.call().attributes["gen_ai.output.type"] == "json"
    constrained = driver("chat", HELLO, 8, 0.0, grammar='root ::= "blue"')
    assert constrained.choices[0].message.content == "blue"


@both
def test_generate_and_complete_record_text_completions(driver, recorded):
    text = driver("generate", "Once upon a", 4, 0.0)
    assert isinstance(text, str)
    assert text
    response = driver("complete", "Once upon a", n_predict=4, temperature=0.0)
    assert response.content == text
    events = driver("complete", "Once upon a", n_predict=4, temperature=0.0, stream=True)
    assert "".join(event.content for event in events) == text
    spans = recorded.calls()
    assert [span.attributes["gen_ai.operation.name"] for span in spans] == ["text_completion"] * 3
    assert {span.attributes["gen_ai.usage.output_tokens"] for span in spans} == {4}
    assert {span.attributes["gen_ai.usage.input_tokens"] for span in spans} == {
        response.tokens_evaluated
    }
    assert all(set(recorded.phases(span)) == PHASES for span in spans)


@both
def test_generate_stops_before_stop_sequence(driver):
    text = driver("generate", "1 2 3 4 5 6 7", 24, 0.0, stop_sequences=["9"])
    assert "9" not in text


@both
def test_embed_records_usage(driver, recorded):
    response = driver("embed", ["first", "second"])
    assert [len(item.embedding) for item in response.data] == [576, 576]
    assert driver("embed", "first").data[0].embedding == pytest.approx(
        response.data[0].embedding, abs=1e-2
    )
    span = recorded.calls()[0]
    assert span.name == "embeddings"
    assert span.attributes["gen_ai.usage.input_tokens"] == response.usage.prompt_tokens


@both
@pytest.mark.parametrize(
    ("call", "name", "task"),
    [
        (("rerank", "question", ["a", "b"]), "retrieval", "rerank"),
        (("infill", "def f(", "return 1"), "text_completion", "infill"),
    ],
)
def test_unsupported_endpoint_raises_server_error(driver, recorded, call, name, task):
    with pytest.raises(LlamaServerError) as caught:
        driver(*call)
    assert (caught.value.status, caught.value.type) == (501, "not_supported_error")
    span = recorded.call()
    assert span.name == name
    assert span.attributes["llamatelemetry.task"] == task
    assert span.attributes["error.type"] == "not_supported_error"
    assert span.attributes["http.response.status_code"] == 501


@both
@pytest.mark.parametrize("stream", [False, True])
def test_prompt_beyond_context_records_sizes(driver, recorded, stream):
    with pytest.raises(LlamaServerError) as caught:
        driver("chat", [{"role": "user", "content": "word " * 2000}], stream=stream)
    error = caught.value
    assert (error.status, error.type) == (400, "exceed_context_size_error")
    assert error.n_ctx == 1024
    assert error.n_prompt_tokens > 2000
    assert str(error.n_prompt_tokens) in str(error)
    attributes = recorded.call().attributes
    assert attributes["error.type"] == "exceed_context_size_error"
    assert attributes["llamatelemetry.error.prompt_tokens"] == error.n_prompt_tokens
    assert attributes["llamatelemetry.error.context_size"] == 1024


@both
def test_stream_closed_early_ends_span_and_generation(driver, recorded):
    before = driver("metrics")["tokens_predicted_total"]
    asked = {"max_tokens": 900, "ignore_eos": True, "stream": True}
    stream = driver.run(driver.client.chat(HELLO, **asked))
    assert len(driver.take(stream, 3)) == 3
    wait_for(lambda: not any(slot.is_processing for slot in driver("slots")))
    span = recorded.call()
    assert "error.type" not in span.attributes
    assert span.attributes["gen_ai.response.time_to_first_chunk"] > 0
    generated = driver("metrics")["tokens_predicted_total"] - before
    assert generated < 800, "the server went on generating"


def test_client_is_inference_engine(recorded, llama_server):
    engine: Any = create_engine("llama.cpp", base_url=llama_server.url)
    with engine:
        assert engine.model_name == ""
        assert engine.generate("Hello", max_tokens=2)
        assert engine.chat(HELLO, max_tokens=2)["choices"][0]["message"]["role"] == "assistant"
        assert engine.model_name == llama_server.model


def test_client_accepts_base_url_with_v1(llama_server):
    with LlamaCppClient(f"{llama_server.origin}/v1/") as client:
        assert client.health().status == "ok"
        assert client.base_url == llama_server.origin
