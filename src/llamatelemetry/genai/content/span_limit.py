"""Total size limit for the content of one span, after each part was cut to size.

A long conversation is repeated in each call, and thousands of parts would exceed the limits of a
collector. Output, instructions and tools have priority, then input messages from the newest to the
oldest. A message that does not fit is cut further, and older messages lose their parts:

- `{"role": "user", "parts": [], "truncated": true, "original_chars": 5120}`, counted as JSON
- `dropped_items` on the oldest message that is left: number of messages removed before it

The SDK's limit for attribute length is respected as well, because it would cut JSON in the middle.
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

SPAN_MAX_CHARS: Final = 1 << 20
"""Maximum number of characters of all content JSON of a span. gRPC accepts 4 MiB for a whole batch."""

DROPPED_ITEMS: Final = "dropped_items"

_MOST_ITEMS: Final = 4096
_SHORTEST: Final = 64
# A part also has labels and punctuation.
_PART_CHARS: Final = 1000
_BY_IMPORTANCE: Final = (
    names.GEN_AI_OUTPUT_MESSAGES,
    names.GEN_AI_SYSTEM_INSTRUCTIONS,
    names.GEN_AI_TOOL_DEFINITIONS,
    names.GEN_AI_INPUT_MESSAGES,
)


def fit_on_span(
    found: Mapping[str, list[Any]], part_max_chars: int, value_max_chars: int | None
) -> dict[str, list[Any]]:
    """Return messages, instructions and tools whose JSON fits on one span.

    Their parts were cut to `part_max_chars`; one such part always fits. `value_max_chars` is the
    SDK's limit of an attribute value, if any.
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
    """Return as many of the newest items as fit without texts, and the remaining room."""
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
    """Return the item, or a shortened copy that fits; `None` if nothing would be left."""
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
        # Parameters of a tool stay a valid schema or are removed. Instructions have a content.
        limit = limit_parts if "content" in item else limit_tools
        (part,) = limit([dict(item)], max_chars)
        return _with_true_size(part, item)
    (message,) = limit_messages([item], max_chars)
    pairs = zip(message["parts"], item["parts"], strict=True)
    return {**message, "parts": [_with_true_size(part, before) for part, before in pairs]}


def _with_true_size(part: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Set the original length if the part was already cut before."""
    if ORIGINAL_CHARS in before:
        part[ORIGINAL_CHARS] = max(part[ORIGINAL_CHARS], before[ORIGINAL_CHARS])
    return part
