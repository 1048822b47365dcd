"""An application that notes down everything it can see, run with the plugin and without it.

What it sees has to be the same both times: values and their types, exceptions with their causes,
the bytes that left, the state of the response, the current span.
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
from tests.openai_plugin import replies
from tests.recorder import Recorder

# What propagation adds to a request on purpose.
_ADDED_HEADERS = {"traceparent", "tracestate"}


@dataclass(frozen=True)
class Served:
    """What a server sends: a body in the pieces that the network delivers, and perhaps no end."""

    pieces: tuple[bytes, ...]
    media: str = "application/json"
    status: int = 200
    breaks: bool = False

    def answer(self) -> Any:
        broken = [replies.http.ReadError("connection lost")] if self.breaks else []
        body = replies.Parts(*self.pieces, *broken)
        headers = {"content-type": self.media}
        return replies.http.Response(self.status, stream=body, headers=headers)


class Witness:
    """A program with a sync or an async client, written once for both, and its notes."""

    def __init__(self, served: Served, is_async: bool) -> None:
        def answer(request: Any) -> Any:
            self._note_request(request)
            self._response = served.answer()
            self._body = self._response.stream  # the client puts its own in its place
            return self._response

        make: Any = replies.async_client if is_async else replies.client
        self.client: Any = make(answer)
        self.notes: list[Any] = []
        self._response: Any = None
        self._body: Any = None

    @property
    def answered(self) -> bool:
        return self._response is not None

    def _note_request(self, request: Any) -> None:
        headers = dict(request.headers)
        for added in _ADDED_HEADERS:
            headers.pop(added, None)
        # Between the parts of a form stands what is different each time.
        media, _, boundary = headers["content-type"].partition("; boundary=")
        content = request.content.replace(boundary.encode(), b"") if boundary else request.content
        self.notes.append((request.method, str(request.url), {**headers, "content-type": media}))
        self.notes.append(content)

    def note(self, *values: Any) -> None:
        """Note values as the application sees them, and whether a span is current here."""
        current = trace.get_current_span().get_span_context().is_valid
        self.notes.append((tuple(map(_shown, values)), current))

    def note_response(self) -> None:
        """Note the state that the HTTP response was left in."""
        response = self._response
        state = (response.is_closed, response.is_stream_consumed, response.num_bytes_downloaded)
        self.note(sorted(vars(response)), self._body.closed, *state)

    def note_error(self, error: BaseException) -> None:
        seen: list[BaseException | None] = []
        link: BaseException | None = error
        while link is not None and link not in seen:
            seen.append(link)
            fields = {name: repr(getattr(link, name, None)) for name in ("body", "code", "type")}
            self.notes.append((type(link), str(link), fields, link.__suppress_context__))
            link = link.__cause__ or link.__context__

    async def result(self, value: Any) -> Any:
        """Give the result of a call, awaited where the client is async."""
        return await value if inspect.isawaitable(value) else value

    @contextlib.asynccontextmanager
    async def entered(self, manager: Any) -> Any:
        """Enter a context manager, sync or async."""
        if hasattr(manager, "__aenter__"):
            async with manager as value:
                yield value
        else:
            with manager as value:
                yield value

    async def read(self, stream: Any, at_most: int | None = None) -> None:
        """Note the items of a stream, how it ends, and that it then has ended."""
        is_async = hasattr(stream, "__aiter__")
        items = aiter(stream) if is_async else iter(stream)
        count = 0
        try:
            while count != at_most:
                self.note(await anext(items) if is_async else next(items))
                count += 1
        except (StopIteration, StopAsyncIteration):
            self.note("end")
        except Exception as error:  # whatever the client makes of it
            self.note_error(error)
        if count != at_most:
            self.note(await anext(items, "ended") if is_async else next(items, "ended"))


def _shown(value: Any) -> tuple[type[Any], str]:
    content = getattr(value, "content", None)  # speech, whose own picture has its address
    return type(value), repr(content if isinstance(content, bytes) else value)


Ask = Callable[[Witness], Awaitable[None]]


def testimony(served: Served, ask: Ask, is_async: bool) -> list[Any]:
    """Run a program and give its notes; what it does not catch is the last of them."""

    async def run() -> list[Any]:
        witness = Witness(served, is_async)
        try:
            await ask(witness)
        except Exception as error:  # whatever the client makes of it
            witness.note_error(error)
        if witness.answered:
            witness.note_response()
        return witness.notes

    # In a context of its own: one that were left changed would change the next run alike.
    drive = asyncio.run if is_async else _without_a_loop
    return contextvars.copy_context().run(drive, run())


def _without_a_loop(program: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, outside any event loop as a sync program is."""
    try:
        program.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a sync client has waited for something")


def same_with_and_without(
    served: Served, ask: Ask, *, is_async: bool, capture: bool
) -> ReadableSpan:
    """See that the plugin changes nothing that an application sees; give the one span it makes."""
    known_servers.forget()
    recorder = Recorder()
    config = LlamaTelemetryConfig(capture_content="span_and_event" if capture else "no_content")
    OpenAIInstrumentor().instrument(**recorder.providers, config=config)
    try:
        seen = testimony(served, ask, is_async)
    finally:
        OpenAIInstrumentor().uninstrument()
    bare = testimony(served, ask, is_async)
    assert seen == bare
    return recorder.call()


def pieces(body: bytes, cuts: Iterable[int] | None) -> tuple[bytes, ...]:
    """Cut a body where the network does, or at each byte; the same cut twice makes an empty piece."""
    inside = range(1, len(body)) if cuts is None else (cut % (len(body) + 1) for cut in cuts)
    return tuple(body[start:end] for start, end in pairwise([0, *sorted(inside), len(body)]))
