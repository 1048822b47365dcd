"""Real servers with special models or templates: tools, reasoning, infill, reranking."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamatelemetry import ServerConfig, ServerManager
from llamatelemetry.config import effective_config, set_active_config
from llamatelemetry.llama import LlamaServerError
from llamatelemetry.llama.embedded import find_demo_model
from llamatelemetry.llama.server.address import free_port, is_free
from tests.support.llama_clients import Driver
from tests.support.openai_content import on_span
from tests.support.recorder import Recorder
from tests.support.tiny_gguf_models import make_llama, make_reranker
from tests.support.waiting import wait_for

KEY = "sk-right"
PROMPT = {"role": "user", "content": "Weather in Paris?"}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS},
    }
]
# The model is too small to call a tool without this prefix.
TOOL_CALL_PREFIX = {"role": "assistant", "content": "<tool_call>"}
REASONING_GRAMMAR = r'root ::= "<think>\nHm. Well.\n</think>\n\nYes."'
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
pytestmark = pytest.mark.needs("xllamacpp")
both = pytest.mark.parametrize("kind", ["sync", "async"])
both_modes = pytest.mark.parametrize("stream", [False, True])


def serve(model: Path, **fields: Any) -> ServerManager:
    config = ServerConfig(model, **{"port": 0, "n_ctx": 1024, "threads": 1, **fields})
    return ServerManager(config, binary="embedded")


@pytest.fixture(scope="module")
def tool_server() -> Iterator[str]:
    """Start a server with tools, reasoning and an API key."""
    template = str(Path(__file__).with_name("tool_server.jinja"))
    with serve(find_demo_model(), chat_template=template, api_key=KEY) as server:
        yield server.url


@pytest.fixture
def ask(tool_server: str, recorded: Recorder, kind: str) -> Iterator[Driver]:
    with Driver(kind, tool_server, api_key=KEY) as driver:
        yield driver


@pytest.fixture
def captured() -> Iterator[None]:
    set_active_config(effective_config(capture_content="span_only"))
    yield
    set_active_config(None)


def message_of(response: Any, stream: bool) -> dict[str, Any]:
    """Return the message of a response, or the accumulated chunks of a stream."""
    if not stream:
        return response.choices[0].message
    whole: dict[str, Any] = {}
    for chunk in response:
        for name, piece in chunk.choices[0].delta.items() if chunk.choices else ():
            if isinstance(piece, str) and name != "role":
                whole[name] = whole.get(name, "") + piece
            for call in piece if name == "tool_calls" else ():
                calls = whole.setdefault(name, [{"function": {"name": "", "arguments": ""}}])
                calls[0]["id"] = call.get("id") or calls[0].get("id")
                for part in ("name", "arguments"):
                    calls[0]["function"][part] += call["function"].get(part) or ""
    return whole


@both
@both_modes
@pytest.mark.usefixtures("captured")
def test_model_calls_tool_and_gets_result(ask, stream, recorded):
    asked = [PROMPT, TOOL_CALL_PREFIX]
    response = ask("chat", asked, 64, 0.0, tools=TOOLS, tool_choice="required", stream=stream)
    message = message_of(response, stream)
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in {"Paris", "Rome"}
    attributes = recorded.call().attributes
    assert attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)
    found = on_span(recorded)
    assert found["gen_ai.tool.definitions"][0]["name"] == "weather"
    (output,) = found["gen_ai.output.messages"]
    assert output["parts"] == [
        {
            "type": "tool_call",
            "id": call["id"],
            "name": "weather",
            "arguments": json.loads(call["function"]["arguments"]),
        }
    ]
    recorded.clear_spans()
    assistant = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**call, "type": "function"}],
    }
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Sun."}
    assert (
        ask("chat", [PROMPT, assistant, result], 4, 0.0, tools=TOOLS).usage.completion_tokens == 4
    )
    roles = [message["role"] for message in on_span(recorded)["gen_ai.input.messages"]]
    assert roles == ["user", "assistant", "tool"]


@both
@both_modes
@pytest.mark.usefixtures("captured")
def test_reasoning_precedes_text_and_counts_as_output(ask, stream, recorded):
    response = ask("chat", [PROMPT], 32, 0.0, grammar=REASONING_GRAMMAR, stream=stream)
    message = message_of(response, stream)
    assert (message["reasoning_content"].strip(), message["content"]) == ("Hm. Well.", "Yes.")
    (output,) = on_span(recorded)["gen_ai.output.messages"]
    assert [part["type"] for part in output["parts"]] == ["reasoning", "text"]
    span = recorded.call()
    assert span.attributes["gen_ai.usage.output_tokens"] > 8
    if stream:
        # The first token is one of the reasoning.
        after_s = recorded.call().attributes["gen_ai.response.time_to_first_chunk"]
        assert span.attributes["gen_ai.ttft_ms"] / 1000 >= after_s


@both
def test_reasoning_stays_in_text_when_format_is_none(ask):
    response = ask("chat", [PROMPT], 32, 0.0, grammar=REASONING_GRAMMAR, reasoning_format="none")
    assert response.choices[0].message.content.startswith("<think>")
    assert response.choices[0].message.reasoning_content is None


@both
@both_modes
def test_image_raises_server_error_without_vision_model(ask, stream, recorded):
    parts = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    with pytest.raises(LlamaServerError, match="image input is not supported") as caught:
        ask("chat", [{"role": "user", "content": parts}], 4, stream=stream)
    assert (caught.value.status, caught.value.type) == (500, "server_error")
    assert recorded.call().attributes["error.type"] == "server_error"
    assert PIXEL[30:60] not in recorded.call().to_json()


@both
def test_log_probabilities_are_returned_in_both_formats(ask):
    response = ask("chat", [PROMPT], 2, 0.0, logprobs=True, top_logprobs=3)
    assert [len(token.top_logprobs) for token in response.choices[0].logprobs.content] == [3, 3]
    response = ask("complete", "Hi", n_predict=2, n_probs=3, temperature=0.0)
    assert [len(token.top_logprobs) for token in response.completion_probabilities] == [3, 3]


@both
def test_sampling_parameters_apply_per_request(ask, recorded):
    response = ask(
        "complete",
        "Hi",
        n_predict=2,
        temperature=0.5,
        top_k=3,
        top_p=0.5,
        min_p=0.125,
        seed=7,
        repeat_penalty=1.5,
        samplers=["top_k", "temperature"],
        stop=["never"],
    )
    used = response.generation_settings
    assert (used.top_k, used.top_p, used.min_p, used.seed) == (3, 0.5, 0.125, 7)
    assert (used.repeat_penalty, used.temperature) == (1.5, 0.5)
    assert used.samplers == ["top_k", "temperature"]
    attributes = recorded.call().attributes
    assert attributes["gen_ai.request.max_tokens"] == 2
    assert attributes["gen_ai.request.stop_sequences"] == ("never",)
    assert attributes["gen_ai.request.seed"] == 7


@both
@pytest.mark.parametrize(
    "wrong",
    [{"grammar": "root ::= nowhere"}, {"json_schema": {"type": "nonsense"}}, {"n": 5}],
    ids=["grammar", "schema", "n"],
)
def test_invalid_parameter_raises_server_error(ask, recorded, wrong):
    with pytest.raises(LlamaServerError) as caught:
        ask("chat", [PROMPT], 4, **wrong)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    assert recorded.call().attributes["error.type"] == "invalid_request_error"


@both
@pytest.mark.parametrize("key", [None, "sk-wrong"])
def test_calls_raise_without_valid_api_key(tool_server, recorded, kind, key):
    with Driver(kind, tool_server, api_key=key) as driver:
        # /health needs no key.
        driver("wait_until_ready", 5)
        for call in (("chat", [PROMPT]), ("complete", "Hi"), ("embed", "Hi"), ("props",)):
            with pytest.raises(LlamaServerError) as caught:
                driver(*call)
            assert (caught.value.status, caught.value.type) == (401, "authentication_error")
            assert str(key) not in str(caught.value)
        with pytest.raises(LlamaServerError):
            driver("chat", [PROMPT], stream=True)
    kinds = [span.attributes["error.type"] for span in recorded.calls()]
    assert kinds == ["authentication_error"] * 4


@both
def test_call_waits_for_loading_server(kind, recorded):
    port = free_port("127.0.0.1")
    manager = serve(find_demo_model(), port=port, n_ctx=8192)
    starter = threading.Thread(target=manager.start)
    starter.start()
    try:
        with Driver(kind, f"http://127.0.0.1:{port}", load_wait_s=60) as driver:
            wait_for(lambda: not is_free("127.0.0.1", port), 30)
            assert driver("generate", "Hi", 1)
    finally:
        starter.join()
        manager.stop()
    assert "error.type" not in recorded.call().attributes


@both
@both_modes
def test_infill_returns_text_between_prefix_and_suffix(kind, recorded, tmp_path, stream):
    letters = {"grammar": "root ::= [a-z]{9}", "n_predict": 4}
    with (
        serve(make_llama(tmp_path / "filler.gguf", fills_in=True)) as server,
        Driver(kind, server.url) as driver,
    ):
        response = driver("infill", "def f(", "return 1", stream=stream, **letters)
    text = "".join(event.content for event in response) if stream else response.content
    assert len(text) >= 1
    span = recorded.calls()[-1]
    assert span.name == "text_completion"
    assert span.attributes["llamatelemetry.task"] == "infill"
    assert span.attributes["gen_ai.response.model"] == "filler"
    last = response[-1] if stream else response
    assert span.attributes["gen_ai.usage.input_tokens"] == last.tokens_evaluated > 14
    assert span.attributes["gen_ai.usage.output_tokens"] == last.tokens_predicted == 4
    assert set(recorded.phases(span)) == {"queue", "prefill", "decode"}


@both
def test_rerank_returns_scores_of_documents(kind, recorded, tmp_path):
    documents = ["abc", "what is it", "zzz 9"]
    with (
        serve(make_reranker(tmp_path / "scorer.gguf"), reranking=True) as server,
        Driver(kind, server.url) as driver,
    ):
        response = driver("rerank", "what is it", documents)
        best = driver("rerank", "what is it", documents, top_n=1)
    assert {result.index for result in response.results} == {0, 1, 2}
    assert len({result.relevance_score for result in response.results}) == 3
    assert [result.index for result in best.results] == [response.results[0].index]
    span = recorded.calls()[0]
    attributes = dict(span.attributes)
    assert span.name == "retrieval"
    assert attributes["llamatelemetry.task"] == "rerank"
    assert attributes["gen_ai.usage.input_tokens"] == response.usage.prompt_tokens > 0
    assert attributes["gen_ai.response.model"] == "scorer"
    assert attributes["llamatelemetry.server.model_file"] == "scorer.gguf"
