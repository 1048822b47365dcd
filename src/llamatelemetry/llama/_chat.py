"""Chat completions of a client: called directly, or the way the openai client has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from llamatelemetry.llama import _endpoints

if TYPE_CHECKING:
    from llamatelemetry.llama._endpoints import Exchange, Message

WholeT = TypeVar("WholeT")
StreamT = TypeVar("StreamT")


class Chat(Generic[WholeT, StreamT]):
    """Ask for chat completions: ``client.chat(...)``, or ``client.chat.completions.create(...)``.

    ``WholeT`` is what a client gives for a whole reply and ``StreamT`` for a stream; those of an
    asynchronous client have to be awaited.
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
    ) -> WholeT: ...
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
    ) -> WholeT | StreamT:
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
        return self._open(_endpoints.chat(messages, max_tokens, temperature, stream, sampling))

    @property
    def completions(self) -> Chat[WholeT, StreamT]:
        """The same, where the openai client has it."""
        return self

    @overload
    def create(
        self, *, messages: Iterable[Message], stream: Literal[False] = ..., **sampling: Any
    ) -> WholeT: ...
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
    ) -> WholeT | StreamT:
        """Ask as with the openai client: only what is given is sent, ``extra_body`` included."""
        members = {**sampling, **(extra_body or {})}
        return self._open(_endpoints.chat(messages, None, None, stream, members))
