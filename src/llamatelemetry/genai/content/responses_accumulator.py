"""Accumulator for the content of Responses streams. `chat_accumulator` describes its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.content.chat_accumulator import GrowingText
from llamatelemetry.genai.content.limits import limit_parts
from llamatelemetry.genai.content.responses_messages import (
    item_parts,
    output_item_parts,
    output_message,
    parse_responses_content,
)
from llamatelemetry.genai.json_access import get_field
from llamatelemetry.genai.model import Content

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamatelemetry.genai.content.parts import Part

# Maximum number of items, and of texts per item.
_MOST_ENTRIES: Final = 256

# Part type of each delta, for an interrupted item.
_DELTAS: Final = {
    "response.output_text.delta": "output_text",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning_text",
    "response.reasoning_summary_text.delta": "summary_text",
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}
_ENDINGS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


class ResponsesContentAccumulator:
    """Accumulator for the content of a Responses stream.

    The last event repeats the whole response, and `read` parses it. For an interrupted stream, the
    completed items and the deltas of the others are used, `max_chars` of each text.
    """

    __slots__ = ("_items", "_max_chars", "_read", "_response")

    def __init__(
        self, max_chars: int, read: Callable[[Any], Content] = parse_responses_content
    ) -> None:
        self._max_chars = max_chars
        self._read = read
        self._response: Any = None
        self._items: dict[Any, _ItemAccumulator] = {}

    def add(self, event: Any) -> None:
        """Add one event."""
        try:
            self._add(event)
        except Exception as error:  # The counts in the same event must still be read.
            internal_errors.log_once("reading the content of an event", error)

    def _add(self, event: Any) -> None:
        kind = get_field(event, "type")
        if not isinstance(kind, str):
            return
        field = _DELTAS.get(kind)
        if field is not None:
            item = self._item(event)
            if item is not None:
                item.add(field, get_field(event, "content_index"), get_field(event, "delta"))
        elif kind in _ENDINGS:
            self._response = get_field(event, "response")
            self._items.clear()
        elif kind in {"response.output_item.added", "response.output_item.done"}:
            item = self._item(event)
            if item is not None:
                item.update(get_field(event, "item"), done=kind.endswith("done"))

    def _item(self, event: Any) -> _ItemAccumulator | None:
        key = get_field(event, "output_index")
        key = key if isinstance(key, int) else 0
        accumulator = self._items.get(key)
        if accumulator is None and len(self._items) < _MOST_ENTRIES:
            accumulator = self._items[key] = _ItemAccumulator(self._max_chars)
        return accumulator

    def content(self) -> Content:
        """Return the messages so far."""
        if self._response is not None:
            return self._read(self._response)
        parts = [part for key in sorted(self._items) for part in self._items[key].parts()]
        return Content(outputs=output_message(parts))


class _ItemAccumulator:
    __slots__ = ("_head", "_max_chars", "_parts", "_texts")

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._head: dict[str, Any] = {}
        self._parts: list[Part] | None = None  # set at the end of the item
        self._texts: dict[tuple[str, int], GrowingText] = {}

    def update(self, item: Any, *, done: bool) -> None:
        if done:
            # Cut now: the item itself would keep all its content.
            self._parts = limit_parts(output_item_parts(item), self._max_chars)
            self._texts.clear()
        else:
            self._head = {name: get_field(item, name) for name in ("type", "id", "call_id", "name")}

    def add(self, field: str, index: Any, chunk: Any) -> None:
        key = (field, index if isinstance(index, int) else 0)
        growing = self._texts.get(key)
        if growing is None:
            if len(self._texts) >= _MOST_ENTRIES:
                return
            growing = self._texts[key] = GrowingText(self._max_chars)
        growing.add(chunk)

    def parts(self) -> list[Part]:
        if self._parts is not None:
            return self._parts
        item = dict(self._head)
        content: list[dict[str, Any]] = []
        for (field, _), growing in self._texts.items():
            if field in {"arguments", "input", "code"}:
                item[field] = growing.result()
            else:
                name = "refusal" if field == "refusal" else "text"
                content.append({"type": field, name: growing.result()})
        return item_parts({**item, "content": content} if content else item)
