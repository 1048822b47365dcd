"""What a completion hook gets where opentelemetry-util-genai is not installed: the same shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class TextPart:
    """Text that was sent to the model or came from it."""

    content: str
    type: Literal["text"] = "text"


@dataclass
class ReasoningPart:
    """What a model thought before its answer."""

    content: str
    type: Literal["reasoning"] = "reasoning"


@dataclass
class ToolCallRequestPart:
    """A call that the model wants made."""

    arguments: Any
    name: str
    id: str | None
    type: Literal["tool_call"] = "tool_call"


@dataclass
class ToolCallResponsePart:
    """What came of a tool call."""

    response: Any
    id: str | None
    type: Literal["tool_call_response"] = "tool_call_response"


@dataclass
class ServerToolCallPart:
    """A tool that the provider ran itself."""

    name: str
    server_tool_call: Any
    id: str | None = None
    type: Literal["server_tool_call"] = "server_tool_call"


@dataclass
class ServerToolCallResponsePart:
    """What came of a tool that the provider ran itself."""

    server_tool_call_response: Any
    id: str | None = None
    type: Literal["server_tool_call_response"] = "server_tool_call_response"


@dataclass
class CompactionPart:
    """The provider has compacted the conversation."""

    id: str | None = None
    content: str | None = None
    type: Literal["compaction"] = "compaction"


@dataclass
class BlobPart:
    """Binary data that was sent along."""

    mime_type: str | None
    modality: str
    content: bytes
    type: Literal["blob"] = "blob"


@dataclass
class FilePart:
    """A file that the provider has."""

    mime_type: str | None
    modality: str
    file_id: str
    type: Literal["file"] = "file"


@dataclass
class UriPart:
    """Something at a URL."""

    mime_type: str | None
    modality: str
    uri: str
    type: Literal["uri"] = "uri"


@dataclass
class OtherPart:
    """A part that the conventions have no type for."""

    type: str
    content: Any = None


@dataclass
class InputMessage:
    """A message that was sent to the model."""

    role: str
    parts: list[Any]
    name: str | None = None


@dataclass
class OutputMessage:
    """A message that came from the model."""

    role: str
    parts: list[Any]
    finish_reason: str | None = None
    name: str | None = None


@dataclass
class FunctionToolDefinition:
    """A function that the model may ask for."""

    name: str
    description: str | None
    parameters: Any
    type: Literal["function"] = "function"


@dataclass
class GenericToolDefinition:
    """Any other tool."""

    name: str
    type: str
