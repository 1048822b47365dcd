"""Responses of a llama.cpp server: unchanged JSON with attribute access."""

from __future__ import annotations

import json
from typing import Any, Final, cast

# Members that are present only if they have a value. Programs written for the openai client read
# them without a check: `chunk.choices[0].delta.content or ""`.
_OPTIONAL: Final = frozenset(
    (
        *("content", "finish_reason", "logprobs", "reasoning_content", "refusal", "role"),
        *("timings", "tool_calls", "usage"),
    )
)


class ChatResponse(dict[str, Any]):
    """A JSON object of the server with attribute access, for all objects inside it, too.

    | Expression | Result |
    |---|---|
    | `response["choices"][0]["message"]` | the member, as in any `dict` |
    | `response.choices[0].message.content` | the member by attribute, also through lists |
    | `response.timings.prompt_ms` | any member that the server sends |
    | `response.items` | the method of `dict`: methods take precedence |
    | `chunk.choices[0].delta.content` | `None` if missing, as for `usage`, `timings`, `tool_calls`, ... |
    | `response.nonsense` | `AttributeError` |

    Examples:
        >>> from llamatelemetry.llama import ChatResponse
        >>> response = ChatResponse({"choices": [{"message": {"content": "Hi"}}], "n": 1})
        >>> response.choices[0].message.content
        'Hi'
        >>> response["choices"][0]["message"]
        {'content': 'Hi'}
        >>> response.usage is None
        True
        >>> response.copy().choice
        Traceback (most recent call last):
        AttributeError: the server's response has no 'choice' here; available: choices, n
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in self.items():
            if isinstance(value, (dict, list)):
                self[name] = _wrap(value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            if name in _OPTIONAL:
                return None
        available = ", ".join(self) or "no members"
        raise AttributeError(f"the server's response has no {name!r} here; available: {available}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in self if name.isidentifier())})

    def copy(self) -> ChatResponse:
        """Return a shallow copy as `ChatResponse`."""
        return _from_object(self)


def _wrap(value: Any) -> Any:
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return found if isinstance(found, ChatResponse) else ChatResponse(found)
    if isinstance(value, list):
        return [_wrap(item) for item in cast("list[Any]", value)]
    return value


def _from_object(members: dict[str, Any]) -> ChatResponse:
    # Skip the constructor: objects inside were converted by this function before.
    response = ChatResponse.__new__(ChatResponse)
    response.update(members)
    return response


def parse_json(content: bytes) -> Any:
    """Parse JSON, with each object as a `ChatResponse`.

    Raises:
        ValueError: The content is not JSON.
    """
    # A token may end inside a multi-byte character.
    return json.loads(content.decode("utf-8", "replace"), object_hook=_from_object)
