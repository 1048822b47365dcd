"""A real vLLM: phases equal the figures that it reports, and tokens equal its counters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.engines.conftest import SLOTS
from tests.support.otlp_receiver import Received
from tests.support.recorder import Recorder
from tests.support.vllm_server import MODEL, VllmServer, vllm_server
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.needs("vllm"), pytest.mark.slow, pytest.mark.timeout(600)]

MESSAGES: list[Any] = [{"role": "user", "content": "hello " * 20}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 8}
USAGE = {"include_usage": True}
NO_END = {"ignore_eos": True}
ABORTED_TOKENS = 300


@pytest.fixture
def stream_usage() -> bool:
    """Return whether the plugin requests the usage of streams. Tests replace it by a parameter."""
    return True


@pytest.fixture
def recorder(recorder: Recorder, stream_usage: bool) -> Iterator[Recorder]:
    config = LlamaTelemetryConfig(stream_usage=stream_usage, propagate="on")
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    yield recorder
    OpenAIInstrumentor().uninstrument()


@pytest.fixture
def client(server: VllmServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(**CHAT)


def chat_stream(client: openai.OpenAI) -> Any:
    return [*client.chat.completions.create(**CHAT, stream=True, stream_options=USAGE)][-1]


def completion(client: openai.OpenAI) -> Any:
    return client.completions.create(model=MODEL, prompt="hello there", max_tokens=8)


def response(client: openai.OpenAI) -> Any:
    return client.responses.create(model=MODEL, input="hello there", max_output_tokens=8)


def response_stream(client: openai.OpenAI) -> Any:
    events = client.responses.create(
        model=MODEL, input="hello there", max_output_tokens=8, stream=True
    )
    last: Any = [*events][-1]
    return last.response


CALLS = (chat, chat_stream, completion, response, response_stream)
SPAN_FIGURES = {
    "gen_ai.latency.time_in_queue": "queue_time_ms",
    "gen_ai.latency.time_in_model_prefill": "time_to_first_token_ms",
    "gen_ai.latency.time_in_model_decode": "generation_time_ms",
}


@pytest.mark.parametrize("call", CALLS)
def test_phases_equal_the_response_and_agree_with_the_span_of_vllm(
    recorder: Recorder,
    client: openai.OpenAI,
    receiver: Received,
    call: Callable[[openai.OpenAI], Any],
) -> None:
    metrics = call(client).metrics
    span = recorder.call()
    found = dict(span.attributes or {})
    assert found["gen_ai.provider.name"] == "vllm"
    assert found["llamatelemetry.queue_source"] == "engine"
    assert found["llamatelemetry.queue_duration"] * 1000 == pytest.approx(metrics["queue_time_ms"])
    assert found["gen_ai.prefill_ms"] == pytest.approx(metrics["time_to_first_token_ms"])
    assert found["gen_ai.decode_ms"] == pytest.approx(metrics["generation_time_ms"])
    assert found["gen_ai.tpot_ms"] == pytest.approx(metrics["mean_itl_ms"])
    wait_for(lambda: spans_of_vllm(receiver, span))
    (own,) = spans_of_vllm(receiver, span)
    for name, figure in SPAN_FIGURES.items():
        assert own[name] * 1000 == pytest.approx(metrics[figure], abs=2)


def spans_of_vllm(receiver: Received, parent: ReadableSpan) -> list[dict[str, float]]:
    """Return the numeric attributes of vLLM's own spans below a span of the client."""
    span_id = parent.context.span_id.to_bytes(8, "big")
    return [
        {each.key: each.value.double_value for each in span.attributes}
        for message in receiver.messages["traces"]
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.parent_span_id == span_id
    ]


def several_choices(client: openai.OpenAI) -> None:
    client.chat.completions.create(**CHAT, n=2)


def stream_without_usage(client: openai.OpenAI) -> None:
    list(client.chat.completions.create(**CHAT, stream=True, extra_body=NO_END))


def aborted(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        **{**CHAT, "max_tokens": ABORTED_TOKENS}, stream=True, extra_body=NO_END
    )
    next(iter(stream))
    stream.close()


def refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{**CHAT, "max_tokens": 100_000})


def unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**CHAT, "model": "unknown"})


MIXED = (*CALLS, several_choices, stream_without_usage, aborted, refused, unknown_model)


@pytest.mark.parametrize(("stream_usage", "count"), [(True, 200), (False, 50)])
def test_tokens_of_mixed_calls_equal_the_counters_of_vllm(
    recorder: Recorder, client: openai.OpenAI, server: VllmServer, stream_usage: bool, count: int
) -> None:
    before = server.metrics()
    calls = list(itertools.islice(itertools.cycle(MIXED), count))
    with ThreadPoolExecutor(2 * SLOTS) as pool:
        list(pool.map(lambda call: call(client), calls))
    # It notices some steps later that a client has closed its stream.
    wait_for(lambda: server.metrics()["num_requests_running"] == 0)
    after = server.metrics()
    spans = [dict(span.attributes or {}) for span in recorder.calls()]
    assert len(spans) == count
    counted = {
        name: after[f"{name}_tokens_total"] - before[f"{name}_tokens_total"]
        for name in ("prompt", "generation")
    }
    # vLLM counts the prompt once for each choice. Its response counts it once.
    several = [span for span in spans if span.get("gen_ai.request.choice.count") == 2]
    prompt_tokens: int = several[0]["gen_ai.usage.input_tokens"]
    prompts = prompt_tokens * len(several)
    # The client does not know the tokens of streams that it closed, or that have no usage.
    closed = calls.count(aborted)
    prompts += prompt_tokens * closed
    outputs = 0
    if not stream_usage:
        without = calls.count(stream_without_usage)
        prompts += prompt_tokens * without
        outputs = CHAT["max_tokens"] * without
    assert recorder.tokens("input") + prompts == counted["prompt"]
    of_closed = counted["generation"] - recorder.tokens("output") - outputs
    assert closed <= of_closed <= ABORTED_TOKENS * closed
    # There were more calls at once than sequences.
    assert max(span.get("llamatelemetry.queue_duration", 0.0) for span in spans) > 0


@pytest.mark.parametrize("stream_usage", [False])
@pytest.mark.usefixtures("stream_usage")
def test_stream_without_usage_has_no_phases_and_no_token_counts(
    recorder: Recorder, client: openai.OpenAI
) -> None:
    stream_without_usage(client)
    span = recorder.call()
    found = span.attributes or {}
    assert found["gen_ai.provider.name"] == "vllm"
    assert "gen_ai.usage.output_tokens" not in found
    assert "gen_ai.prefill_ms" not in found
    assert recorder.phases(span) == {}


def test_aborted_stream_has_no_token_counts(recorder: Recorder, client: openai.OpenAI) -> None:
    aborted(client)
    found = recorder.call().attributes or {}
    assert "gen_ai.usage.output_tokens" not in found
    assert "gen_ai.prefill_ms" not in found


def test_vllm_without_the_flag_has_no_phases(recorder: Recorder) -> None:
    with (
        vllm_server() as server,
        openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        for call in CALLS:
            call(client)
    for span in recorder.calls():
        found = dict(span.attributes or {})
        assert found["gen_ai.provider.name"] == "vllm"
        assert "gen_ai.prefill_ms" not in found
        assert "llamatelemetry.queue_duration" not in found
        assert recorder.phases(span) == {}
