"""Every operation of the client: its arguments and the responses of servers to it."""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support import payloads

VERSION = payloads.OPENAI


class Greeting(BaseModel):
    greeting: str


@dataclass(frozen=True)
class Operation:
    """One method of the client.

    Attributes:
        name: Name of the test case.
        path: Attributes from a client to the resource with the method.
        arguments: Arguments of the method.
        method: Name of the method.
        body: Body of a successful plain response, as JSON or as bytes of another type.
        events: Events of a successful stream; `None` if the method does not stream.
        span_name: Span name of the call.
        since: First version of openai with this method. `streams_since` applies to its streams.
        tokens: Input and output tokens in the successful responses.
    """

    name: str
    path: str
    arguments: dict[str, Any]
    method: str = "create"
    body: Any = None
    events: Callable[[], list[dict[str, Any]]] | None = None
    span_name: str = ""
    since: tuple[int, int] = (1, 26)
    streams_since: tuple[int, int] = (1, 26)
    tokens: tuple[int | None, int | None] = (21, 5)
    response_id: str | None = None
    response_model: str | None = "smol-v1"

    @property
    def is_named(self) -> bool:
        """Whether its spans have an operation name, without which no metrics are recorded."""
        return self.name != "moderation"

    @property
    def is_measured(self) -> bool:
        """Whether its streams are timed."""
        return self.name != "fetch_response"

    def call(self, client: Any, **options: Any) -> Any:
        """Call the method of a client. `face` names one of its raw variants."""
        return self.bound(client, options.pop("face", None))(**self.sent(), **options)

    def bound(self, client: Any, face: str | None = None) -> Any:
        resource = client
        for name in self.path.split("."):
            resource = getattr(resource, name)
        if face is not None:
            resource = getattr(resource, face)
        return getattr(resource, self.method)

    def sent(self) -> dict[str, Any]:
        """Return the arguments, with new files."""
        return {
            name: value() if callable(value) and not isinstance(value, type) else value
            for name, value in self.arguments.items()
        }

    @property
    def plain(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def media(self) -> str:
        return "audio/mpeg" if isinstance(self.body, bytes) else "application/json"

    @property
    def stream(self) -> bytes:
        assert self.events is not None
        # Only the older endpoints end with [DONE]. The client accepts both.
        return payloads.sse(self.events(), done="/" not in self.name)

    def reply(self, stream: bool) -> Any:
        """Return a complete successful response."""
        if stream:
            return payloads.stream_response(self.stream)
        return payloads.http.Response(200, content=self.plain, headers={"content-type": self.media})


def _file() -> Any:
    return ("sound.wav", io.BytesIO(b"RIFF"))


def _picture() -> Any:
    return ("picture.png", io.BytesIO(b"PNG"))


def _chunks_with_usage() -> list[dict[str, Any]]:
    return payloads.chat_chunks(usage=payloads.USAGE)


_PARSEABLE = {
    "role": "assistant",
    "content": '{"greeting": "Hi"}',
}
ALL = [
    Operation(
        "chat",
        "chat.completions",
        {"model": "smol", "messages": payloads.MESSAGES},
        body=payloads.chat(),
        events=_chunks_with_usage,
        span_name="chat smol",
        response_id="chatcmpl-1",
    ),
    Operation(
        "chat-parse",
        "chat.completions",
        {"model": "smol", "messages": payloads.MESSAGES, "response_format": Greeting},
        method="parse",
        body=payloads.chat(choices=[{"index": 0, "finish_reason": "stop", "message": _PARSEABLE}]),
        span_name="chat smol",
        since=(1, 92),
        response_id="chatcmpl-1",
    ),
    Operation(
        "text_completion",
        "completions",
        {"model": "smol", "prompt": "Hi"},
        body=payloads.completion(),
        events=lambda: payloads.completion_chunks(usage=payloads.USAGE),
        span_name="text_completion smol",
        response_id="cmpl-1",
    ),
    Operation(
        "embeddings",
        "embeddings",
        {"model": "smol", "input": "Hi", "encoding_format": "float"},
        body=payloads.embeddings(),
        span_name="embeddings smol",
        tokens=(7, None),
        response_model="embed-v1",
    ),
    Operation(
        "responses",
        "responses",
        {"model": "smol", "input": "Hi"},
        body=payloads.response(),
        events=payloads.response_events,
        span_name="chat smol",
        since=(1, 66),
        streams_since=(1, 66),
        response_id="resp_1",
    ),
    Operation(
        "responses-parse",
        "responses",
        {"model": "smol", "input": "Hi", "text_format": Greeting},
        method="parse",
        body=payloads.response(),
        span_name="chat smol",
        since=(1, 66),
        response_id="resp_1",
    ),
    Operation(
        "fetch_response",
        "responses",
        {"response_id": "resp_1"},
        method="retrieve",
        body=payloads.response(),
        events=payloads.response_events,
        span_name="fetch_response",
        since=(1, 66),
        streams_since=(1, 88),
        tokens=(None, None),
        response_id="resp_1",
    ),
    Operation(
        "image_generation",
        "images",
        {"model": "paint", "prompt": "a cat"},
        method="generate",
        body=payloads.images(),
        events=lambda: payloads.image_events("image_generation"),
        span_name="generate_content paint",
        streams_since=(1, 98),
        tokens=(50, 30),
        response_model=None,
    ),
    Operation(
        "image_edit",
        "images",
        {"model": "paint", "prompt": "a cat", "image": _picture},
        method="edit",
        body=payloads.images(),
        events=lambda: payloads.image_events("image_edit"),
        span_name="generate_content paint",
        streams_since=(1, 98),
        tokens=(50, 30),
        response_model=None,
    ),
    Operation(
        "image_variation",
        "images",
        {"model": "paint", "image": _picture},
        method="create_variation",
        body=payloads.images(),
        span_name="generate_content paint",
        tokens=(50, 30),
        response_model=None,
    ),
    Operation(
        "speech",
        "audio.speech",
        {"model": "voice", "voice": "alloy", "input": "Hi"},
        body=b"ID3 not json",
        span_name="generate_content voice",
        tokens=(None, None),
        response_model=None,
    ),
    Operation(
        "transcription",
        "audio.transcriptions",
        {"model": "ear", "file": _file},
        body=payloads.transcript(),
        events=payloads.transcript_events,
        span_name="generate_content ear",
        streams_since=(1, 68),
        tokens=(14, 9),
        response_model=None,
    ),
    Operation(
        "speech_translation",
        "audio.translations",
        {"model": "ear", "file": _file},
        body=payloads.transcript(),
        span_name="generate_content ear",
        tokens=(14, 9),
        response_model=None,
    ),
    Operation(
        "moderation",
        "moderations",
        {"model": "mod", "input": "Hi"},
        body=payloads.moderation(),
        span_name="moderation mod",
        tokens=(None, None),
        response_id="modr-1",
        response_model="mod-v1",
    ),
]
# Newer clients deprecate image variations and audio translations, but servers still have them.
IGNORE_DEPRECATED = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
OPERATIONS = [operation for operation in ALL if operation.since <= VERSION]


def streams(operation: Operation) -> bool:
    """Return whether the installed client can stream this operation."""
    return operation.events is not None and operation.streams_since <= VERSION


CASES = [
    pytest.param(operation, is_async, stream, id=f"{operation.name}-{side}-{delivery}")
    for operation in OPERATIONS
    for is_async, side in ((False, "sync"), (True, "async"))
    for stream, delivery in ((False, "plain"), (True, "stream"))
    if not stream or streams(operation)
]
STREAMS = [case for case in CASES if case.values[2]]


class Caller:
    """An application that uses a sync or an async client in the same way, so that one test covers both."""

    def __init__(self, is_async: bool, handler: payloads.Handler, **options: Any) -> None:
        self.is_async = is_async
        self.client: Any = (payloads.async_client if is_async else payloads.client)(
            handler, **options
        )

    async def create(self, operation: Operation, stream: bool, **options: Any) -> Any:
        if stream:
            options["stream"] = True
        result = operation.call(self.client, **options)
        return await result if inspect.isawaitable(result) else result

    async def drain(self, stream: Any) -> list[Any]:
        return [chunk async for chunk in stream] if self.is_async else list(stream)

    async def next(self, stream: Any) -> Any:
        return await anext(aiter(stream)) if self.is_async else next(iter(stream))

    async def close(self, stream: Any) -> None:
        closed = stream.close()
        if inspect.isawaitable(closed):
            await closed

    async def run(self, operation: Operation, stream: bool, **options: Any) -> list[Any]:
        result = await self.create(operation, stream, **options)
        return await self.drain(result) if stream else [result]


def shown(answer: Any) -> tuple[type[Any], Any]:
    """Return a form of the result that equals any other result of the same type and content."""
    content = getattr(answer, "content", None)
    return type(answer), content if isinstance(content, bytes) else answer
