"""Synchronous and asynchronous clients of a llama.cpp server: every inference call is a span.

`endpoints` defines the requests and `conversation` the protocol, once for both clients. This module
has the public methods of each client.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
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

from llamatelemetry.llama.client import endpoints
from llamatelemetry.llama.client.chat import Chat
from llamatelemetry.llama.client.connection import Connection
from llamatelemetry.llama.client.conversation import converse, run_blocking, wait_until_ready
from llamatelemetry.llama.client.responses import ChatResponse
from llamatelemetry.llama.client.streams import AsyncChatStream, ChatStream

if TYPE_CHECKING:
    from llamatelemetry.llama.client.endpoints import Exchange

P = ParamSpec("P")
T = TypeVar("T")
ResponseT = TypeVar("ResponseT")
StreamT = TypeVar("StreamT")


def _open(connection: Connection, exchange: Exchange[Any]) -> Any:
    result = run_blocking(converse(connection, exchange))
    return ChatStream(*result) if exchange.stream else result


async def _open_async(connection: Connection, exchange: Exchange[Any]) -> Any:
    result = await converse(connection, exchange)
    return AsyncChatStream(*result) if exchange.stream else result


def _method(build: Callable[..., Any]) -> Any:
    """Create a method from a function that returns an exchange, with its signature and docstring."""

    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._open(build(*args, **kwargs))

    signature = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = str(signature.return_annotation).removeprefix("Exchange[").removesuffix("]")
    method.__name__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[client, *signature.parameters.values()], return_annotation=result
    )
    return method


def _call(build: Callable[P, Exchange[T]]) -> Callable[Concatenate[LlamaCppClient, P], T]:
    return _method(build)


def _call_async(
    build: Callable[P, Exchange[T]],
) -> Callable[Concatenate[AsyncLlamaCppClient, P], Coroutine[Any, Any, T]]:
    return _method(build)


class _Client(Generic[ResponseT, StreamT]):
    """The common part of the two clients."""

    # Read by `llamatelemetry.inference.traced_engine`.
    records_its_calls = True
    _open_with: ClassVar[Callable[[Connection, Exchange[Any]], Any]]
    _is_async: ClassVar[bool]

    chat: Chat[ResponseT, StreamT]
    """Chat completions: `client.chat(messages)`; see `Chat.__call__`."""

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
        # Performs an exchange, or returns the coroutine that does. It is not a bound method: a
        # cycle between `chat` and its client would keep the connections open.
        self._open = partial(type(self)._open_with, self._connection)
        self.chat = Chat(self._open)

    @overload
    def complete(
        self, prompt: Any, *, stream: Literal[False] = ..., **sampling: Any
    ) -> ResponseT: ...
    @overload
    def complete(self, prompt: Any, *, stream: Literal[True], **sampling: Any) -> StreamT: ...
    def complete(
        self, prompt: Any, *, stream: bool = False, **sampling: Any
    ) -> ResponseT | StreamT:
        """Request a continuation of a text from the native `/completion`: `response.content`.

        Args:
            prompt: A text, its tokens, or a list of texts or token lists.
            stream: Whether to return an iterator over events.
            sampling: Other parameters of the server: `n_predict`, `temperature`, `top_k`,
                `grammar`, `json_schema`, ...
        """
        return self._open(endpoints.complete(prompt, stream, sampling))

    @overload
    def infill(
        self, prefix: str, suffix: str, *, stream: Literal[False] = ..., **sampling: Any
    ) -> ResponseT: ...
    @overload
    def infill(
        self, prefix: str, suffix: str, *, stream: Literal[True], **sampling: Any
    ) -> StreamT: ...
    def infill(
        self, prefix: str, suffix: str, *, stream: bool = False, **sampling: Any
    ) -> ResponseT | StreamT:
        """Generate the text between two texts: `response.content`.

        Args:
            prefix: Text before the gap.
            suffix: Text after the gap.
            stream: Whether to return an iterator over events.
            sampling: Parameters as for `complete`, and `input_extra`, `prompt`.
        """
        return self._open(endpoints.infill(prefix, suffix, stream, sampling))

    @property
    def base_url(self) -> str:
        """Base URL of the server, without `/v1`."""
        return self._connection.base_url

    @property
    def model_name(self) -> str:
        """Model name of the client or of its first response; empty if both are unknown."""
        return self._connection.model or self._connection.response_model or ""

    def as_async(self) -> AsyncLlamaCppClient:
        """Return an asynchronous client of the same server, with the same settings."""
        return AsyncLlamaCppClient(self.base_url, **self._settings)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.shown_url!r})"


class LlamaCppClient(_Client[ChatResponse, ChatStream]):
    r"""A client of one llama.cpp server.

    Each method raises `LlamaServerError` if the server responds with an error, and
    `ServerLoadingError` if it is still loading its model after `load_wait_s`.

    Args:
        base_url: Base URL of the server, with or without `/v1`.
        api_key: API key of the server, if it has one.
        model: Model name for requests; only a router needs it.
        timeout_s: Read timeout: maximum time in seconds until the next byte of a response.
        load_wait_s: How many seconds to retry while the server loads its model.
        strict_operation_names: Whether to record only well-known operation names.

    Examples:
        >>> from llamatelemetry.llama import LlamaCppClient
        >>> client = LlamaCppClient("http://127.0.0.1:8080")
        >>> client.wait_until_ready(timeout_s=60)
        >>> question = [{"role": "user", "content": "Name a color."}]
        >>> response = client.chat(question, max_tokens=4, temperature=0)
        >>> response.choices[0].finish_reason, response.usage.completion_tokens
        ('length', 4)
        >>> for chunk in client.chat(question, max_tokens=4, stream=True):
        ...     text = chunk.choices[0].delta.content or ""
        >>> text = client.generate("The moon is", max_tokens=4, stop_sequences=["."])
        >>> client.complete("The moon is", n_predict=4).tokens_predicted
        4
        >>> client.detokenize(client.tokenize("Hello"))
        'Hello'
        >>> client.apply_template(question)
        '<|im_start|>...Name a color.<|im_end|>\n<|im_start|>assistant\n'
        >>> [len(each.embedding) for each in client.embed(["the sun", "the moon"]).data]
        [576, 576]
        >>> client.health(), client.models().data[0].id
        ({'status': 'ok'}, 'SmolLM2-135M-Instruct')
        >>> len(client.slots()), client.props().total_slots
        (2, 2)
        >>> client.metrics()["tokens_predicted_total"] > 0
        True
        >>> client.rerank("moon", ["the sun"])
        Traceback (most recent call last):
        llamatelemetry.llama.client.errors.LlamaServerError: HTTP 501 not_supported_error: ...
        >>> client.close()
    """

    _open_with = staticmethod(_open)
    _is_async = False

    generate = _call(endpoints.generate)
    embed = _call(endpoints.embed)
    rerank = _call(endpoints.rerank)
    tokenize = _call(endpoints.tokenize)
    detokenize = _call(endpoints.detokenize)
    apply_template = _call(endpoints.apply_template)
    models = _call(endpoints.models)
    props = _call(endpoints.props)
    slots = _call(endpoints.slots)
    metrics = _call(endpoints.metrics)
    health = _call(endpoints.health)

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the server runs and has loaded its model.

        Raises:
            ServerLoadingError: The server is still loading after `timeout_s`.
            TimeoutError: No server responded within `timeout_s`.
        """
        run_blocking(wait_until_ready(self._connection, timeout_s))

    def close(self) -> None:
        """Close the connections."""
        self._connection.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncLlamaCppClient(
    _Client[Coroutine[Any, Any, ChatResponse], Coroutine[Any, Any, AsyncChatStream]]
):
    """The asynchronous version of `LlamaCppClient`: its methods are coroutines.

    Examples:
        >>> import asyncio
        >>> from llamatelemetry.llama import AsyncLlamaCppClient, LlamaCppClient
        >>> async def main():
        ...     async with AsyncLlamaCppClient("http://127.0.0.1:8080") as client:
        ...         messages = [{"role": "user", "content": "Name a color."}]
        ...         response = await client.chat(messages, max_tokens=4)
        ...         async for chunk in await client.chat(messages, max_tokens=4, stream=True):
        ...             text = chunk.choices[0].delta.content or ""
        ...         return response.usage.completion_tokens
        >>> asyncio.run(main())
        4
        >>> LlamaCppClient("http://127.0.0.1:8080").as_async()
        AsyncLlamaCppClient('http://127.0.0.1:8080')
    """

    _open_with = staticmethod(_open_async)
    _is_async = True

    generate = _call_async(endpoints.generate)
    embed = _call_async(endpoints.embed)
    rerank = _call_async(endpoints.rerank)
    tokenize = _call_async(endpoints.tokenize)
    detokenize = _call_async(endpoints.detokenize)
    apply_template = _call_async(endpoints.apply_template)
    models = _call_async(endpoints.models)
    props = _call_async(endpoints.props)
    slots = _call_async(endpoints.slots)
    metrics = _call_async(endpoints.metrics)
    health = _call_async(endpoints.health)

    async def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the server runs and has loaded its model, as `LlamaCppClient.wait_until_ready`."""
        await wait_until_ready(self._connection, timeout_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.http.aclose()

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
