"""Clients of a llama.cpp server, synchronous and asynchronous: every inference call is a span.

The endpoints are described in `_endpoints` and spoken with in `_conversation`, once for both.
What is here is each client's face, and its way of doing things: with ``await``, or without.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from llamatelemetry.llama import _endpoints
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

    from llamatelemetry.llama._endpoints import Exchange, Message

P = ParamSpec("P")
T = TypeVar("T")


def _named_as(build: Callable[..., Any], method: Callable[..., Any]) -> None:
    """Give a method the name, the documentation and the parameters of what describes its endpoint."""
    method.__name__ = build.__name__
    method.__doc__ = build.__doc__
    described = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(described.return_annotation).removeprefix("Exchange[").removesuffix("]")
    method.__signature__ = described.replace(  # type: ignore[attr-defined]
        parameters=[client, *described.parameters.values()], return_annotation=result
    )


def _call(build: Callable[P, Exchange[T]]) -> Callable[Concatenate[LlamaCppClient, P], T]:
    def method(self: LlamaCppClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(converse(self._connection, build(*args, **kwargs)))

    _named_as(build, method)
    return method


def _call_async(
    build: Callable[P, Exchange[T]],
) -> Callable[Concatenate[AsyncLlamaCppClient, P], Coroutine[Any, Any, T]]:
    async def method(self: AsyncLlamaCppClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._do(converse(self._connection, build(*args, **kwargs)))

    _named_as(build, method)
    return method


class _Client:
    """What the two clients have in common."""

    _is_async = False

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
        self._connection = Connection(
            base_url,
            is_async=self._is_async,
            api_key=api_key,
            model=model,
            timeout_s=timeout_s,
            load_wait_s=load_wait_s,
            strict_operation_names=strict_operation_names,
        )

    @property
    def base_url(self) -> str:
        """The server's address, without ``/v1``."""
        return self._connection.base_url

    @property
    def model_name(self) -> str:
        """The model the client was made for, else the one that a reply has named; empty before that."""
        return self._connection.model or self._connection.learned_model or ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"


class LlamaCppClient(_Client):
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

    def _do(self, steps: Generator[Send | Wait, Any, T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            return done.value

    def _perform(self, step: Send | Wait) -> Any:
        if isinstance(step, Wait):
            return time.sleep(step.seconds)
        response = self._connection.http.send(step.request, stream=step.stream)
        if step.stream and not response.is_success:
            response.read()
        return response

    def _open(self, exchange: Exchange[Any]) -> Any:
        if not exchange.stream:
            return self._do(converse(self._connection, exchange))
        return ChatStream(*self._do(converse_streaming(self._connection, exchange)))

    @property
    def chat(self) -> Chat:
        """Ask for a chat completion: ``client.chat(messages)``. See `Chat`."""
        return Chat(self)

    @overload
    def complete(
        self, prompt: Any, *, stream: Literal[False] = ..., **sampling: Any
    ) -> ChatResponse: ...
    @overload
    def complete(self, prompt: Any, *, stream: Literal[True], **sampling: Any) -> ChatStream: ...
    def complete(
        self, prompt: Any, *, stream: bool = False, **sampling: Any
    ) -> ChatResponse | ChatStream:
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
    ) -> ChatResponse: ...
    @overload
    def infill(
        self, prefix: str, suffix: str, *, stream: Literal[True], **sampling: Any
    ) -> ChatStream: ...
    def infill(
        self, prefix: str, suffix: str, *, stream: bool = False, **sampling: Any
    ) -> ChatResponse | ChatStream:
        """Fill in what is missing between two texts: ``response.content``.

        Args:
            prefix: what stands before.
            suffix: what stands after.
            stream: give an iterator of events instead.
            sampling: as for `complete`; and ``input_extra``, ``prompt``.
        """
        return self._open(_endpoints.infill(prefix, suffix, stream, sampling))

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
        self._do(wait_until_ready(self._connection, timeout_s))

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


class Chat:
    """Chat completions: called directly, or as ``chat.completions.create`` like the openai client."""

    __slots__ = ("_client",)

    def __init__(self, client: LlamaCppClient) -> None:
        self._client = client

    @overload
    def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[False] = ...,
        **sampling: Any,
    ) -> ChatResponse: ...
    @overload
    def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[True],
        **sampling: Any,
    ) -> ChatStream: ...
    def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = 256,
        temperature: float = 0.7,
        *,
        stream: bool = False,
        **sampling: Any,
    ) -> ChatResponse | ChatStream:
        """Ask for the next message of a conversation.

        Args:
            messages: as OpenAI has them; images as ``image_url`` parts.
            max_tokens: how long the answer may be.
            temperature: 0 always takes the likeliest token.
            stream: give an iterator of chunks instead of the whole.
            sampling: whatever the server takes: ``tools``, ``response_format``, ``json_schema``,
                ``grammar``, ``reasoning_format``, ``chat_template_kwargs``, ``top_k``, ``seed``,
                ``model``, ... What is ``None`` is left to the server.
        """
        return self._client._open(
            _endpoints.chat(messages, max_tokens, temperature, stream, sampling)
        )

    @property
    def completions(self) -> Chat:
        """The same, where the openai client has it."""
        return self

    @overload
    def create(
        self, *, messages: Iterable[Message], stream: Literal[False] = ..., **sampling: Any
    ) -> ChatResponse: ...
    @overload
    def create(
        self, *, messages: Iterable[Message], stream: Literal[True], **sampling: Any
    ) -> ChatStream: ...
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> ChatResponse | ChatStream:
        """Ask as with the openai client: only what is given is sent, ``extra_body`` included."""
        members = {**sampling, **(extra_body or {})}
        return self._client._open(_endpoints.chat(messages, None, None, stream, members))


class AsyncLlamaCppClient(_Client):
    """The asynchronous twin of `LlamaCppClient`: the same calls, awaited.

    async with AsyncLlamaCppClient("http://127.0.0.1:8080") as client:
        reply = await client.chat([{"role": "user", "content": "Hello"}])
        async for chunk in await client.chat(messages, stream=True):
            print(chunk.choices[0].delta.content or "", end="")
    """

    _is_async = True

    async def _do(self, steps: Generator[Send | Wait, Any, T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = await self._perform(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            return done.value

    async def _perform(self, step: Send | Wait) -> Any:
        if isinstance(step, Wait):
            return await asyncio.sleep(step.seconds)
        response = await self._connection.http.send(step.request, stream=step.stream)
        if step.stream and not response.is_success:
            await response.aread()
        return response

    async def _open(self, exchange: Exchange[Any]) -> Any:
        if not exchange.stream:
            return await self._do(converse(self._connection, exchange))
        return AsyncChatStream(*await self._do(converse_streaming(self._connection, exchange)))

    @property
    def chat(self) -> AsyncChat:
        """Ask for a chat completion: ``await client.chat(messages)``. See `Chat`."""
        return AsyncChat(self)

    @overload
    async def complete(
        self, prompt: Any, *, stream: Literal[False] = ..., **sampling: Any
    ) -> ChatResponse: ...
    @overload
    async def complete(
        self, prompt: Any, *, stream: Literal[True], **sampling: Any
    ) -> AsyncChatStream: ...
    async def complete(
        self, prompt: Any, *, stream: bool = False, **sampling: Any
    ) -> ChatResponse | AsyncChatStream:
        """Continue a text, as `LlamaCppClient.complete`."""
        return await self._open(_endpoints.complete(prompt, stream, sampling))

    @overload
    async def infill(
        self, prefix: str, suffix: str, *, stream: Literal[False] = ..., **sampling: Any
    ) -> ChatResponse: ...
    @overload
    async def infill(
        self, prefix: str, suffix: str, *, stream: Literal[True], **sampling: Any
    ) -> AsyncChatStream: ...
    async def infill(
        self, prefix: str, suffix: str, *, stream: bool = False, **sampling: Any
    ) -> ChatResponse | AsyncChatStream:
        """Fill in between two texts, as `LlamaCppClient.infill`."""
        return await self._open(_endpoints.infill(prefix, suffix, stream, sampling))

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
        await self._do(wait_until_ready(self._connection, timeout_s))

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


class AsyncChat:
    """The asynchronous twin of `Chat`."""

    __slots__ = ("_client",)

    def __init__(self, client: AsyncLlamaCppClient) -> None:
        self._client = client

    @overload
    async def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[False] = ...,
        **sampling: Any,
    ) -> ChatResponse: ...
    @overload
    async def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[True],
        **sampling: Any,
    ) -> AsyncChatStream: ...
    async def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = 256,
        temperature: float = 0.7,
        *,
        stream: bool = False,
        **sampling: Any,
    ) -> ChatResponse | AsyncChatStream:
        """Ask for the next message of a conversation, as `Chat.__call__`."""
        return await self._client._open(
            _endpoints.chat(messages, max_tokens, temperature, stream, sampling)
        )

    @property
    def completions(self) -> AsyncChat:
        """The same, where the openai client has it."""
        return self

    @overload
    async def create(
        self, *, messages: Iterable[Message], stream: Literal[False] = ..., **sampling: Any
    ) -> ChatResponse: ...
    @overload
    async def create(
        self, *, messages: Iterable[Message], stream: Literal[True], **sampling: Any
    ) -> AsyncChatStream: ...
    async def create(
        self,
        *,
        messages: Iterable[Message],
        stream: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> ChatResponse | AsyncChatStream:
        """Ask as with the openai client, as `Chat.create`."""
        members = {**sampling, **(extra_body or {})}
        return await self._client._open(_endpoints.chat(messages, None, None, stream, members))
