"""Every way in which the plugins and clients that there are can be made to say a secret.

Each talk goes through one integration with a secret in all its places. A new plugin is a new row
of `TALKS`.
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
from tests.canary.words import at, poisoned
from tests.support import openai_operations as operations
from tests.support import replies
from tests.support.byte_server import chunked, plain, scripted
from tests.support.http_callers import CALLERS, STREAMED, CallerRequest
from tests.support.llama_clients import Driver
from tests.support.llama_cpp_responses import ROUTES
from tests.support.loopback_server import Asked, Reply, loopback

KEY = f"sk-{'c4n4ryc4n4ry'}-{'0' * 24}"
_FACES = (None, "with_raw_response", "with_streaming_response")
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": at("request.tools.description"),
            "parameters": {
                "type": "object",
                "properties": {at("request.tools.parameter"): {"type": "string"}},
            },
        },
    }
]
_TOOL_MESSAGES = [
    {"role": "system", "content": at("request.messages.system")},
    {
        "role": "user",
        "name": at("request.messages.name"),
        "content": [
            {"type": "text", "text": at("request.messages.part")},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,YzRuNHJ5"}},
            {"type": "image_url", "image_url": {"url": f"https://x/{at('request.image_url')}"}},
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
                    "arguments": json.dumps({"city": at("request.arguments")}),
                },
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": at("request.tool_result")},
]
_TOOL_REPLY = replies.chat(
    choices=[
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": at("reply.content"),
                "reasoning_content": at("reply.reasoning"),
                "refusal": at("reply.refusal"),
                "tool_calls": [
                    {
                        "id": "call_2",
                        "type": "function",
                        "function": {
                            "name": "weather",
                            "arguments": json.dumps({at("reply.arguments"): at("reply.argument")}),
                        },
                    }
                ],
            },
        }
    ]
)


def _poisoned_operation(operation: operations.Operation) -> operations.Operation:
    arguments = poisoned(
        {
            name: value
            for name, value in operation.arguments.items()
            if not callable(value) and name != "messages"
        },
        f"openai.{operation.name}",
    )
    if "messages" in operation.arguments:
        arguments["messages"] = [
            {"role": "user", "content": at(f"openai.{operation.name}.messages")}
        ]
    for name, value in operation.arguments.items():
        if name in ("file", "image"):
            place = at(f"openai.{operation.name}.{name}")
            arguments[name] = (f"{place}.bin", io.BytesIO(place.encode()))
        elif callable(value):
            arguments[name] = value
    body = operation.body
    return operations.Operation(
        **{
            **vars(operation),
            "arguments": arguments,
            "body": at("reply.audio").encode()
            if isinstance(body, bytes)
            else poisoned(body, f"openai.{operation.name}.reply"),
            "events": None
            if operation.events is None
            else lambda: [
                poisoned(event, f"openai.{operation.name}.event") for event in operation.events()
            ],
        }
    )


def _client_options(server: str = replies.BASE_URL) -> dict[str, Any]:
    scheme, _, rest = server.partition("://")
    return {
        "base_url": f"{scheme}://me:{at('url.password')}@{rest}",
        "api_key": KEY,
        "default_headers": {"X-Api-Key": at("header.key"), "Cookie": f"a={at('header.cookie')}"},
        "default_query": {"api-key": at("url.query")},
    }


def openai_operations() -> None:
    """Every operation: sync and async, plain and stream, parsed and raw."""
    for operation in operations.OPERATIONS:
        secret = _poisoned_operation(operation)
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
    """A chat with tools, images, names, stop sequences and whatever else says something."""
    client = replies.client(lambda _: replies.json_reply(_TOOL_REPLY), **_client_options())
    client.chat.completions.create(
        model="smol",
        messages=_TOOL_MESSAGES,
        tools=_TOOLS,
        user=at("request.user"),
        extra_headers={"Authorization": f"Bearer {at('header.authorization')}"},
        extra_query={"key": at("url.extra")},
        extra_body={
            "grammar": at("request.grammar"),
            "prompt": at("request.extra"),
            "metadata": {"a": at("request.metadata")},
        },
    )


def openai_stop() -> None:
    """What the conventions record of a request: its stop sequences."""
    client = replies.client(lambda _: replies.json_reply(replies.chat()))
    client.chat.completions.create(
        model="smol", messages=replies.MESSAGES, stop=[at("request.stop")]
    )


def openai_errors() -> None:
    """Errors that quote the prompt and the key, before a reply, in it, and in a stream."""
    error = {
        "message": f"{at('error.message')}: Incorrect API key provided: {KEY}",
        "param": at("error.param"),
        "code": f"{at('error.code')} is what you said",
        "type": f"{at('error.type')} was said",
    }

    def failing(_: Any) -> Any:
        request = replies.http.Request("POST", f"http://x/?key={at('error.url')}")
        raise replies.http.ConnectError(f"refused: {request.url} {at('error.connect')}")

    handlers = [
        *(
            lambda _, status=status: replies.json_reply({"error": error}, status)
            for status in (400, 401, 404, 429, 500)
        ),
        lambda _: replies.json_reply({"error": error}),
        lambda _: replies.http.Response(500, content=at("error.html").encode()),
        lambda _: replies.http.Response(200, content=f"{{{at('error.broken')}".encode()),
        failing,
    ]
    for handler in handlers:
        _fails(replies.client(handler, **_client_options()), stream=False)
    streams = [
        [replies.chunk({"content": at("stream.content")}), {"error": error}],
        [{"choices": at("stream.odd"), "usage": at("stream.usage"), "model": None}],
    ]
    for chunks in streams:
        body = replies.sse(chunks)
        handler = lambda _, body=body: replies.stream_reply(body)  # noqa: E731
        _fails(replies.client(handler, **_client_options()), stream=True)
    parts = (replies.sse([replies.chunk({"content": at("x")})]), OSError(at("error.midstream")))
    handler = lambda _: replies.parts_reply(*parts, media="text/event-stream")  # noqa: E731
    _fails(replies.client(handler, **_client_options()), stream=True)


def _own_span(name: str) -> Any:
    """A span of the application's own, unless a test is about what else there is."""
    if os.environ.get("CANARY_OWN_SPANS") == "no":
        return contextlib.nullcontext()
    return trace.get_tracer("app").start_as_current_span(name)


def _fails(client: openai.OpenAI, *, stream: bool) -> None:
    """Within a span of the application's own, which records the error with its words."""
    with (
        contextlib.suppress(Exception),
        _own_span("answer a customer"),
    ):
        result: Any = client.chat.completions.create(
            model="smol", messages=[{"role": "user", "content": at("asked")}], stream=stream
        )
        if stream:
            list(result)


def openai_client_of_our_own() -> None:
    """One client that was wrapped, against a server on loopback."""
    with loopback(_llama_reply) as server:
        options = {**_client_options(f"{server.url}/v1"), "max_retries": 0}
        client = wrap_openai_client(openai.OpenAI(**options))
        try:
            client.chat.completions.create(
                model="smol", messages=[{"role": "user", "content": at("wrapped.asked")}]
            )
            list(
                client.chat.completions.create(
                    model="smol",
                    messages=[{"role": "user", "content": at("wrapped.asked")}],
                    stream=True,
                )
            )
        finally:
            unwrap_openai_client(client)
            client.close()


def http_to_llama_cpp() -> None:
    """Every HTTP library, on every kind of route, with the key in every place."""
    for caller, call in CALLERS.items():
        for path, (body, reply, stream) in ROUTES.items():
            streamed = caller in STREAMED
            secret = json.loads(json.dumps([body, reply]).replace("SECRET", at(f"http{path}")))
            said = [piece.replace(b"SECRET", at(f"http{path}").encode()) for piece in stream]
            answer = chunked(said) if streamed else plain(json.dumps(secret[1]).encode())
            failure = plain(
                json.dumps({"error": {"message": at("http.error"), "code": 400}}).encode(),
                status="400 Bad Request",
            )
            with scripted(answer, failure) as server:
                url = server.origin.replace("://", f"://me:{at('http.password')}@")
                asked = CallerRequest(
                    f"{url}{path}?api_key={at('http.query')}",
                    {**secret[0], "stream": streamed, "grammar": at("http.grammar")},
                    {"Authorization": f"Bearer {at('http.header')}", "Cookie": at("http.cookie")},
                )
                call(asked)
                call(asked)
            call(
                CallerRequest(
                    f"http://me:{at('http.dead')}@127.0.0.1:1{path}?key={at('http.dead')}", {}
                )
            )


def llama_client() -> None:
    """The clients for llama.cpp: every inference call, and errors."""
    for kind in ("sync", "async"):
        with loopback(_llama_reply) as server, Driver(kind, server.url, api_key=KEY) as driver:
            said = [{"role": "user", "content": at("client.asked")}]
            driver("chat", said)
            driver("chat", said, stream=True)
            driver("generate", at("client.prompt"), stop_sequences=None)
            driver("complete", at("client.prompt"))
            driver("embed", at("client.embedded"))
            driver("rerank", at("client.query"), [at("client.document")])
            driver("infill", at("client.prefix"), at("client.suffix"))
            driver("tokenize", at("client.tokens"))


def llama_client_errors() -> None:
    """The same, when the server quotes prompt and key in its refusal."""
    for kind in ("sync", "async"):
        with loopback(_llama_error) as server, Driver(kind, server.url, api_key=KEY) as driver:
            said = [{"role": "user", "content": at("client.asked")}]
            for call in (("chat", said), ("complete", at("client.prompt"))):
                with (
                    contextlib.suppress(LlamaServerError),
                    _own_span("ask"),
                ):
                    driver(*call)


def _llama_reply(asked: Asked) -> Reply:
    path = asked.path.partition("?")[0]
    said = at(f"server{path}")
    body: Any
    if (asked.body or {}).get("stream"):
        chunks = [
            replies.chunk({"role": "assistant", "content": said}),
            replies.chunk({}, "stop", timings=replies.TIMINGS),
        ]
        return Reply(pieces=[f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks])
    if path.endswith("chat/completions"):
        body = poisoned(replies.chat(timings=replies.TIMINGS), "server.chat")
    elif "embeddings" in path:
        body = replies.embeddings()
    elif "rerank" in path:
        result = {"index": 0, "relevance_score": 0.5, "document": {"text": said}}
        body = {"model": "smol", "results": [result], "usage": {"prompt_tokens": 3}}
    elif "tokenize" in path:
        body = {"tokens": [1, 2]}
    else:
        body = {"content": said, "prompt": said, "stop": True, "model": "smol"}
        body |= {"tokens_predicted": 3, "tokens_evaluated": 9, "timings": replies.TIMINGS}
    return Reply(body=body, headers={"set-cookie": at("server.cookie")})


def _llama_error(_: Asked) -> Reply:
    message = f"cannot parse {at('server.error')} with key {KEY}"
    return Reply(400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}})


def transformers_in_process() -> None:
    """Pipelines and `generate` of small models: what they are asked, and errors that quote it."""
    from tests.support.transformers_models import llama, make_pipeline, tokenizer

    chat = [{"role": "user", "content": at("tf.chat")}]
    ask = make_pipeline("text-generation", None)
    for asked in (chat, at("tf.text"), [at("tf.batch"), at("tf.batch")]):
        ask(asked, max_new_tokens=2)
    make_pipeline("feature-extraction", None)(at("tf.features"))
    make_pipeline("text-classification", None)(at("tf.classified"))
    inputs = tokenizer()([at("tf.generate")], return_tensors="pt")
    llama().generate(inputs["input_ids"], max_new_tokens=2)
    with contextlib.suppress(Exception):
        ask(chat, max_new_tokens=at("tf.error"))


def pipelines() -> None:
    """Workflows and tools, with arguments, results and errors that are secrets."""

    @pipeline.tool
    def look_up(question: str, **more: Any) -> dict[str, str]:
        if more:
            raise LookupError(at("pipeline.error"))
        return {"answer": at("pipeline.result"), at("pipeline.key"): question}

    @pipeline.workflow
    def answer(question: str) -> None:
        look_up(question)
        with contextlib.suppress(LookupError):
            look_up(question, hint=at("pipeline.hint"))

    answer(at("pipeline.argument"))


def foreign_spans() -> None:
    """Spans as OpenInference, OpenLLMetry, OpenLIT, util-genai and older conventions make them."""
    shapes: dict[str, dict[str, Any]] = {
        "openinference.instrumentation.openai": {
            "input.value": json.dumps({"messages": [{"role": "user", "content": at("oi.in")}]}),
            "output.value": at("oi.out"),
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": at("oi.message"),
            "llm.input_messages.0.message.contents.0.message_content.text": at("oi.part"),
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": json.dumps(
                {"city": at("oi.arguments")}
            ),
            "llm.invocation_parameters": json.dumps({"user": at("oi.user"), "stop": [at("oi.x")]}),
            "llm.tools.0.tool.json_schema": json.dumps({"description": at("oi.tool")}),
            "embedding.embeddings.0.embedding.text": at("oi.embedded"),
            "retrieval.documents.0.document.content": at("oi.document"),
            "llm.prompt_template.variables": json.dumps({"name": at("oi.variable")}),
        },
        "opentelemetry.instrumentation.openai.v1": {
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": at("ol.prompt"),
            "gen_ai.completion.0.content": at("ol.completion"),
            "gen_ai.completion.0.tool_calls.0.arguments": json.dumps({"a": at("ol.arguments")}),
            "llm.request.functions.0.description": at("ol.function"),
            "llm.request.functions.0.parameters": json.dumps({"a": at("ol.parameters")}),
            "traceloop.entity.input": json.dumps({"args": [at("ol.input")], "kwargs": {}}),
            "traceloop.entity.output": at("ol.output"),
            "gen_ai.headers": str({"authorization": at("ol.header")}),
        },
        "openlit.instrumentation.openai": {
            "gen_ai.content.prompt": at("lit.prompt"),
            "gen_ai.content.completion": at("lit.completion"),
            "gen_ai.tool.args": at("lit.args"),
        },
        "opentelemetry.util.genai.handler": {
            "gen_ai.input.messages": json.dumps(
                [{"role": "user", "parts": [{"type": "text", "content": at("util.in")}]}]
            ),
            "gen_ai.output.messages": [{"role": "x", "parts": [{"content": at("util.out")}]}],
            "gen_ai.system_instructions": f'[{{"type":"text","content":"{at("util.cut")}',
            "gen_ai.tool.call.result": {"deep": [at("util.result"), {"n": at("util.deep")}]},
        },
        "opentelemetry.instrumentation.httpx": {
            "http.request.header.authorization": (f"Bearer {at('h.authorization')}",),
            "http.request.header.x_api_key": (at("h.key"),),
            "http.response.header.set_cookie": (at("h.cookie"),),
            "url.full": f"https://me:{at('h.password')}@x/v1?api_key={at('h.query')}",
            "url.query": f"key={at('h.query')}",
        },
    }
    for scope, attributes in shapes.items():
        tracer = trace.get_tracer(scope)
        other = tracer.start_span("other")
        link = Link(other.get_span_context(), {"input.value": at("link")})
        with (
            contextlib.suppress(RuntimeError),
            tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, links=[link]) as span,
        ):
            span.set_attributes(attributes)
            span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": at("event")})
            span.add_event("gen_ai.user.message", {"content": at("event.content")})
            raise RuntimeError(at("exception")) from ValueError(at("exception.cause"))
        other.set_status(Status(StatusCode.ERROR, at("status")))
        other.end()


def events_and_debug_lines() -> None:
    """Log records: GenAI events of any age, and what libraries log of their requests."""
    logger = _logs.get_logger("opentelemetry.instrumentation.openai_v2")
    body = {"role": "user", "content": at("log.content"), "tool_calls": [{"x": at("log.call")}]}
    logger.emit(event_name="gen_ai.user.message", body=body)
    logger.emit(body={"message": body, "index": 0}, attributes={"event.name": "gen_ai.choice"})
    logger.emit(attributes={"gen_ai.input.messages": [{"parts": [{"content": at("log.part")}]}]})
    try:
        raise ValueError(at("log.exception"))
    except ValueError as error:
        logger.emit(body=f"failed: {error}", exception=error)
        logging.getLogger("app").exception("failed: %s", error)
    debug = _logs.SeverityNumber.DEBUG
    _logs.get_logger("openai._base_client").emit(severity_number=debug, body=at("log.debug"))


def texts_of_the_application() -> None:
    """What is no content by its name: only a pattern can tell."""
    with trace.get_tracer("app").start_as_current_span(f"GET /{at('own.name')}") as span:
        span.set_attributes({"note": at("own.note"), "deep": {"a": [at("own.deep")]}})
        span.add_event(at("own.event"), {"note": at("own.event_note")})
    _logs.get_logger("app").emit(
        body={"said": at("own.log")}, attributes={"note": at("own.log_note")}
    )
    logging.getLogger("app").warning("said: %s", at("own.line"))


TALKS = (
    openai_operations,
    openai_tools,
    openai_client_of_our_own,
    http_to_llama_cpp,
    llama_client,
    pipelines,
)
"""Through our plugins and clients: not a word of it is recorded unless content is captured."""

IN_PROCESS = (transformers_in_process,)
"""Likewise, through plugins for engines in this process: slow to load."""

ERRORS = (openai_errors, llama_client_errors)
"""Errors within spans of the application's own, on which the SDK records their words."""

FOREIGN = (foreign_spans, events_and_debug_lines)
"""What others record, which redaction is to cover too."""

NO_CONTENT = (openai_stop, texts_of_the_application)
"""What is recorded also when content is not captured."""
