"""All clients at once, compared with the counters and the order of service of a real server."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import httpx2
import openai
import pytest
import requests
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support.components import require
from tests.support.llama_server import SLOTS, LlamaServer
from tests.support.recorder import Recorder
from tests.support.selection import slow_except

CONCURRENCY = 3 * SLOTS
# The server drops idle connections while others wait, so no connection is kept.
OPTIONS: Any = {"timeout": 120, "headers": {"Connection": "close"}}


def messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": messages(text), "max_tokens": 5, **more}


def completion_body(text: str, **more: Any) -> dict[str, Any]:
    return {"prompt": text, "n_predict": 5, **more}


class Clients:
    """One client of each kind, shared by all threads and tasks."""

    def __init__(self, server: LlamaServer, exits: ExitStack) -> None:
        self.origin = server.origin
        account: Any = {"base_url": server.url, "api_key": "none", "max_retries": 0}
        self.httpx = exits.enter_context(httpx.Client(**OPTIONS))
        self.httpx2 = exits.enter_context(httpx2.Client(**OPTIONS))
        self.requests = exits.enter_context(requests.Session())
        self.requests.headers["Connection"] = "close"
        on_httpx2 = issubclass(openai.DefaultHttpxClient, httpx2.Client)
        http_client = self.httpx2 if on_httpx2 else self.httpx
        self.openai = openai.OpenAI(**account, http_client=http_client)
        self.async_httpx = httpx.AsyncClient(**OPTIONS)
        self.async_httpx2 = httpx2.AsyncClient(**OPTIONS)
        http_client = self.async_httpx2 if on_httpx2 else self.async_httpx
        self.async_openai = openai.AsyncOpenAI(**account, http_client=http_client)

    async def close(self) -> None:
        await self.async_httpx.aclose()
        await self.async_httpx2.aclose()

    def post(self, client: Any, path: str, body: dict[str, Any]) -> Any:
        reply = client.post(f"{self.origin}{path}", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def stream(self, client: Any, path: str, body: dict[str, Any]) -> int:
        """Read raw server-sent events, as a script does. Return their number."""
        url, body = f"{self.origin}{path}", {**body, "stream": True}
        if client is self.requests:
            with client.post(url, json=body, stream=True) as reply:
                return sum(line.startswith(b"data: ") for line in reply.iter_lines())
        with client.stream("POST", url, json=body) as reply:
            return sum(line.startswith("data: ") for line in reply.iter_lines())

    async def post_async(self, client: Any, path: str, body: dict[str, Any]) -> None:
        reply = await client.post(f"{self.origin}{path}", json=body)
        assert reply.status_code == 200

    async def stream_async(self, client: Any, path: str, body: dict[str, Any]) -> None:
        url = f"{self.origin}{path}"
        async with client.stream("POST", url, json={**body, "stream": True}) as reply:
            async for _ in reply.aiter_lines():
                pass


Work = Callable[[Clients, str], Any]
CHAT, TEXT = "/v1/chat/completions", "/completion"
SYNC: dict[str, Work] = {
    "openai": lambda c, t: c.openai.chat.completions.create(**chat_body(t)),
    "openai-stream": lambda c, t: list(
        c.openai.chat.completions.create(**chat_body(t), stream=True)
    ),
    "openai-text": lambda c, t: c.openai.completions.create(model="smol", prompt=t, max_tokens=5),
    "openai-responses": lambda c, t: c.openai.responses.create(model="smol", input=t),
    "openai-raw": lambda c, t: c.openai.chat.completions.with_raw_response.create(**chat_body(t)),
    "httpx": lambda c, t: c.post(c.httpx, CHAT, chat_body(t)),
    "httpx-stream": lambda c, t: c.stream(c.httpx, CHAT, chat_body(t)),
    "httpx-stream-with-progress": lambda c, t: c.stream(
        c.httpx, CHAT, chat_body(t, return_progress=True, timings_per_token=True)
    ),
    "httpx-two-prompts": lambda c, t: c.post(c.httpx, TEXT, completion_body([t, t[::-1]])),
    "httpx-two-answers-stream": lambda c, t: c.stream(c.httpx, CHAT, chat_body(t, n=2)),
    "httpx2": lambda c, t: c.post(c.httpx2, TEXT, completion_body(t)),
    "httpx2-stream": lambda c, t: c.stream(c.httpx2, TEXT, completion_body(t)),
    "httpx2-messages": lambda c, t: c.post(c.httpx2, "/v1/messages", chat_body(t)),
    "httpx2-messages-stream": lambda c, t: c.stream(c.httpx2, "/v1/messages", chat_body(t)),
    "requests": lambda c, t: c.post(c.requests, CHAT, chat_body(t)),
    "requests-stream": lambda c, t: c.stream(c.requests, CHAT, chat_body(t)),
    "requests-responses-stream": lambda c, t: c.stream(
        c.requests, "/v1/responses", {"model": "smol", "input": t, "max_output_tokens": 5}
    ),
    "requests-embeddings": lambda c, t: c.post(
        c.requests, "/v1/embeddings", {"model": "smol", "input": [t, "another"]}
    ),
}


async def _drained(stream: Any) -> None:
    async for _ in await stream:
        pass


ASYNC: dict[str, Work] = {
    "async-openai": lambda c, t: c.async_openai.chat.completions.create(**chat_body(t)),
    "async-openai-stream": lambda c, t: _drained(
        c.async_openai.chat.completions.create(**chat_body(t), stream=True)
    ),
    "async-httpx": lambda c, t: c.post_async(c.async_httpx, CHAT, chat_body(t)),
    "async-httpx-stream": lambda c, t: c.stream_async(c.async_httpx, CHAT, chat_body(t)),
    "async-httpx2": lambda c, t: c.post_async(c.async_httpx2, TEXT, completion_body(t)),
    "async-httpx2-stream": lambda c, t: c.stream_async(c.async_httpx2, TEXT, completion_body(t)),
}
# None of these endpoints runs a model.
HELPERS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/tokenize", {"content": "Hi"}),
    ("POST", "/detokenize", {"tokens": [1, 2]}),
    ("POST", "/apply-template", {"messages": messages("Hi")}),
    ("POST", "/v1/chat/completions/input_tokens", {"messages": messages("Hi")}),
    ("GET", "/props", {}),
    ("GET", "/slots", {}),
    ("GET", "/health", {}),
    ("GET", "/metrics", {}),
    ("GET", "/v1/models", {}),
]


async def run_all(clients: Clients, names: list[str]) -> None:
    """Run all calls at once, limited by the concurrency."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(CONCURRENCY // 2)

    async def run(name: str, text: str) -> None:
        async with gate:
            await ASYNC[name](clients, text)

    texts = [f"Say something about the number {number}." for number in range(len(names))]
    with ThreadPoolExecutor(CONCURRENCY - CONCURRENCY // 2) as threads:
        await asyncio.gather(
            *(
                run(name, text)
                if name in ASYNC
                else loop.run_in_executor(threads, SYNC[name], clients, text)
                for name, text in zip(names, texts, strict=True)
            ),
            *(
                loop.run_in_executor(threads, lambda helper: _help(clients, *helper), helper)
                for helper in HELPERS
            ),
        )


def _help(clients: Clients, method: str, path: str, body: dict[str, Any]) -> None:
    for client in (clients.httpx, clients.httpx2, clients.requests):
        reply = client.request(method, f"{clients.origin}{path}", json=body or None)
        assert reply.status_code == 200, path


def mixed(count: int) -> list[str]:
    kinds = [*SYNC, *ASYNC]
    if not hasattr(openai.OpenAI, "responses"):  # Missing in openai before 1.66.
        kinds.remove("openai-responses")
    names = (kinds * (count // len(kinds) + 1))[:count]
    random.Random(7).shuffle(names)
    return names


@pytest.fixture(params=slow_except([True], [False, True]), ids=["alone", "with-openai-plugin"])
def active(
    request: pytest.FixtureRequest, instrument: Callable[..., Recorder]
) -> Iterator[tuple[Recorder, bool]]:
    """Turn the llama.cpp plugin on, alone or together with the openai plugin."""
    instrumented = instrument(llamacpp_props=True)
    if request.param:
        OpenAIInstrumentor().instrument(**instrumented.providers)
    yield instrumented, request.param
    if request.param:
        OpenAIInstrumentor().uninstrument()


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_mixed_calls_have_one_span_each_and_tokens_equal_server_counters(
    active: tuple[Recorder, bool], llama_server: LlamaServer, count: int
) -> None:
    recorder, with_openai = active
    names = mixed(count)
    before = llama_server.metrics()
    with ExitStack() as exits:
        clients = Clients(llama_server, exits)

        async def run() -> None:
            await run_all(clients, names)
            await clients.close()

        asyncio.run(run())
    after = llama_server.metrics()
    moved = {name: after[name] - before[name] for name in after}

    calls = recorder.calls()
    assert len(calls) == count
    assert recorder.tokens("output") == moved["tokens_predicted_total"]
    assert (
        recorder.tokens("input")
        == moved["prompt_tokens_total"] + moved["prompt_tokens_cached_total"]
    )
    cached = sum(span.attributes.get("gen_ai.usage.cache_read.input_tokens", 0) for span in calls)
    assert cached == moved["prompt_tokens_cached_total"]
    assert {span.attributes["gen_ai.provider.name"] for span in calls} == {"llama_cpp"}
    assert {span.status.status_code.name for span in calls} == {"UNSET"}
    # The plugin that first sees the call opens the span.
    scopes = Counter(span.instrumentation_scope.name for span in calls)
    of_openai = sum("openai" in name for name in names) if with_openai else 0
    assert scopes["llamatelemetry_instrumentation_openai"] == of_openai
    assert scopes["llamatelemetry_instrumentation_llamacpp"] == count - of_openai
    # The facts from `GET /props` arrived meanwhile and are on the calls of both plugins.
    assert sum("llamatelemetry.server.slots" in span.attributes for span in calls) > count / 4
    _check_phases(recorder, calls)


def _check_phases(recorder: Recorder, calls: list[ReadableSpan]) -> None:
    timed = [span for span in calls if "gen_ai.prefill_ms" in span.attributes]
    assert len(timed) > len(calls) / 2
    for span in timed:
        stream = "gen_ai.request.stream" in span.attributes
        queued_s = span.attributes.get("llamatelemetry.queue_duration")
        if queued_s is None:  # Several plain choices have no remainder that shows the queue.
            continue
        assert span.attributes["llamatelemetry.queue_source"] == (
            "header" if stream else "remainder"
        )
        total_s = (
            queued_s
            + span.attributes["gen_ai.prefill_ms"] / 1e3
            + span.attributes["gen_ai.decode_ms"] / 1e3
        )
        # A busy client may read headers late, which is not time in the queue.
        assert total_s <= duration_s(span) + 0.2
        assert set(recorder.phases(span)) == {"queue", "prefill", "decode"}


def duration_s(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


@pytest.mark.clock
@pytest.mark.parametrize("stream", slow_except([True], [False, True]), ids=["plain", "stream"])
async def test_queue_durations_match_order_of_service(
    instrumented: Recorder, llama_server: LlamaServer, stream: bool
) -> None:
    """The end of each recorded queue is the time at which a slot becomes free."""
    url = f"{llama_server.origin}/completion"
    async with httpx2.AsyncClient(**OPTIONS) as client:

        async def send_request(n: int) -> None:
            body = completion_body(f"The number {n} is", n_predict=30, ignore_eos=True)
            async with client.stream("POST", url, json={**body, "stream": stream}) as reply:
                await reply.aread()

        await asyncio.gather(
            *(send_request(n) for n in range(SLOTS))
        )  # Now the client is connected and the server is known.
        instrumented.clear_spans()
        await asyncio.gather(*(send_request(n) for n in range(3 * SLOTS)))

    served = []
    for span in instrumented.calls():
        source = span.attributes["llamatelemetry.queue_source"]
        assert source == ("header" if stream else "remainder")
        queue_s = span.attributes["llamatelemetry.queue_duration"]
        served.append(((span.start_time or 0) / 1e9 + queue_s, (span.end_time or 0) / 1e9))
    served.sort()
    for position in range(SLOTS, len(served)):
        began, _ = served[position]
        ended = sorted(end for _, end in served[:position])
        assert began == pytest.approx(ended[-SLOTS], abs=0.08)


def test_server_errors_are_recorded_with_type_and_context_size(
    instrumented: Recorder, llama_server: LlamaServer
) -> None:
    with httpx2.Client(**OPTIONS) as client:
        url = f"{llama_server.origin}/completion"
        assert client.post(url, json=completion_body("Hi " * 3000)).status_code == 400
        with client.stream("POST", url, json=completion_body("Hi " * 3000, stream=True)) as reply:
            assert b"exceed" in reply.read()
        assert client.post(f"{llama_server.origin}/rerank", json={}).status_code == 501
        assert client.post(f"{llama_server.origin}/infill", json={}).status_code in {400, 501}
    plain, streamed, rerank, infill = instrumented.calls()
    for span in (plain, streamed):
        assert span.status.status_code.name == "ERROR"
        assert span.attributes["error.type"] == "exceed_context_size_error"
        assert span.attributes["http.response.status_code"] == 400
        assert span.attributes["llamatelemetry.error.prompt_tokens"] == 3001
        assert span.attributes["llamatelemetry.error.context_size"] == 1024
    assert rerank.name == "retrieval"
    assert rerank.attributes["llamatelemetry.task"] == "rerank"
    assert infill.name == "text_completion"
    assert infill.attributes["llamatelemetry.task"] == "infill"


def test_progress_and_role_chunks_are_not_counted_as_tokens(
    instrumented: Recorder, llama_server: LlamaServer
) -> None:
    body = chat_body("Count. " * 60, return_progress=True, stream=True)
    with httpx.Client(**OPTIONS) as client:
        for _ in range(2):
            body["messages"] = messages(str(random.random()) + "Count. " * 60)
            with client.stream("POST", f"{llama_server.origin}{CHAT}", json=body) as reply:
                events = [
                    json.loads(line[6:])
                    for line in reply.iter_lines()
                    if line.startswith("data: {")
                ]
    assert sum("prompt_progress" in event for event in events) > 0
    for span in instrumented.calls():
        attributes = span.attributes
        first_chunk_s = attributes["gen_ai.response.time_to_first_chunk"]
        first_token_s = attributes["gen_ai.ttft_ms"] / 1e3
        # The first chunk is progress. The first token arrives after the evaluation of the prompt.
        assert first_token_s - first_chunk_s > 0.5 * attributes["gen_ai.prefill_ms"] / 1e3
        assert first_token_s >= attributes["gen_ai.prefill_ms"] / 1e3


def test_several_choices_record_no_output_tokens_or_queue(
    instrumented: Recorder, llama_server: LlamaServer
) -> None:
    with httpx.Client(**OPTIONS) as client:
        client.post(f"{llama_server.origin}{CHAT}", json=chat_body("Hi", n=2))
    span = instrumented.call()
    assert span.attributes["gen_ai.request.choice.count"] == 2
    assert len(span.attributes["gen_ai.response.finish_reasons"]) == 2
    assert "gen_ai.usage.output_tokens" not in span.attributes
    assert "llamatelemetry.queue_duration" not in span.attributes
    assert instrumented.points("gen_ai.server.request.duration") == []


@pytest.mark.slow
@pytest.mark.parametrize("with_openai", [False, True])
async def test_langchain_calls_are_recorded_with_engine_timings(
    instrumented: Recorder, llama_server: LlamaServer, with_openai: bool
) -> None:
    require("langchain_openai")
    import langchain_openai

    if with_openai:
        OpenAIInstrumentor().instrument(**instrumented.providers)
    try:
        async with httpx2.AsyncClient(**OPTIONS) as http:
            model = langchain_openai.ChatOpenAI(
                base_url=llama_server.url,
                api_key="none",
                model="smol",
                max_tokens=5,
                max_retries=0,
                http_async_client=http,  # LangChain's own client outlives its event loop.
            )
            assert model.invoke("Hi").content
            assert list(model.stream("Hi"))
            assert (await model.ainvoke("Hi")).content
    finally:
        if with_openai:
            OpenAIInstrumentor().uninstrument()
    assert len(instrumented.calls()) == 3
    for span in instrumented.calls():
        assert span.attributes["gen_ai.provider.name"] == "llama_cpp"
        assert span.attributes["gen_ai.usage.output_tokens"] == 5
        assert span.attributes["gen_ai.prefill_ms"] > 0  # LangChain itself drops the timings.


def test_server_facts_stay_recorded_when_response_has_another_model_name(
    instrument: Callable[..., Recorder],
    llama_server: LlamaServer,
    let_props_be_requested: Callable[[], None],
) -> None:
    """llama.cpp returns embeddings with the model name of the request."""
    instrumented = instrument(llamacpp_props=True)
    with httpx.Client(**OPTIONS) as client:
        for _ in range(3):
            client.post(f"{llama_server.origin}{CHAT}", json=chat_body("Hi"))
            let_props_be_requested()
            body = {"model": "anything", "input": "Hi"}
            client.post(f"{llama_server.origin}/v1/embeddings", json=body)
    first, *others = instrumented.calls()
    assert "llamatelemetry.server.slots" not in first.attributes
    for span in others:
        assert span.attributes["llamatelemetry.server.slots"] == SLOTS
        assert span.attributes["llamatelemetry.server.context_length"] == 1024
        assert span.attributes["llamatelemetry.server.quantization"] == "Q4_1"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_server_facts_are_added_to_span_of_another_instrumentation(
    instrument: Callable[..., Recorder],
    llama_server: LlamaServer,
    let_props_be_requested: Callable[[], None],
    stream: bool,
) -> None:
    instrumented = instrument(llamacpp_props=True)
    tracer = trace.get_tracer("another", tracer_provider=instrumented.tracer_provider)
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
    with httpx.Client(**OPTIONS) as client:
        for _ in range(2):
            with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=attributes):
                body = {**chat_body("Hi"), "stream": stream}
                client.post(f"{llama_server.origin}{CHAT}", json=body)
            let_props_be_requested()
    first, second = instrumented.calls()
    assert {span.instrumentation_scope.name for span in (first, second)} == {"another"}
    assert "llamatelemetry.server.slots" not in first.attributes
    assert second.attributes["llamatelemetry.server.slots"] == SLOTS
    assert second.attributes["llamatelemetry.server.context_length"] == 1024
    assert second.attributes["llamatelemetry.server.quantization"] == "Q4_1"
    assert second.attributes["llamatelemetry.server.build"]
