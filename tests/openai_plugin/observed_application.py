"""An application that records what it observes, to compare runs with and without the plugin.

The observations must be equal: values and types, exceptions with their causes, the sent bytes, the
state of the response and the current span.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from llamatelemetry.config import LlamaTelemetryConfig
from llamatelemetry.genai import known_servers
from llamatelemetry_instrumentation_openai import OpenAIInstrumentor
from tests.support import payloads
from tests.support.recorder import Recorder

# The headers that propagation adds to a request.
_ADDED_HEADERS = {"traceparent", "tracestate"}


@dataclass(frozen=True)
class ServerResponse:
    """The response of a server: a body in chunks, which may be interrupted."""

    chunks: tuple[bytes, ...]
    media: str = "application/json"
    status: int = 200
    is_interrupted: bool = False

    def build(self) -> Any:
        broken = [payloads.http.ReadError("connection lost")] if self.is_interrupted else []
        body = payloads.Parts(*self.chunks, *broken)
        headers = {"content-type": self.media}
        return payloads.http.Response(self.status, stream=body, headers=headers)


class ObservedApplication:
    """An application with a sync or an async client, and its observations."""

    def __init__(self, response: ServerResponse, is_async: bool) -> None:
        def respond(request: Any) -> Any:
            self._record_request(request)
            self._response = response.build()
            self._body = self._response.stream  # The client replaces it.
            return self._response

        make: Any = payloads.async_client if is_async else payloads.client
        self.is_async = is_async
        self.client: Any = make(respond)
        self.observations: list[Any] = []
        self._response: Any = None
        self._body: Any = None

    @property
    def has_response(self) -> bool:
        return self._response is not None

    def _record_request(self, request: Any) -> None:
        headers = dict(request.headers)
        for added in _ADDED_HEADERS:
            headers.pop(added, None)
        # The boundary of a multipart form is random.
        media, _, boundary = headers["content-type"].partition("; boundary=")
        content = request.content.replace(boundary.encode(), b"") if boundary else request.content
        self.observations.append(
            (request.method, str(request.url), {**headers, "content-type": media})
        )
        self.observations.append(content)

    def record(self, *values: Any) -> None:
        """Record values, and whether a span is current."""
        current = trace.get_current_span().get_span_context().is_valid
        self.observations.append((tuple(map(_shown, values)), current))

    def record_response(self) -> None:
        """Record the final state of the HTTP response."""
        response = self._response
        state = (response.is_closed, response.is_stream_consumed, response.num_bytes_downloaded)
        self.record(sorted(vars(response)), self._body.closed, *state)

    def record_error(self, error: BaseException) -> None:
        seen: list[BaseException | None] = []
        link: BaseException | None = error
        while link is not None and link not in seen:
            seen.append(link)
            fields = {name: repr(getattr(link, name, None)) for name in ("body", "code", "type")}
            self.observations.append((type(link), str(link), fields, link.__suppress_context__))
            link = link.__cause__ or link.__context__

    async def result(self, value: Any) -> Any:
        """Return the result of a call, awaited if the client is asynchronous."""
        return await value if inspect.isawaitable(value) else value

    @contextlib.asynccontextmanager
    async def enter(self, manager: Any) -> Any:
        """Enter a context manager, sync or async."""
        if hasattr(manager, "__aenter__"):
            async with manager as value:
                yield value
        else:
            with manager as value:
                yield value

    async def read(self, stream: Any, at_most: int | None = None) -> None:
        """Record the items of a stream, how it ends, and that it stays ended."""
        is_async = hasattr(stream, "__aiter__")
        items = aiter(stream) if is_async else iter(stream)
        count = 0
        try:
            while count != at_most:
                self.record(await anext(items) if is_async else next(items))
                count += 1
        except (StopIteration, StopAsyncIteration):
            self.record("end")
        except Exception as error:  # The client may raise any error.
            self.record_error(error)
        if count != at_most:
            self.record(await anext(items, "ended") if is_async else next(items, "ended"))


def _shown(value: Any) -> tuple[type[Any], str]:
    content = getattr(
        value, "content", None
    )  # The representation of binary content has its address.
    return type(value), repr(content if isinstance(content, bytes) else value)


Program = Callable[[ObservedApplication], Awaitable[None]]


def observations_of(response: ServerResponse, program: Program, is_async: bool) -> list[Any]:
    """Run an application and return its observations. The last one may be an uncaught exception."""

    async def run() -> list[Any]:
        application = ObservedApplication(response, is_async)
        try:
            await program(application)
        except Exception as error:  # The client may raise any error.
            application.record_error(error)
        if application.has_response:
            application.record_response()
        return application.observations

    # A separate context: a change that remains would affect the next run in the same way.
    drive = asyncio.run if is_async else _run_without_event_loop
    return contextvars.copy_context().run(drive, run())


def _run_without_event_loop(program: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without an event loop, as in a synchronous program."""
    try:
        program.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a sync client has waited for something")


def check_same_when_instrumented(
    response: ServerResponse, program: Program, *, is_async: bool, capture: bool
) -> ReadableSpan:
    """Check that the plugin changes no observation. Return the only span."""
    known_servers.forget()
    recorder = Recorder()
    config = LlamaTelemetryConfig(capture_content="span_and_event" if capture else "no_content")
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        instrumented = observations_of(response, program, is_async)
    finally:
        OpenAIInstrumentor().uninstrument()
    uninstrumented = observations_of(response, program, is_async)
    assert instrumented == uninstrumented
    return recorder.call()


def split_at(body: bytes, cuts: Iterable[int] | None) -> tuple[bytes, ...]:
    """Split a body at the given positions, or into bytes. A repeated position gives an empty chunk."""
    inside = range(1, len(body)) if cuts is None else (cut % (len(body) + 1) for cut in cuts)
    return tuple(body[start:end] for start, end in pairwise([0, *sorted(inside), len(body)]))
