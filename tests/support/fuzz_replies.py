"""Checks of the fuzzer for what a server sends: bodies, streams, headers and `/metrics`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from llamatelemetry import genai
from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import Content, Request, Response
from llamatelemetry.genai.content.limits import (
    compact_json,
    limit_messages,
    limit_parts,
    limit_tools,
)
from llamatelemetry.genai.engines import read_engine_headers
from llamatelemetry.genai.engines.proofs import provider_from_info
from llamatelemetry.genai.errors import find_reported_error
from llamatelemetry.genai.streams.observers import StreamObserver
from llamatelemetry.genai.wire.headers import header_attributes
from llamatelemetry.genai.wire.prometheus import parse_metrics
from llamatelemetry.server_metrics.exposition import find_engine, read_figures, read_process_start
from llamatelemetry.server_metrics.llama_cpp import parse_slots
from llamatelemetry.server_metrics.totals import totals_from_json, totals_to_json
from tests.support import payloads
from tests.support.engine_formats import (
    OLLAMA_EMBED,
    SGLANG_REPLY,
    as_events,
    as_lines,
    ollama_chat,
    ollama_chat_objects,
    ollama_generate_objects,
    sglang_events,
)
from tests.support.engine_responses import RESPONSES
from tests.support.json_strategies import exportable
from tests.support.recorder import Recorder
from tests.support.reported_errors import REPORTED_ERRORS

_SUPPORT = Path(__file__).parent
_MAX_CHARS = 40


def check_value(value: Any, where: str = "value", *, can_be_negative: bool = False) -> None:
    """Check that each part of a value can be exported, and that no number in it is negative."""
    if dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            check_value(
                getattr(value, each.name),
                f"{where}.{each.name}",
                # A log probability or a penalty is negative.
                can_be_negative=can_be_negative or each.name in {"attributes", "parameters"},
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_value(key, f"{where} key {key!r}", can_be_negative=True)
            check_value(item, f"{where}[{key!r}]", can_be_negative=can_be_negative)
    elif isinstance(value, (list, tuple, set, frozenset)):
        names = getattr(value, "_fields", None) or [str(number) for number in range(len(value))]
        for name, item in zip(names, value, strict=True):
            check_value(item, f"{where}.{name}", can_be_negative=can_be_negative)
    elif value is not None and not callable(value):
        assert exportable(value), f"{where} cannot be exported: {value!r:.200}"
        if isinstance(value, (int, float)) and not can_be_negative:
            assert value >= 0, f"{where} is negative: {value!r}"


def check_content(content: Content) -> None:
    """Check that the content can be recorded."""
    recorded = (
        limit_messages(content.inputs, _MAX_CHARS),
        limit_messages(content.outputs, _MAX_CHARS),
        limit_parts(content.instructions, _MAX_CHARS),
        limit_tools(content.tools, _MAX_CHARS),
    )
    for value in recorded:
        assert json.loads(compact_json(value).encode()) == value


def check_response(response: Response) -> None:
    """Check a response and its content."""
    check_value(response, "response")
    if response.read_content is not None:
        check_content(response.read_content())


# Bodies


def _recorded() -> Iterator[Any]:
    for path in sorted((_SUPPORT / "engine_replies" / "vllm").glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def bodies() -> list[bytes]:
    plain = [
        *(each["body"] for each in _recorded() if each.get("body")),
        *(each["request"]["body"] for each in _recorded() if each["request"].get("body")),
        *(body for body, _ in REPORTED_ERRORS.values()),
        *(payloads.chat(timings=payloads.TIMINGS), payloads.completion(), payloads.embeddings()),
        *(payloads.response(), payloads.images(), payloads.transcript(), payloads.moderation()),
        *(ollama_chat(content="Hi"), OLLAMA_EMBED, SGLANG_REPLY, [SGLANG_REPLY, SGLANG_REPLY]),
        {"content": [{"type": "text", "text": "Hi"}], "usage": payloads.RESPONSES_USAGE},
        {"model_path": "/m/a.gguf", "model_alias": "a", "total_slots": 2, "build_info": "b1-a"},
        [{"n_ctx": 512, "is_processing": True, "n_prompt_tokens": 7}],
        {"messages": payloads.MESSAGES, "n": 2, "temperature": 0.5, "options": {"seed": 7}},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]},
    ]
    return [*(json.dumps(each).encode() for each in plain), *engine_bodies()]


def engine_bodies() -> Iterator[bytes]:
    for (_, path), engine in RESPONSES.items():
        if engine.is_native:
            yield json.dumps({**engine.fields, "usage": engine.usage}).encode()
        else:
            yield engine.plain(path).content


def check_body(data: bytes) -> None:
    body = genai.parse_body(data, "data")
    genai.may_prove_engine(data, is_bulk_wanted=False)
    capture = genai.BodyCapture()
    capture.feed(data)
    assert repr(capture.parse("data")) == repr(body)
    for parse in (
        *(genai.parse_response, genai.parse_created_response, genai.parse_fetched_response),
        *(genai.parse_messages_response, genai.parse_native_completion),
        *(genai.parse_ollama_response, genai.parse_sglang_response),
    ):
        check_response(parse(body))
    for read in (
        *(find_reported_error, genai.parse_props, genai.provider_from_models, provider_from_info),
        *(parse_slots, totals_from_json, genai.describe_reported_error),
    ):
        check_value(read(body) if read is not totals_from_json else None, read.__name__)
    check_value(totals_to_json(totals_from_json([["vllm", "m", "0", body]])), "totals")
    check_value(genai.describe_status(500, body), "error")
    if isinstance(body, dict):
        _check_request(body)


def _check_request(body: dict[str, Any]) -> None:
    for parse in (
        *(genai.parse_chat_request, genai.parse_completion_request),
        *(genai.parse_responses_request, genai.parse_ollama_chat_request),
        *(genai.parse_ollama_generate_request, genai.parse_sglang_request),
    ):
        check_content(parse(body))
    for parse in (
        *(genai.parse_parameters, genai.parse_responses_parameters),
        *(genai.parse_ollama_parameters, genai.parse_sglang_parameters),
    ):
        check_value(parse(body), parse.__name__, can_be_negative=True)
    assert genai.parse_choice_count(body) >= 1
    assert genai.parse_sglang_choice_count(body) >= 1


def tool_calls() -> list[bytes]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    custom = {"id": "d", "type": "custom", "custom": {"name": "g", "input": "x"}}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"type": "mcp", "server_label": "s"},
    ]
    messages = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]},
        {"role": "assistant", "tool_calls": [call, custom], "function_call": call["function"]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}]},
    ]
    items = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "mcp_call", "name": "f", "arguments": "{", "output": "o", "error": None},
        {"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": "1"}]},
        {"type": "web_search_call", "action": {"queries": ["q"]}, "results": [{"url": "u"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
    ]
    replies: list[Any] = [
        {"messages": messages, "tools": tools},
        {"choices": [{"index": 0, "finish_reason": "tool_calls", "message": messages[1]}]},
        {"input": items, "tools": tools, "instructions": "i"},
        {"id": "r", "output": items, "status": "completed"},
        {"message": {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}},
        {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
    ]
    deltas = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {}}]}}]},
    ]
    return [*(json.dumps(each).encode() for each in replies), payloads.sse(deltas)]


def check_tool_calls(data: bytes) -> None:
    check_body(data)
    check_stream(data)


# Streams


def streams() -> list[bytes]:
    recorded = [
        "".join(f"{line}\n\n" for _, line in each["events"]).encode()
        for each in _recorded()
        if each.get("events")
    ]
    lines = [as_lines(ollama_chat_objects()), as_lines(ollama_generate_objects())]
    return [
        *recorded,
        *(b"".join(each) for each in (*lines, as_events(sglang_events()))),
        payloads.sse(payloads.chat_chunks(usage=payloads.USAGE, timings=payloads.TIMINGS)),
        payloads.sse(payloads.completion_chunks(usage=payloads.USAGE)),
        payloads.sse(payloads.response_events()),
        payloads.sse([*payloads.image_events("image_edit"), *payloads.transcript_events()]),
        *(
            engine.stream(path).content
            for (_, path), engine in RESPONSES.items()
            if _streams_at(path)
        ),
        *(b"data: " + json.dumps(body).encode() + b"\n\n" for body, _ in REPORTED_ERRORS.values()),
        b'\xef\xbb\xbfevent: x\r\ndata: {"a":\r\ndata: 1}\r\n\r\n: ping\r\rdata:{}\r',
    ]


def _streams_at(path: str) -> bool:
    return path.endswith(("/chat/completions", "/v1/completions", "/v1/responses"))


def pieces_of(data: bytes) -> list[bytes]:
    """Split bytes at positions that depend on them alone."""
    size = len(data)
    seed = sum(data[:64]) + size
    cuts = sorted({seed * factor % (size + 1) for factor in (1, 7, 13, 101, 577)})
    return [data[start:end] for start, end in pairwise([0, *cuts, size])]


def check_stream(data: bytes) -> None:
    whole = genai.EventReader().payloads(data)
    pieces = pieces_of(data)
    reader = genai.EventReader()
    assert [each for piece in pieces for each in reader.payloads(piece)] == whole
    events = genai.EventReader().feed(data)
    for accumulator in (
        *(genai.ChatAccumulator(_MAX_CHARS), genai.ResponsesAccumulator(_MAX_CHARS)),
        *(genai.MediaAccumulator(), genai.AnthropicAccumulator()),
        *(genai.LlamaCppAccumulator(2, _MAX_CHARS), genai.OllamaAccumulator(_MAX_CHARS)),
        genai.SGLangAccumulator(2, _MAX_CHARS),
    ):
        for event in events:
            accumulator.add(event)
        genai.model_name(accumulator.model)
        check_response(accumulator.response())


# Calls: what becomes of a stream or a body on a span, in metrics and in the event


@cache
def _recording() -> tuple[Recorder, genai.Instrumenter]:
    recorder = Recorder()
    config = LlamaTelemetryConfig(capture_content="span_and_event")
    instrumenter = genai.Instrumenter("fuzz", "1", config=config, **recorder.providers)
    return recorder, instrumenter


def check_calls(data: bytes) -> None:
    recorder, instrumenter = _recording()
    recorder.clear_spans()
    for observe in (_observe_events, _observe_body, _observe_unknown_server):
        call = instrumenter.start(Request("chat", "openai", "m", stream=True))
        assert call is not None
        call.start_attempt()
        call.mark_headers_received()
        observer = observe(call, data)
        for piece in pieces_of(data):
            observer.on_chunk(piece)
        observer.on_end()
        call.abandon()
    spans = recorder.spans()
    assert sum(span.name == "chat m" for span in spans) == 3, "a span is open"
    for span in spans:
        for name, value in (span.attributes or {}).items():
            assert exportable(value), f"{span.name} {name} cannot be exported: {value!r:.200}"
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time, f"{span.name} ends before it starts"


def _observe_events(call: genai.Call, _data: bytes) -> Any:
    return genai.event_bytes_observer(
        call, genai.ChatAccumulator(_MAX_CHARS), "identity", is_typed=False
    )


def _observe_body(call: genai.Call, _data: bytes) -> Any:
    return genai.BodyBytesObserver(
        call,
        lambda capture: genai.parse_response(capture.parse("data")),
        genai.content_decoder("identity"),
    )


def _observe_unknown_server(call: genai.Call, _data: bytes) -> Any:
    accumulator = genai.ResponsesAccumulator(_MAX_CHARS)
    observer = genai.event_bytes_observer(call, accumulator, "", is_typed=True)
    unknown = genai.ProvisionalObserver(lambda _provider: observer)
    return _Both(unknown, StreamObserver(call))


class _Both:
    """Two observers of the same call: the second one ends it if the first has not confirmed."""

    def __init__(self, first: Any, second: Any) -> None:
        self._observers = (first, second)

    def on_chunk(self, chunk: bytes) -> None:
        self._observers[0].on_chunk(chunk)

    def on_end(self) -> None:
        for each in self._observers:
            each.on_end()


# Headers


def headers() -> list[bytes]:
    sets = [
        *(engine.headers for engine in RESPONSES.values() if engine.headers),
        {"server": "llama.cpp", "content-encoding": "gzip, br", "set-cookie": "secret"},
        {
            f"fireworks-{name}": value
            for name, value in RESPONSES["Fireworks", "/v1/chat/completions"]
            .fields["perf_metrics"]
            .items()
        },
    ]
    return ["\n".join(f"{n}: {v}" for n, v in each.items()).encode() for each in sets]


def check_headers(data: bytes) -> None:
    lines = (line.partition(b":") for line in data.split(b"\n"))
    pairs = [(name.strip(), value.strip()) for name, _, value in lines]
    known = httpx.Headers(pairs)
    plain = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reversed(pairs)
    }
    for headers in (known, plain):
        proved = genai.provider_from_headers(headers)
        for provider in {proved or "tgi", "tgi", "tei", "fireworks"}:
            timings = read_engine_headers(headers, provider)
            check_value(timings, "timings of headers")
        check_value(header_attributes(headers, ["X-*", "server"]), "headers")
    decode = genai.content_decoder(plain.get("content-encoding", "gzip"))
    if decode is not None:
        for piece in pieces_of(data):
            decode(piece)


# Metrics of servers


def metrics_texts() -> list[bytes]:
    # The longest ones would take most of the time.
    files = sorted((_SUPPORT / "engine_metrics").glob("*.txt"))
    return [path.read_bytes()[:20_000] for path in files]


def check_metrics(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    parse_metrics(text)
    check_value(read_process_start(text), "start")
    engine = find_engine(text)
    if engine is None:
        return
    for group, values in read_figures(engine, text).items():
        check_value(group, "group")
        check_value(values, "figures")
