"""Fits all the content of one call onto its span, after each part has been cut to size.

A long conversation is sent anew with each call: a thousand parts of the greatest length are more
than a collector takes in one request. What a model said, its instructions and its tools come
first, then what it was asked, the newest message first. A message that no longer fits is cut
shorter, and those before it stay without their parts:

- ``{"role": "user", "parts": [], "truncated": true, "original_chars": 5120}``, counted as JSON
- ``dropped_items`` on the first that is left: how many before it are not there at all

The SDK's own limit on the length of an attribute would cut JSON in two, so it counts too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.limits import (
    ORIGINAL_CHARS,
    TRUNCATED,
    compact_json,
    limit_messages,
    limit_parts,
    limit_tools,
)
from llamatelemetry.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import Span

SPAN_MAX_CHARS: Final = 1 << 20
"""Of the JSON of all content of a span; gRPC takes four times that, in bytes, for a whole batch."""

DROPPED_ITEMS: Final = "dropped_items"

_MOST_ITEMS: Final = 4096
_SHORTEST: Final = 64
# Beside its text, a part has labels and punctuation.
_PART_CHARS: Final = 1000
_BY_IMPORTANCE: Final = (
    names.GEN_AI_OUTPUT_MESSAGES,
    names.GEN_AI_SYSTEM_INSTRUCTIONS,
    names.GEN_AI_TOOL_DEFINITIONS,
    names.GEN_AI_INPUT_MESSAGES,
)


def value_max_chars(span: Span) -> int | None:
    """The SDK's limit on the length of a text attribute, where it is known and there is one."""
    limits = getattr(span, "_limits", None)
    found = getattr(limits, "max_span_attribute_length", None)
    return found if isinstance(found, int) else None


def fit_on_span(
    found: Mapping[str, list[Any]], part_max_chars: int, value_max_chars: int | None
) -> dict[str, list[Any]]:
    """Content whose JSON fits on one span.

    Args:
        found: messages, instructions and tools by attribute, with parts that are cut to size.
        part_max_chars: to which size. One part of it fits in any case.
        value_max_chars: up to which length an attribute keeps its text, if there is a limit.
    """
    left = SPAN_MAX_CHARS + part_max_chars
    if value_max_chars is None and _is_surely_less(found, part_max_chars, left):
        return dict(found)
    fitted: dict[str, list[Any]] = {}
    for name in sorted(found, key=_BY_IMPORTANCE.index):
        allowed = left if value_max_chars is None else min(left, value_max_chars)
        fitted[name], used = _fit(found[name], allowed)
        left -= used
    return {name: fitted[name] for name in found}


def _is_surely_less(
    found: Mapping[str, Sequence[Any]], part_max_chars: int, max_chars: int
) -> bool:
    parts = sum(len(item.get("parts") or ()) + 1 for items in found.values() for item in items)
    return parts * (2 * part_max_chars + _PART_CHARS) < max_chars


def _fit(items: list[Any], max_chars: int) -> tuple[list[Any], int]:
    sizes = [len(compact_json(item)) + 1 for item in items]
    if sum(sizes) + 1 <= max_chars:
        return items, sum(sizes) + 1
    kept, room = _newest_emptied(items, sizes, max_chars)
    first = len(items) - len(kept)
    for at in range(len(items) - 1, first - 1, -1):
        whole = _fitting(items[at], room + len(compact_json(kept[at - first])))
        if whole is None:
            break
        room -= len(compact_json(whole)) - len(compact_json(kept[at - first]))
        kept[at - first] = whole
        if whole is not items[at]:
            break
    if first and kept:
        kept[0] = {**kept[0], DROPPED_ITEMS: first}
    return kept, max_chars - room


def _newest_emptied(items: list[Any], sizes: list[int], max_chars: int) -> tuple[list[Any], int]:
    """As many of the newest as fit without their texts, and the room that is left then."""
    kept: list[Any] = []
    room = max_chars - 2 - len(DROPPED_ITEMS) - 10
    for item, size in zip(reversed(items), reversed(sizes), strict=True):
        emptied = _emptied(item, size - 1)
        needed = len(compact_json(emptied)) + 1
        if needed > room or len(kept) == _MOST_ITEMS:
            break
        kept.append(emptied)
        room -= needed
    return kept[::-1], room


def _emptied(item: Mapping[str, Any], size: int) -> dict[str, Any]:
    marks = {TRUNCATED: True, ORIGINAL_CHARS: size}
    if "parts" in item:
        labels = {name: item[name] for name in ("role", "finish_reason") if name in item}
        return {**labels, "parts": [], **marks}
    labels = {name: item[name] for name in ("type", "name") if name in item}
    if "content" in item:
        labels["content"] = "…"
    return {**labels, **marks}


def _fitting(item: Any, max_chars: int) -> Any | None:
    """The item, else one with parts cut shorter, or None when nothing of it would be left."""
    size = len(compact_json(item))
    if size <= max_chars:
        return item
    part_max_chars = max_chars
    while part_max_chars >= _SHORTEST:
        shorter = _shortened(item, part_max_chars)
        if len(compact_json(shorter)) <= max_chars:
            return shorter
        part_max_chars //= 2
    return None


def _shortened(item: Mapping[str, Any], max_chars: int) -> dict[str, Any]:
    if "parts" not in item:
        # Of a tool, the parameters stay a schema or go; instructions have a content.
        limit = limit_parts if "content" in item else limit_tools
        (part,) = limit([dict(item)], max_chars)
        return _with_true_size(part, item)
    (message,) = limit_messages([item], max_chars)
    pairs = zip(message["parts"], item["parts"], strict=True)
    return {**message, "parts": [_with_true_size(part, before) for part, before in pairs]}


def _with_true_size(part: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What was cut once already had more than what is cut now."""
    if ORIGINAL_CHARS in before:
        part[ORIGINAL_CHARS] = max(part[ORIGINAL_CHARS], before[ORIGINAL_CHARS])
    return part
