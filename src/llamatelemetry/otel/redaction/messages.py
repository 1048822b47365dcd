"""Redacts what was said and keeps its shape: messages and parts stay, their texts are replaced.

Reads the message schema of the OpenTelemetry conventions, the message formats of OpenAI and
Anthropic, and anything nested of these, as objects or as JSON in a text. A field that it does not
know is replaced as a whole: an argument of a tool has names and numbers that tell as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from .content import LABELS, is_label
from .json_text import compact, parse_json

if TYPE_CHECKING:
    from .redaction import Redaction

_LISTS: Final = frozenset(
    {"messages", "parts", "content", "contents", "tool_calls", "choices", "tools", "items"}
)
_OBJECTS: Final = frozenset({"message", "delta", "function", "function_call", "tool_call"})
_TYPED_OBJECTS: Final = frozenset({"server_tool_call", "server_tool_call_response"})
_MARKS: Final = _LISTS | _OBJECTS | {"role", "type"}
_DEEPEST: Final = 16


def redact_messages(value: Any, redaction: Redaction) -> Any:
    """The value with its texts replaced, of the same kind: JSON stays JSON."""
    if isinstance(value, str):
        parsed = parse_json(value)
        if parsed is None:
            return redaction.instead_of(value)
        return compact(_Shape(redaction).of(parsed, 0))
    if isinstance(value, (Mapping, list, tuple)):
        return _Shape(redaction).of(value, 0)
    return redaction.whole(value)


class _Shape:
    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def of(self, value: Any, depth: int) -> Any:
        if depth <= _DEEPEST:
            if isinstance(value, Mapping) and not _MARKS.isdisjoint(
                cast("Mapping[str, Any]", value)
            ):
                return self._object(cast("Mapping[str, Any]", value), depth)
            if isinstance(value, (list, tuple)) and any(
                isinstance(item, (str, Mapping)) for item in cast("Sequence[Any]", value)
            ):
                items = [self.of(item, depth + 1) for item in cast("Sequence[Any]", value)]
                return items if isinstance(value, list) else tuple(items)
        return self._redaction.whole(value)

    def _object(self, value: Mapping[str, Any], depth: int) -> dict[str, Any]:
        is_message = "role" in value
        return {name: self._field(name, item, is_message, depth) for name, item in value.items()}

    def _field(self, name: str, item: Any, is_message: bool, depth: int) -> Any:
        if item is None:
            return None
        # The name of a tool says which one; that of a message says who.
        if (name in LABELS or (name == "name" and not is_message)) and is_label(item):
            return self._redaction.attribute("", item)
        if name in _LISTS and isinstance(item, (list, tuple)):
            return self.of(item, depth + 1)
        if name in _OBJECTS and isinstance(item, Mapping):
            return self._object(cast("Mapping[str, Any]", item), depth + 1)
        if name in _TYPED_OBJECTS and isinstance(item, Mapping):
            return self._typed(cast("Mapping[str, Any]", item))
        return self._redaction.whole(item)

    def _typed(self, item: Mapping[str, Any]) -> dict[str, Any]:
        kind = item.get("type")
        return {
            name: kind if name == "type" and is_label(kind) else self._redaction.whole(each)
            for name, each in item.items()
        }
