"""Content capture of the clients: off by default, otherwise as in the plugins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from llamatelemetry.config import effective_config, set_active_config
from llamatelemetry.genai.content import completion_hook
from llamatelemetry.genai.content import recorder as content_module
from llamatelemetry.genai.content.completion_hook import load_completion_hook
from llamatelemetry.llama import LlamaServerError
from tests.support.llama_clients import Driver
from tests.support.loopback_server import ReceivedRequest, ScriptedResponse, loopback, sse
from tests.support.openai_content import (
    CONTENT,
    EVENT,
    EXPECTED,
    HOOK,
    MESSAGES,
    REPLY,
    TOOLS,
    Recording,
    event,
    in_event,
    of,
    on_span,
)
from tests.support.recorder import Recorder

CANARY = "c4n4ry-7f3a"
TIMINGS = {"prompt_n": 3, "prompt_ms": 1.0, "predicted_n": 2, "predicted_ms": 1.0}
NATIVE = {
    "content": f"{CANARY} answer",
    "stop": True,
    "stop_type": "eos",
    "model": "m",
    "prompt": CANARY,
    "timings": TIMINGS,
}
PROMPT = [{"role": "user", "content": f"{CANARY} question"}]
both = pytest.mark.parametrize("kind", ["sync", "async"])


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"id": "1", "model": "m", "choices": [{"delta": delta, "finish_reason": reason}]}


def chat_response(**message: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"finish_reason": "stop", "message": message}]}


def respond(asked: ReceivedRequest) -> ScriptedResponse:
    """Respond as llama.cpp does, with the canary in all texts."""
    texts = [CANARY, " ans", "wer"]
    is_stream = asked.body.get("stream")
    match asked.path, is_stream:
        case "/v1/chat/completions", True:
            head = chunk({"role": "assistant", "content": None})
            chunks = [chunk({"content": text}) for text in texts]
            return ScriptedResponse(chunks=sse(head, *chunks, chunk({}, "stop")))
        case "/v1/chat/completions", _:
            return ScriptedResponse(
                body=chat_response(role="assistant", content=f"{CANARY} answer")
            )
        case "/v1/embeddings", _:
            return ScriptedResponse(body={"data": [{"embedding": [0.5], "index": 0}]})
        case _, True:
            events = [{"content": text, "index": 0, "stop": False} for text in texts]
            return ScriptedResponse(chunks=sse(*events, {**NATIVE, "content": "", "index": 0}))
        case _:
            return ScriptedResponse(body=NATIVE)


CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "chat": ((PROMPT,), {}),
    "chat streamed": ((PROMPT,), {"stream": True}),
    "complete": ((f"{CANARY} question",), {}),
    "complete streamed": ((f"{CANARY} question",), {"stream": True}),
    "generate": ((f"{CANARY} question",), {}),
}
each_call = pytest.mark.parametrize("call", CALLS)


def make(driver: Driver, call: str) -> Any:
    args, kwargs = CALLS[call]
    return driver(call.split(maxsplit=1)[0], *args, **kwargs)


@contextmanager
def captured(mode: str = "span_and_event", **options: Any) -> Iterator[None]:
    try:
        set_active_config(effective_config(capture_content=mode, **options))
        yield
    finally:
        set_active_config(None)


def everything(recorded: Recorder) -> str:
    metrics = [metric.to_json() for metric in recorded.metrics().values()]
    spans = [span.to_json() for span in recorded.spans()]
    return "\n".join([*spans, *metrics, *(record.to_json() for record in recorded.events())])


@both
def test_content_is_not_recorded_by_default(kind, recorded):
    def refuse(asked: ReceivedRequest) -> ScriptedResponse:
        details = {"message": CANARY, "type": "invalid_request_error", "param": CANARY}
        return ScriptedResponse(400, {"error": details})

    with loopback(respond) as server, Driver(kind, server.url) as driver:
        for call in CALLS:
            make(driver, call)
        driver("embed", CANARY)
        driver("infill", CANARY, CANARY)
        driver("rerank", CANARY, [CANARY])
    with loopback(refuse) as server, Driver(kind, server.url) as driver:
        for call in CALLS:
            with pytest.raises(LlamaServerError):
                make(driver, call)
    assert len(recorded.calls()) == 13
    assert recorded.events() == []
    assert CANARY not in everything(recorded)


@both
@each_call
@pytest.mark.parametrize("mode", ["span_only", "event_only", "span_and_event"])
def test_content_is_recorded_on_span_or_in_event_by_mode(kind, call, mode, recorded):
    expected = {
        "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": f"{CANARY} question"}]}
        ],
        "gen_ai.output.messages": [
            {
                "role": "assistant",
                "parts": [{"type": "text", "content": f"{CANARY} answer"}],
                "finish_reason": "stop",
            }
        ],
    }
    with captured(mode), loopback(respond) as server, Driver(kind, server.url) as driver:
        make(driver, call)
    assert on_span(recorded) == ({} if mode == "event_only" else expected)
    if mode == "span_only":
        assert recorded.events() == []
        return
    assert in_event(recorded) == expected
    record, span = event(recorded), recorded.call()
    assert record.log_record.event_name == EVENT
    assert record.log_record.span_id == span.context.span_id
    assert record.instrumentation_scope.name == "llamatelemetry.llama"
    others = {name: value for name, value in of(record).items() if name not in CONTENT}
    assert others.items() <= dict(span.attributes).items()


@both
@pytest.mark.parametrize("stream", [False, True])
def test_content_includes_tools_and_tool_calls(kind, stream, recorded):
    function = REPLY["choices"][0]["message"]["tool_calls"][0]["function"]
    call = {"index": 0, "id": "call_1", "type": "function", "function": {**function}}
    first, rest = {**call, "function": {"name": "weather", "arguments": '{"ci'}}, 'ty":"Paris"}'
    chunks = [
        chunk({"tool_calls": [first]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": rest}}]}),
        chunk({}, "tool_calls"),
    ]
    response = ScriptedResponse(chunks=sse(*chunks)) if stream else ScriptedResponse(body=REPLY)
    with captured(), loopback(lambda _: response) as server, Driver(kind, server.url) as driver:
        driver("chat", MESSAGES, tools=TOOLS, stream=stream)
    assert on_span(recorded) == EXPECTED
    assert in_event(recorded) == EXPECTED


@both
@pytest.mark.parametrize("stream", [False, True])
def test_content_has_reasoning_part_before_text_part(kind, stream, recorded):
    message = {"reasoning_content": "Hm. Well.", "content": "Yes."}
    deltas = [{"reasoning_content": "Hm. "}, {"reasoning_content": "Well."}, {"content": "Yes."}]
    chunks = [*map(chunk, deltas), chunk({}, "stop")]
    response = (
        ScriptedResponse(chunks=sse(*chunks))
        if stream
        else ScriptedResponse(body=chat_response(**message))
    )
    with captured(), loopback(lambda _: response) as server, Driver(kind, server.url) as driver:
        driver("chat", PROMPT, stream=stream)
    (message,) = on_span(recorded)["gen_ai.output.messages"]
    assert message["parts"] == [
        {"type": "reasoning", "content": "Hm. Well."},
        {"type": "text", "content": "Yes."},
    ]


@both
def test_content_has_image_part_without_bytes_beyond_limit(kind, recorded):
    url = "data:image/png;base64," + "AAAA" * 1000
    parts = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    ]
    messages = [{"role": "user", "content": parts}]
    with (
        captured(content_max_chars=100),
        loopback(respond) as server,
        Driver(kind, server.url) as driver,
    ):
        driver("chat", messages)
        assert server.asked[0].body["messages"] == messages
    text, image, link = on_span(recorded)["gen_ai.input.messages"][0]["parts"]
    assert text["content"] == "What?"
    assert (image["type"], image["mime_type"]) == ("blob", "image/png")
    assert len(json.dumps(image)) < 300
    assert link["uri"] == "https://x.test/a.png"


@both
@each_call
def test_content_is_truncated_with_ellipsis(kind, call, recorded):
    with (
        captured(content_max_chars=5),
        loopback(respond) as server,
        Driver(kind, server.url) as driver,
    ):
        make(driver, call)
    for name in ("input", "output"):
        (message,) = on_span(recorded)[f"gen_ai.{name}.messages"]
        assert [part["content"] for part in message["parts"]] == [f"{CANARY[:4]}…"]


@both
def test_content_of_stream_closed_early_has_received_text(kind, recorded):
    with captured(), loopback(respond) as server, Driver(kind, server.url) as driver:
        stream = driver.run(driver.client.chat(PROMPT, stream=True))
        driver.take(stream, 3)
    (message,) = on_span(recorded)["gen_ai.output.messages"]
    assert message["parts"] == [{"type": "text", "content": f"{CANARY} ans"}]


@both
def test_content_of_failed_call_has_input_messages(kind, recorded):
    with (
        captured(),
        loopback(lambda _: ScriptedResponse(400, {"error": {"message": "no"}})) as server,
        Driver(kind, server.url) as driver,
        pytest.raises(LlamaServerError),
    ):
        driver("chat", PROMPT)
    assert set(on_span(recorded)) == {"gen_ai.input.messages"}
    assert in_event(recorded) == on_span(recorded)


@both
def test_embeddings_and_reranking_record_no_content(kind, recorded):
    with captured(), loopback(respond) as server, Driver(kind, server.url) as driver:
        driver("embed", CANARY)
        driver("rerank", CANARY, [CANARY])
    assert len(recorded.calls()) == 2
    assert recorded.events() == []
    assert CANARY not in everything(recorded)


def test_content_is_read_before_application_changes_messages(recorded):
    messages: list[Any] = [dict(PROMPT[0])]
    with captured(), loopback(respond) as server, Driver("sync", server.url) as driver:
        stream = driver.client.chat(iter(messages), stream=True)
        messages[0]["content"] = "changed"
        driver.listed(stream)
        assert server.asked[0].body["messages"] == PROMPT
    (asked,) = on_span(recorded)["gen_ai.input.messages"]
    assert asked["parts"][0]["content"] == f"{CANARY} question"


@both
def test_completion_hook_gets_content_that_is_not_recorded(kind, recorded, monkeypatch):
    entry = EntryPoint("recording", f"{Recording.__module__}:Recording", completion_hook._GROUP)
    points = EntryPoints([entry])
    monkeypatch.setattr(completion_hook, "entry_points", lambda group: points.select(group=group))
    monkeypatch.setenv(HOOK, "recording")
    load_completion_hook.cache_clear()
    try:
        with loopback(respond) as server, Driver(kind, server.url) as driver:
            make(driver, "chat streamed")
        hook: Any = load_completion_hook("recording")
    finally:
        load_completion_hook.cache_clear()
    (given,) = hook.calls
    assert given["inputs"][0].parts[0].content == f"{CANARY} question"
    assert given["outputs"][0].parts[0].content == f"{CANARY} answer"
    assert given["span"].get_span_context() == recorded.call().context
    assert CANARY not in everything(recorded)


def test_content_is_not_parsed_when_span_is_not_sampled(recorded, monkeypatch):
    read: list[str] = []
    original = content_module._read
    monkeypatch.setattr(
        content_module,
        "_read",
        lambda read_it, doing: read.append(doing) or original(read_it, doing),
    )
    not_sampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", not_sampled)
    for mode, expected in (("no_content", 0), ("span_only", 0), ("event_only", 4)):
        with captured(mode), loopback(respond) as server, Driver("sync", server.url) as driver:
            make(driver, "chat")
            make(driver, "complete streamed")
        assert len(read) == expected, mode
