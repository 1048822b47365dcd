"""Scenarios that pass marked secrets through every plugin and client.

Each scenario uses one integration, with a marker in every text of its requests and responses. A new
plugin needs a new scenario in `WITHOUT_CONTENT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
from typing import Any

import openai
from opentelemetry import _logs, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from llamatelemetry import pipeline
from llamatelemetry.llama import LlamaServerError, unwrap_openai_client, wrap_openai_client
from tests.canary.secret_markers import marker, with_markers
from tests.support import openai_operations as operations
from tests.support import payloads
from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_clients import Driver
from tests.support.llama_cpp_responses import ROUTES
from tests.support.loopback_server import ReceivedRequest, ScriptedResponse, loopback

KEY = f"sk-{'c4n4ryc4n4ry'}-{'0' * 24}"
_FACES = (None, "with_raw_response", "with_streaming_response")
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": marker("request.tools.description"),
            "parameters": {
                "type": "object",
                "properties": {marker("request.tools.parameter"): {"type": "string"}},
            },
        },
    }
]
_TOOL_MESSAGES = [
    {"role": "system", "content": marker("request.messages.system")},
    {
        "role": "user",
        "name": marker("request.messages.name"),
        "content": [
            {"type": "text", "text": marker("request.messages.part")},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,YzRuNHJ5"}},
            {"type": "image_url", "image_url": {"url": f"https://x/{marker('request.image_url')}"}},
        ],
    },
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {
                    "name": "weather",
                    "arguments": json.dumps({"city": marker("request.arguments")}),
                },
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": marker("request.tool_result")},
]
_TOOL_REPLY = payloads.chat(
    choices=[
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": marker("reply.content"),
                "reasoning_content": marker("reply.reasoning"),
                "refusal": marker("reply.refusal"),
                "tool_calls": [
                    {
                        "id": "call_2",
                        "type": "function",
                        "function": {
                            "name": "weather",
                            "arguments": json.dumps(
                                {marker("reply.arguments"): marker("reply.argument")}
                            ),
                        },
                    }
                ],
            },
        }
    ]
)


def _operation_with_markers(operation: operations.Operation) -> operations.Operation:
    arguments = with_markers(
        {
            name: value
            for name, value in operation.arguments.items()
            if not callable(value) and name != "messages"
        },
        f"openai.{operation.name}",
    )
    if "messages" in operation.arguments:
        arguments["messages"] = [
            {"role": "user", "content": marker(f"openai.{operation.name}.messages")}
        ]
    for name, value in operation.arguments.items():
        if name in ("file", "image"):
            place = marker(f"openai.{operation.name}.{name}")
            arguments[name] = (f"{place}.bin", io.BytesIO(place.encode()))
        elif callable(value):
            arguments[name] = value
    body = operation.body
    return operations.Operation(
        **{
            **vars(operation),
            "arguments": arguments,
            "body": marker("reply.audio").encode()
            if isinstance(body, bytes)
            else with_markers(body, f"openai.{operation.name}.reply"),
            "events": None
            if operation.events is None
            else lambda: [
                with_markers(event, f"openai.{operation.name}.event")
                for event in operation.events()
            ],
        }
    )


def _client_options(server: str = payloads.BASE_URL) -> dict[str, Any]:
    scheme, _, rest = server.partition("://")
    return {
        "base_url": f"{scheme}://me:{marker('url.password')}@{rest}",
        "api_key": KEY,
        "default_headers": {
            "X-Api-Key": marker("header.key"),
            "Cookie": f"a={marker('header.cookie')}",
        },
        "default_query": {"api-key": marker("url.query")},
    }


def openai_operations() -> None:
    """Call every operation: sync and async, plain and stream, parsed and raw."""
    for operation in operations.OPERATIONS:
        secret = _operation_with_markers(operation)
        for is_async in (False, True):
            for stream in {False, operations.streams(operation)}:
                asyncio.run(_openai_operation(secret, is_async, stream))


async def _openai_operation(operation: Any, is_async: bool, stream: bool) -> None:
    def rewound() -> Any:
        for value in operation.arguments.values():
            if isinstance(value, tuple):
                value[1].seek(0)
        return operation

    caller = operations.Caller(is_async, lambda _: operation.reply(stream), **_client_options())
    await caller.run(rewound(), stream)
    if operation.name.endswith("parse"):
        return
    raw = await caller.create(rewound(), stream, face="with_raw_response")
    if not stream and not isinstance(operation.body, bytes):
        raw.parse()
    faced = rewound().call(
        caller.client, face="with_streaming_response", **({"stream": True} if stream else {})
    )
    if is_async:
        async with faced as response:
            await response.read()
    else:
        with faced as response:
            response.read()


def openai_tools() -> None:
    """Send a chat with tools, images, names and extra fields."""
    client = payloads.client(lambda _: payloads.json_response(_TOOL_REPLY), **_client_options())
    client.chat.completions.create(
        model="smol",
        messages=_TOOL_MESSAGES,
        tools=_TOOLS,
        user=marker("request.user"),
        extra_headers={"Authorization": f"Bearer {marker('header.authorization')}"},
        extra_query={"key": marker("url.extra")},
        extra_body={
            "grammar": marker("request.grammar"),
            "prompt": marker("request.extra"),
            "metadata": {"a": marker("request.metadata")},
        },
    )


def openai_stop() -> None:
    """Send stop sequences, which the conventions record as a request parameter."""
    client = payloads.client(lambda _: payloads.json_response(payloads.chat()))
    client.chat.completions.create(
        model="smol", messages=payloads.MESSAGES, stop=[marker("request.stop")]
    )


def openai_errors() -> None:
    """Cause errors that quote the prompt and the key: before, inside and after a response."""
    error = {
        "message": f"{marker('error.message')}: Incorrect API key provided: {KEY}",
        "param": marker("error.param"),
        "code": f"{marker('error.code')} is the code",
        "type": f"{marker('error.type')} is the type",
    }

    def failing(_: Any) -> Any:
        request = payloads.http.Request("POST", f"http://x/?key={marker('error.url')}")
        raise payloads.http.ConnectError(f"refused: {request.url} {marker('error.connect')}")

    handlers = [
        *(
            lambda _, status=status: payloads.json_response({"error": error}, status)
            for status in (400, 401, 404, 429, 500)
        ),
        lambda _: payloads.json_response({"error": error}),
        lambda _: payloads.http.Response(500, content=marker("error.html").encode()),
        lambda _: payloads.http.Response(200, content=f"{{{marker('error.broken')}".encode()),
        failing,
    ]
    for handler in handlers:
        _send_failing_chat(payloads.client(handler, **_client_options()), stream=False)
    streams = [
        [payloads.chunk({"content": marker("stream.content")}), {"error": error}],
        [{"choices": marker("stream.odd"), "usage": marker("stream.usage"), "model": None}],
    ]
    for chunks in streams:
        body = payloads.sse(chunks)
        handler = lambda _, body=body: payloads.stream_response(body)  # noqa: E731
        _send_failing_chat(payloads.client(handler, **_client_options()), stream=True)
    parts = (
        payloads.sse([payloads.chunk({"content": marker("x")})]),
        OSError(marker("error.midstream")),
    )
    handler = lambda _: payloads.chunked_response(*parts, media="text/event-stream")  # noqa: E731
    _send_failing_chat(payloads.client(handler, **_client_options()), stream=True)


def _application_span(name: str) -> Any:
    """Start a span of the application, unless a test examines only the other spans."""
    if os.environ.get("CANARY_OWN_SPANS") == "no":
        return contextlib.nullcontext()
    return trace.get_tracer("app").start_as_current_span(name)


def _send_failing_chat(client: openai.OpenAI, *, stream: bool) -> None:
    """Send a chat inside a span of the application, on which the SDK records the error message."""
    with (
        contextlib.suppress(Exception),
        _application_span("answer a customer"),
    ):
        result: Any = client.chat.completions.create(
            model="smol", messages=[{"role": "user", "content": marker("asked")}], stream=stream
        )
        if stream:
            list(result)


def wrapped_openai_client() -> None:
    """Call a loopback server with one wrapped client."""
    with loopback(_llama_reply) as server:
        options = {**_client_options(f"{server.url}/v1"), "max_retries": 0}
        client = wrap_openai_client(openai.OpenAI(**options))
        try:
            client.chat.completions.create(
                model="smol", messages=[{"role": "user", "content": marker("wrapped.asked")}]
            )
            list(
                client.chat.completions.create(
                    model="smol",
                    messages=[{"role": "user", "content": marker("wrapped.asked")}],
                    stream=True,
                )
            )
        finally:
            unwrap_openai_client(client)
            client.close()


def http_to_llama_cpp() -> None:
    """Send requests to every kind of endpoint with every HTTP library."""
    for caller, call in CALLERS.items():
        for path, (body, reply, stream) in ROUTES.items():
            streamed = caller in STREAMED
            secret = json.loads(json.dumps([body, reply]).replace("SECRET", marker(f"http{path}")))
            events = [event.replace(b"SECRET", marker(f"http{path}").encode()) for event in stream]
            answer = chunked(events) if streamed else plain(json.dumps(secret[1]).encode())
            failure = plain(
                json.dumps({"error": {"message": marker("http.error"), "code": 400}}).encode(),
                status="400 Bad Request",
            )
            with scripted(answer, failure) as server:
                url = server.origin.replace("://", f"://me:{marker('http.password')}@")
                request = CallerRequest(
                    f"{url}{path}?api_key={marker('http.query')}",
                    {**secret[0], "stream": streamed, "grammar": marker("http.grammar")},
                    {
                        "Authorization": f"Bearer {marker('http.header')}",
                        "Cookie": marker("http.cookie"),
                    },
                )
                call(request)
                call(request)
            call(
                CallerRequest(
                    f"http://me:{marker('http.dead')}@127.0.0.1:1{path}?key={marker('http.dead')}",
                    {},
                )
            )


def llama_client() -> None:
    """Make every inference call of the clients for llama.cpp."""
    for kind in ("sync", "async"):
        with loopback(_llama_reply) as server, Driver(kind, server.url, api_key=KEY) as driver:
            messages = [{"role": "user", "content": marker("client.asked")}]
            driver("chat", messages)
            driver("chat", messages, stream=True)
            driver("generate", marker("client.prompt"), stop_sequences=None)
            driver("complete", marker("client.prompt"))
            driver("embed", marker("client.embedded"))
            driver("rerank", marker("client.query"), [marker("client.document")])
            driver("infill", marker("client.prefix"), marker("client.suffix"))
            driver("tokenize", marker("client.tokens"))


def llama_client_errors() -> None:
    """Make calls that fail with an error message that quotes the prompt and the key."""
    for kind in ("sync", "async"):
        with loopback(_llama_error) as server, Driver(kind, server.url, api_key=KEY) as driver:
            messages = [{"role": "user", "content": marker("client.asked")}]
            for call in (("chat", messages), ("complete", marker("client.prompt"))):
                with (
                    contextlib.suppress(LlamaServerError),
                    _application_span("ask"),
                ):
                    driver(*call)


def _llama_reply(request: ReceivedRequest) -> ScriptedResponse:
    path = request.path.partition("?")[0]
    text = marker(f"server{path}")
    body: Any
    if (request.body or {}).get("stream"):
        chunks = [
            payloads.chunk({"role": "assistant", "content": text}),
            payloads.chunk({}, "stop", timings=payloads.TIMINGS),
        ]
        return ScriptedResponse(
            chunks=[f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
        )
    if path.endswith("chat/completions"):
        body = with_markers(payloads.chat(timings=payloads.TIMINGS), "server.chat")
    elif "embeddings" in path:
        body = payloads.embeddings()
    elif "rerank" in path:
        result = {"index": 0, "relevance_score": 0.5, "document": {"text": text}}
        body = {"model": "smol", "results": [result], "usage": {"prompt_tokens": 3}}
    elif "tokenize" in path:
        body = {"tokens": [1, 2]}
    else:
        body = {"content": text, "prompt": text, "stop": True, "model": "smol"}
        body |= {"tokens_predicted": 3, "tokens_evaluated": 9, "timings": payloads.TIMINGS}
    return ScriptedResponse(body=body, headers={"set-cookie": marker("server.cookie")})


def _llama_error(_: ReceivedRequest) -> ScriptedResponse:
    message = f"cannot parse {marker('server.error')} with key {KEY}"
    return ScriptedResponse(
        400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
    )


def transformers_in_process() -> None:
    """Run pipelines and `generate` of small models, and fail with an error that quotes the prompt."""
    from tests.support.transformers_models import llama, make_pipeline, tokenizer

    chat = [{"role": "user", "content": marker("tf.chat")}]
    run = make_pipeline("text-generation", None)
    for inputs in (chat, marker("tf.text"), [marker("tf.batch"), marker("tf.batch")]):
        run(inputs, max_new_tokens=2)
    make_pipeline("feature-extraction", None)(marker("tf.features"))
    make_pipeline("text-classification", None)(marker("tf.classified"))
    inputs = tokenizer()([marker("tf.generate")], return_tensors="pt")
    llama().generate(inputs["input_ids"], max_new_tokens=2)
    with contextlib.suppress(Exception):
        run(chat, max_new_tokens=marker("tf.error"))


def pipelines() -> None:
    """Run workflows and tools with marked arguments, results and errors."""

    @pipeline.tool
    def look_up(question: str, **more: Any) -> dict[str, str]:
        if more:
            raise LookupError(marker("pipeline.error"))
        return {"answer": marker("pipeline.result"), marker("pipeline.key"): question}

    @pipeline.workflow
    def answer(question: str) -> None:
        look_up(question)
        with contextlib.suppress(LookupError):
            look_up(question, hint=marker("pipeline.hint"))

    answer(marker("pipeline.argument"))


def third_party_spans() -> None:
    """Record spans as OpenInference, OpenLLMetry, OpenLIT, util-genai and httpx instrumentation do."""
    shapes: dict[str, dict[str, Any]] = {
        "openinference.instrumentation.openai": {
            "input.value": json.dumps({"messages": [{"role": "user", "content": marker("oi.in")}]}),
            "output.value": marker("oi.out"),
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": marker("oi.message"),
            "llm.input_messages.0.message.contents.0.message_content.text": marker("oi.part"),
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": json.dumps(
                {"city": marker("oi.arguments")}
            ),
            "llm.invocation_parameters": json.dumps(
                {"user": marker("oi.user"), "stop": [marker("oi.x")]}
            ),
            "llm.tools.0.tool.json_schema": json.dumps({"description": marker("oi.tool")}),
            "embedding.embeddings.0.embedding.text": marker("oi.embedded"),
            "retrieval.documents.0.document.content": marker("oi.document"),
            "llm.prompt_template.variables": json.dumps({"name": marker("oi.variable")}),
        },
        "opentelemetry.instrumentation.openai.v1": {
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": marker("ol.prompt"),
            "gen_ai.completion.0.content": marker("ol.completion"),
            "gen_ai.completion.0.tool_calls.0.arguments": json.dumps({"a": marker("ol.arguments")}),
            "llm.request.functions.0.description": marker("ol.function"),
            "llm.request.functions.0.parameters": json.dumps({"a": marker("ol.parameters")}),
            "traceloop.entity.input": json.dumps({"args": [marker("ol.input")], "kwargs": {}}),
            "traceloop.entity.output": marker("ol.output"),
            "gen_ai.headers": str({"authorization": marker("ol.header")}),
        },
        "openlit.instrumentation.openai": {
            "gen_ai.content.prompt": marker("lit.prompt"),
            "gen_ai.content.completion": marker("lit.completion"),
            "gen_ai.tool.args": marker("lit.args"),
        },
        "opentelemetry.util.genai.handler": {
            "gen_ai.input.messages": json.dumps(
                [{"role": "user", "parts": [{"type": "text", "content": marker("util.in")}]}]
            ),
            "gen_ai.output.messages": [{"role": "x", "parts": [{"content": marker("util.out")}]}],
            "gen_ai.system_instructions": f'[{{"type":"text","content":"{marker("util.cut")}',
            "gen_ai.tool.call.result": {
                "deep": [marker("util.result"), {"n": marker("util.deep")}]
            },
        },
        "opentelemetry.instrumentation.httpx": {
            "http.request.header.authorization": (f"Bearer {marker('h.authorization')}",),
            "http.request.header.x_api_key": (marker("h.key"),),
            "http.response.header.set_cookie": (marker("h.cookie"),),
            "url.full": f"https://me:{marker('h.password')}@x/v1?api_key={marker('h.query')}",
            "url.query": f"key={marker('h.query')}",
        },
    }
    for scope, attributes in shapes.items():
        tracer = trace.get_tracer(scope)
        other = tracer.start_span("other")
        link = Link(other.get_span_context(), {"input.value": marker("link")})
        with (
            contextlib.suppress(RuntimeError),
            tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, links=[link]) as span,
        ):
            span.set_attributes(attributes)
            span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": marker("event")})
            span.add_event("gen_ai.user.message", {"content": marker("event.content")})
            raise RuntimeError(marker("exception")) from ValueError(marker("exception.cause"))
        other.set_status(Status(StatusCode.ERROR, marker("status")))
        other.end()


def log_records() -> None:
    """Emit GenAI events of several versions, and the debug logs of libraries about their requests."""
    logger = _logs.get_logger("opentelemetry.instrumentation.openai_v2")
    body = {
        "role": "user",
        "content": marker("log.content"),
        "tool_calls": [{"x": marker("log.call")}],
    }
    logger.emit(event_name="gen_ai.user.message", body=body)
    logger.emit(body={"message": body, "index": 0}, attributes={"event.name": "gen_ai.choice"})
    logger.emit(
        attributes={"gen_ai.input.messages": [{"parts": [{"content": marker("log.part")}]}]}
    )
    try:
        raise ValueError(marker("log.exception"))
    except ValueError as error:
        logger.emit(body=f"failed: {error}", exception=error)
        logging.getLogger("app").exception("failed: %s", error)
    debug = _logs.SeverityNumber.DEBUG
    _logs.get_logger("openai._base_client").emit(severity_number=debug, body=marker("log.debug"))


def application_texts() -> None:
    """Record texts under names that do not stand for content, so that only a pattern finds them."""
    with trace.get_tracer("app").start_as_current_span(f"GET /{marker('own.name')}") as span:
        span.set_attributes({"note": marker("own.note"), "deep": {"a": [marker("own.deep")]}})
        span.add_event(marker("own.event"), {"note": marker("own.event_note")})
    _logs.get_logger("app").emit(
        body={"said": marker("own.log")}, attributes={"note": marker("own.log_note")}
    )
    logging.getLogger("app").warning("said: %s", marker("own.line"))


WITHOUT_CONTENT = (
    openai_operations,
    openai_tools,
    wrapped_openai_client,
    http_to_llama_cpp,
    llama_client,
    pipelines,
)
"""Scenarios of llamatelemetry. None of their texts is recorded unless content is captured."""

IN_PROCESS = (transformers_in_process,)
"""The same for engines in this process, which take long to load."""

ERRORS = (openai_errors, llama_client_errors)
"""Errors inside spans of the application, on which the SDK records their messages."""

THIRD_PARTY = (third_party_spans, log_records)
"""Records of other instrumentations, which redaction covers as well."""

ALWAYS_RECORDED = (openai_stop, application_texts)
"""Texts that are recorded even if content is not captured."""
