"""Clients of a llama.cpp server, synchronous and asynchronous: every inference call is a span.

The endpoints are described in `_endpoints` and spoken with in `_conversation`, once for both.
What is here is each client's face, and its way of doing things: with ``await``, or without.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Self,
    TypeVar,
    overload,
)

from llamatelemetry.llama import _endpoints
from llamatelemetry.llama._chat import Chat
from llamatelemetry.llama._conversation import (
    Connection,
    Send,
    Wait,
    converse,
    converse_streaming,
    wait_until_ready,
)
from llamatelemetry.llama._responses import ChatResponse
from llamatelemetry.llama._streams import AsyncChatStream, ChatStream

if TYPE_CHECKING:
    from types import TracebackType

    from llamatelemetry.llama._endpoints import Exchange

P = ParamSpec("P")
T = TypeVar("T")
WholeT = TypeVar("WholeT")
StreamT = TypeVar("StreamT")


GenerationSteps = Generator[Send | Wait, Any, T]


def _do(connection: Connection, steps: GenerationSteps[T]) -> T:
    """Do what a conversation says is to be done, until it has its result."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = _perform(connection, step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as done:
        return done.value


def _perform(connection: Connection, step: Send | Wait) -> Any:
    if isinstance(step, Wait):
        return time.sleep(step.seconds)
    response = connection.http.send(step.request, stream=step.stream)
    if step.stream and not response.is_success:
        response.read()
    return response


def _open(connection: Connection, exchange: Exchange[Any]) -> Any:
    if not exchange.stream:
        return _do(connection, converse(connection, exchange))
    return ChatStream(*_do(connection, converse_streaming(connection, exchange)))


async def _do_async(connection: Connection, steps: GenerationSteps[T]) -> T:
    try:
        step = next(steps)
        while True:
            try:
                outcome = await _perform_async(connection, step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as done:
        return done.value


async def _perform_async(connection: Connection, step: Send | Wait) -> Any:
    if isinstance(step, Wait):
        return await asyncio.sleep(step.seconds)
    response = await connection.http.send(step.request, stream=step.stream)
    if step.stream and not response.is_success:
        await response.aread()
    return response


async def _open_async(connection: Connection, exchange: Exchange[Any]) -> Any:
    if not exchange.stream:
        return await _do_async(connection, converse(connection, exchange))
    return AsyncChatStream(*await _do_async(connection, converse_streaming(connection, exchange)))


def _method(build: Callable[..., Any]) -> Any:
    """Make a method of a function that describes an exchange: its name, parameters and documentation."""

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._open(build(*args, **kwargs))

    described = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(described.return_annotation).removeprefix("Exchange[").removesuffix("]")
    method.__name__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = described.replace(  # type: ignore[attr-defined]
        parameters=[client, *described.parameters.values()], return_annotation=result
    )
    return method


def _call(build: Callable[P, Exchange[T]]) -> Callable[Concatenate[LlamaCppClient, P], T]:
    return _method(build)


def _call_async(
    build: Callable[P, Exchange[T]],
) -> Callable[Concatenate[AsyncLlamaCppClient, P], Coroutine[Any, Any, T]]:
    return _method(build)


class _Client(Generic[WholeT, StreamT]):
    """What the two clients have in common."""

    records_its_calls = True  # for `llamatelemetry.inference.traced_engine`
    _open_with: ClassVar[Callable[[Connection, Exchange[Any]], Any]]
    _is_async: ClassVar[bool]

    chat: Chat[WholeT, StreamT]
    """Asks for a chat completion: ``client.chat(messages)``; see `Chat.__call__`."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8080",
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 600.0,
        load_wait_s: float = 0.0,
        strict_operation_names: bool = True,
    ) -> None:
        self._settings: dict[str, Any] = {
            "api_key": api_key,
            "model": model,
            "timeout_s": timeout_s,
            "load_wait_s": load_wait_s,
            "strict_operation_names": strict_operation_names,
        }
        self._connection = Connection(base_url, is_async=self._is_async, **self._settings)
        # Has an exchange: gives its result, or, of an asynchronous client, what awaits it. Not
        # a method: `chat` holding its client would be a cycle, and keep its connections open.
        self._open = partial(type(self)._open_with, self._connection)
        self.chat = Chat(self._open)

    @overload
    def complete(self, prompt: Any, *, stream: Literal[False] = ..., **sampling: Any) -> WholeT: ...
    @overload
    def complete(self, prompt: Any, *, stream: Literal[True], **sampling: Any) -> StreamT: ...
    def complete(self, prompt: Any, *, stream: bool = False, **sampling: Any) -> WholeT | StreamT:
        """Continue a text, by the server's native ``/completion``: ``response.content``.

        Args:
            prompt: a text, its tokens, or a list of either.
            stream: give an iterator of events instead.
            sampling: whatever the server takes: ``n_predict``, ``temperature``, ``top_k``,
                ``grammar``, ``json_schema``, ...
        """
        return self._open(_endpoints.complete(prompt, stream, sampling))

    @overload
    def infill(
        self, prefix: str, suffix: str, *, stream: Literal[False] = ..., **sampling: Any
    ) -> WholeT: ...
    @overload
    def infill(
        self, prefix: str, suffix: str, *, stream: Literal[True], **sampling: Any
    ) -> StreamT: ...
    def infill(
        self, prefix: str, suffix: str, *, stream: bool = False, **sampling: Any
    ) -> WholeT | StreamT:
        """Fill in what is missing between two texts: ``response.content``.

        Args:
            prefix: what stands before.
            suffix: what stands after.
            stream: give an iterator of events instead.
            sampling: as for `complete`; and ``input_extra``, ``prompt``.
        """
        return self._open(_endpoints.infill(prefix, suffix, stream, sampling))

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""
        return self._connection.base_url

    @property
    def model_name(self) -> str:
        """The model the client was made for, else the one that a reply has named; empty before that."""
        return self._connection.model or self._connection.learned_model or ""

    def as_async(self) -> AsyncLlamaCppClient:
        """Make an asynchronous client of the same server, with the same settings."""
        return AsyncLlamaCppClient(self.base_url, **self._settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


class LlamaCppClient(_Client[ChatResponse, ChatStream]):
    """A client of one llama.cpp server.

        with LlamaCppClient("http://127.0.0.1:8080") as client:
            reply = client.chat([{"role": "user", "content": "Hello"}])
            print(reply.choices[0].message.content)

    Args:
        base_url: the server's address; a path below it is kept, and ``/v1`` is not needed.
        api_key: what the server was started with, if it was.
        model: the model to name in requests; only a router needs it.
        timeout_s: how long to wait for the next byte of a reply.
        load_wait_s: how long to go on trying while the server loads its model.
        strict_operation_names: record only well-known operation names.

    Raises:
        LlamaServerError: from any call that the server answers with an error.
        ServerLoadingError: the server still loads its model, after ``load_wait_s`` of trying.
    """

    _open_with = staticmethod(_open)
    _is_async = False

    generate = _call(_endpoints.generate)
    embed = _call(_endpoints.embed)
    rerank = _call(_endpoints.rerank)
    tokenize = _call(_endpoints.tokenize)
    detokenize = _call(_endpoints.detokenize)
    apply_template = _call(_endpoints.apply_template)
    models = _call(_endpoints.models)
    props = _call(_endpoints.props)
    slots = _call(_endpoints.slots)
    metrics = _call(_endpoints.metrics)
    health = _call(_endpoints.health)

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the server is there and has loaded its model.

        Raises:
            ServerLoadingError: it is still loading after ``timeout_s``.
            TimeoutError: nobody has answered in that time.
        """
        _do(self._connection, wait_until_ready(self._connection, timeout_s))

    def close(self) -> None:
        """Close the connections."""
        self._connection.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncLlamaCppClient(
    _Client[Coroutine[Any, Any, ChatResponse], Coroutine[Any, Any, AsyncChatStream]]
):
    """The asynchronous twin of `LlamaCppClient`: the same calls, awaited.

    async with AsyncLlamaCppClient("http://127.0.0.1:8080") as client:
        reply = await client.chat([{"role": "user", "content": "Hello"}])
        async for chunk in await client.chat(messages, stream=True):
            print(chunk.choices[0].delta.content or "", end="")
    """

    _open_with = staticmethod(_open_async)
    _is_async = True

    generate = _call_async(_endpoints.generate)
    embed = _call_async(_endpoints.embed)
    rerank = _call_async(_endpoints.rerank)
    tokenize = _call_async(_endpoints.tokenize)
    detokenize = _call_async(_endpoints.detokenize)
    apply_template = _call_async(_endpoints.apply_template)
    models = _call_async(_endpoints.models)
    props = _call_async(_endpoints.props)
    slots = _call_async(_endpoints.slots)
    metrics = _call_async(_endpoints.metrics)
    health = _call_async(_endpoints.health)

    async def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the server is there, as `LlamaCppClient.wait_until_ready`."""
        await _do_async(self._connection, wait_until_ready(self._connection, timeout_s))

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.http.aclose()

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()
