"""Redaction of messages: messages and parts stay, their text is replaced.

Handles the message schema of the OpenTelemetry conventions, the message formats of OpenAI and
Anthropic, and anything nested of these, as objects or as JSON text. An unknown field is replaced
as a whole, because names and numbers in the arguments of a tool reveal content too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry.otel.redaction.attribute_names import LABELS, is_label

if TYPE_CHECKING:
    from llamatelemetry.otel.redaction.redactor import Redaction

_LISTS: Final = frozenset(
    {"messages", "parts", "content", "contents", "tool_calls", "choices", "tools", "items"}
)
_OBJECTS: Final = frozenset({"message", "delta", "function", "function_call", "tool_call"})
_TYPED_OBJECTS: Final = frozenset({"server_tool_call", "server_tool_call_response"})
_MESSAGE_KEYS: Final = _LISTS | _OBJECTS | {"role", "type"}
_MAX_DEPTH: Final = 16


def redact_messages(value: Any, redaction: Redaction) -> Any:
    """Return the value with its text replaced, of the same type: JSON text stays JSON text."""
    if isinstance(value, str):
        parsed = parse_json(value)
        if parsed is None:
            return redaction.replacement_for(value)
        return compact_json(_MessageRedaction(redaction).value(parsed, 0))
    if isinstance(value, (Mapping, list, tuple)):
        return _MessageRedaction(redaction).value(value, 0)
    return redaction.whole(value)


class _MessageRedaction:
    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def value(self, value: Any, depth: int) -> Any:
        if depth <= _MAX_DEPTH:
            if isinstance(value, Mapping) and not _MESSAGE_KEYS.isdisjoint(
                cast("Mapping[str, Any]", value)
            ):
                return self._object(cast("Mapping[str, Any]", value), depth)
            if isinstance(value, (list, tuple)) and any(
                isinstance(item, (str, Mapping)) for item in cast("Sequence[Any]", value)
            ):
                items = [self.value(item, depth + 1) for item in cast("Sequence[Any]", value)]
                return items if isinstance(value, list) else tuple(items)
        return self._redaction.whole(value)

    def _object(self, value: Mapping[str, Any], depth: int) -> dict[str, Any]:
        is_message = "role" in value
        return {
            self._name(name): self._field(name, item, is_message, depth)
            for name, item in value.items()
        }

    def _name(self, name: object) -> str:
        # Text with spaces is not the name of a field: some code used content as a key.
        text = str(name)
        return self._redaction.text(text) if is_label(text) else self._redaction.whole(text)

    def _field(self, name: str, item: Any, is_message: bool, depth: int) -> Any:
        if item is None or self._redaction.is_key(name):
            return self._redaction.whole(item)
        # The name of a tool identifies it; the name in a message may be that of a person.
        if (name in LABELS or (name == "name" and not is_message)) and is_label(item):
            return self._redaction.attribute("", item)
        if name in _LISTS and isinstance(item, (list, tuple)):
            return self.value(item, depth + 1)
        if name in _OBJECTS and isinstance(item, Mapping):
            return self._object(cast("Mapping[str, Any]", item), depth + 1)
        if name in _TYPED_OBJECTS and isinstance(item, Mapping):
            return self._typed_object(cast("Mapping[str, Any]", item))
        return self._redaction.whole(item)

    def _typed_object(self, item: Mapping[str, Any]) -> dict[str, Any]:
        kind = item.get("type")
        return {
            self._name(name): self._redaction.attribute("", kind)
            if name == "type" and is_label(kind)
            else self._redaction.whole(each)
            for name, each in item.items()
        }


def parse_json(text: str) -> Any | None:
    """Parse a JSON object or array. Return `None` for any other text.

    Also `None` if an object has the same key twice: the parser keeps only one of the values, so
    the other would not be redacted.
    """
    if text[:1].isalnum() or text[:64].lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError):
        return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def compact_json(value: Any) -> str:
    """Return JSON without spaces and with non-ASCII letters unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
