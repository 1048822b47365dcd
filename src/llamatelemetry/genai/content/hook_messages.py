"""Content as the objects that a completion hook gets, and back again as the hook has left it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.hook_types import OtherPart
from llamatelemetry.genai.model import Content
from llamatelemetry.genai.content.parts import CutText

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# By type of part: the class in `opentelemetry.util.genai.types`.
_PART_CLASSES: Final = {
    "text": "TextPart",
    "reasoning": "ReasoningPart",
    "tool_call": "ToolCallRequestPart",
    "tool_call_response": "ToolCallResponsePart",
    "server_tool_call": "ServerToolCallPart",
    "server_tool_call_response": "ServerToolCallResponsePart",
    "compaction": "CompactionPart",
    "blob": "BlobPart",
    "file": "FilePart",
    "uri": "UriPart",
}


class HookMessages:
    """The lists that a hook gets; it may change them and what they hold.

    Args:
        content: what they are made of.
        types: the module with the classes.
    """

    def __init__(self, content: Content, types: Any) -> None:
        self._types = types
        # What an object has no field for. By identity: the objects are alive as long as this is,
        # and one that a hook has put in their place has no such rest.
        self._rests: dict[int, tuple[Any, dict[str, Any]]] = {}
        self.inputs = [self._message("InputMessage", sent) for sent in content.inputs]
        self.outputs = [self._message("OutputMessage", came) for came in content.outputs]
        self.instructions = [self._part(part) for part in content.instructions]
        self.tools = [self._tool(tool) for tool in content.tools]

    def content(self) -> Content:
        """The content as it is now."""
        return Content(
            inputs=self._plain(self.inputs),
            outputs=self._plain(self.outputs),
            instructions=self._plain(self.instructions),
            tools=self._plain(self.tools),
        )

    def _message(self, name: str, message: Mapping[str, Any]) -> Any:
        parts = [self._part(part) for part in message["parts"]]
        return self._make(getattr(self._types, name), {**message, "parts": parts})

    def _part(self, part: Mapping[str, Any]) -> Any:
        kind = getattr(self._types, _PART_CLASSES.get(part["type"], ""), OtherPart)
        return self._make(kind, {name: _whole(value) for name, value in part.items()})

    def _tool(self, tool: Mapping[str, Any]) -> Any:
        is_function = tool["type"] == "function"
        name = "FunctionToolDefinition" if is_function else "GenericToolDefinition"
        return self._make(getattr(self._types, name), tool)

    def _make(self, kind: Any, values: Mapping[str, Any]) -> Any:
        names = {field.name for field in dataclasses.fields(kind)}
        # Fields without a default must be given, and are None where nothing is known.
        required = {
            field.name: None
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        known = {name: value for name, value in values.items() if name in names}
        made = kind(**(required | known))
        rest = {name: value for name, value in values.items() if name not in names}
        if rest:
            self._rests[id(made)] = (made, rest)
        return made

    def _plain(self, made: Iterable[Any]) -> list[dict[str, Any]]:
        return [plain for item in made if (plain := self._plain_item(item))]

    def _plain_item(self, item: Any) -> dict[str, Any]:
        if not dataclasses.is_dataclass(item) or isinstance(item, type):
            return cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        found: dict[str, Any] = {
            field.name: value
            for field in dataclasses.fields(item)
            # Null is a result like any other; elsewhere it is what is not known.
            if (value := getattr(item, field.name)) is not None or field.name == "response"
        }
        if isinstance(found.get("parts"), list):
            found["parts"] = self._plain(found["parts"])
        _, rest = self._rests.get(id(item), (None, {}))
        return found | rest


def _whole(value: Any) -> Any:
    """Bytes and plain text: a hook need not know our ways to hold either."""
    if isinstance(value, BlobData):
        return value.decode()
    if isinstance(value, CutText):
        return str(value)
    if isinstance(value, list):
        return [_whole(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in cast("dict[str, Any]", value).items()}
    return value
