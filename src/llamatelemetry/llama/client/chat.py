"""Chat completions of a client: as a method, or with the interface of the openai client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from llamatelemetry.llama.client import endpoints

if TYPE_CHECKING:
    from llamatelemetry.llama.client.endpoints import Exchange, Message

ResponseT = TypeVar("ResponseT")
StreamT = TypeVar("StreamT")


class Chat(Generic[ResponseT, StreamT]):
    """Chat completions: `client.chat(...)`, or `client.chat.completions.create(...)`.

    `ResponseT` is the type that a client returns for a plain response, `StreamT` for a stream.
    Those of an asynchronous client are coroutines.
    """

    __slots__ = ("_open",)

    def __init__(self, open_exchange: Callable[[Exchange[Any]], Any]) -> None:
        self._open = open_exchange

    @overload
    def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[False] = ...,
        **sampling: Any,
    ) -> ResponseT: ...
    @overload
    def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = ...,
        temperature: float = ...,
        *,
        stream: Literal[True],
        **sampling: Any,
    ) -> StreamT: ...
    def __call__(
        self,
        messages: Iterable[Message],
        max_tokens: int = 256,
        temperature: float = 0.7,
        *,
        stream: bool = False,
        **sampling: Any,
    ) -> ResponseT | StreamT:
        """Request the next message of a conversation.

        Args:
            messages: Messages in OpenAI's format; images as `image_url` parts.
            max_tokens: Maximum number of output tokens.
            temperature: Sampling temperature; 0 selects the most likely token.
            stream: Whether to return an iterator over chunks.
            sampling: Other parameters of the server: `tools`, `response_format`, `json_schema`,
                `grammar`, `reasoning_format`, `chat_template_kwargs`, `top_k`, `seed`, `model`,
                ... A parameter that is `None` has the server's default.
        """
        return self._open(endpoints.chat(messages, max_tokens, temperature, stream, sampling))

    @property
    def completions(self) -> Chat[ResponseT, StreamT]:
        """This object, under the name that it has in the openai client."""
        return self

    @overload
    def create(
        self, *, messages: Iterable[Message], stream: Literal[False] = ..., **sampling: Any
    ) -> ResponseT: ...
    @overload
    def create(
        self, *, messages: Iterable[Message], stream: Literal[True], **sampling: Any
    ) -> StreamT: ...
    def create(
        self,
        *,
        messages: Iterable[Message],
        stream: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> ResponseT | StreamT:
        """Request a chat completion as the openai client does: without defaults for parameters."""
        members = {**sampling, **(extra_body or {})}
        return self._open(endpoints.chat(messages, None, None, stream, members))
