"""Replies of a llama.cpp server: the JSON as it is, which can also be read by attribute."""

from __future__ import annotations

import json
from typing import Any, Final, cast

# Members that a reply or a chunk has only when there is something to say. A program written
# for the openai client reads them without asking: ``chunk.choices[0].delta.content or ""``.
_OPTIONAL: Final = frozenset(
    {
        "content",
        "finish_reason",
        "logprobs",
        "reasoning_content",
        "refusal",
        "role",
        "timings",
        "tool_calls",
        "usage",
    }
)


class ChatResponse(dict[str, Any]):
    """A JSON object of the server that also reads by attribute, and so do the objects in it.

    ==========================================  ==============================================
    ``response["choices"][0]["message"]``       as any dict
    ``response.choices[0].message.content``     the same by attribute, through lists as well
    ``response.timings.prompt_ms``              whatever the server sends
    ``response.items``                          the method of ``dict``: methods come first
    ``chunk.choices[0].delta.content``          ``None`` where the object has no such member,
                                                as for the few others that come and go (usage,
                                                timings, tool_calls, ...)
    ``response.nonsense``                       ``AttributeError``
    ==========================================  ==============================================
    """

    __slots__ = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in self.items():
            if isinstance(value, (dict, list)):
                self[name] = _readable(value)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            if name in _OPTIONAL:
                return None
        known = ", ".join(self) or "nothing"
        raise AttributeError(f"the server's reply has no {name!r} here; it has {known}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in self if name.isidentifier())})

    def copy(self) -> ChatResponse:
        """Give a shallow copy, of this kind."""
        return _hook(self)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return found if isinstance(found, ChatResponse) else ChatResponse(found)
    if isinstance(value, list):
        return [_readable(item) for item in cast("list[Any]", value)]
    return value


def _hook(members: dict[str, Any]) -> ChatResponse:
    # Not through the constructor: what is inside has come through here already.
    response = ChatResponse.__new__(ChatResponse)
    response.update(members)
    return response


def parse(content: bytes) -> Any:
    """Parse JSON; objects in it become `ChatResponse`.

    Raises:
        ValueError: it is no JSON.
    """
    # A token can end in the middle of a character.
    return json.loads(content.decode("utf-8", "replace"), object_hook=_hook)
