"""Responses API as messages in the conventions' schema. Pure functions of JSON or models.

Consecutive items of the model (reasoning, text, tool calls) form one assistant message. Each result
that the application sends back is a message of its own.

| Item | Part |
|---|---|
| message | as in chat; see `parts` |
| reasoning | `reasoning`, for each summary and content text |
| function, custom, shell, computer and patch calls | `tool_call`; their outputs are `tool_call_response` |
| web and file search, code, image, MCP | `server_tool_call`; a result is a `server_tool_call_response` |
| compaction | `compaction`, without its encrypted content |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.messages import parse_tools
from llamatelemetry.genai.content.parts import (
    as_mapping,
    blob_part,
    content_parts,
    custom_call_part,
    other_part,
    parsed_json,
    reasoning_part,
    server_tool_part,
    server_tool_response_part,
    text_part,
    tool_call_part,
    tool_response_part,
)
from llamatelemetry.genai.json_access import as_list, as_str, get_field
from llamatelemetry.genai.model import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from llamatelemetry.genai.content.parts import Part

# Tools that the application runs: default name, and fields with the arguments.
_CLIENT_TOOLS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "computer_call": ("computer", ("action", "actions")),
    "local_shell_call": ("local_shell", ("action",)),
    "shell_call": ("shell", ("action",)),
    "apply_patch_call": ("apply_patch", ("operation",)),
}
# Tools that the provider runs: name, fields of the request, fields of the result.
_SERVER_TOOLS: Final[Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "web_search_call": ("web_search", ("action",), ()),
    "file_search_call": ("file_search", ("queries",), ("results",)),
    "code_interpreter_call": ("code_interpreter", ("code", "container_id"), ("outputs",)),
    "image_generation_call": ("image_generation", ("revised_prompt", "size"), ("error",)),
    "mcp_call": ("mcp", ("server_label", "arguments"), ("output", "error")),
    "mcp_list_tools": ("mcp_list_tools", ("server_label",), ("tools", "error")),
    "tool_search_call": ("tool_search", ("arguments",), ()),
}
_OUTPUT_SUFFIX: Final = "_call_output"

_REASONS: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}
_FAILED: Final = frozenset({"failed", "cancelled"})


def parse_responses_request(body: Mapping[str, Any]) -> Content:
    """Parse input, instructions and tools of a request to create a response."""
    sent = get_field(body, "input")
    inputs = (
        [{"role": "user", "parts": text_part(sent)}]
        if isinstance(sent, str)
        else _messages(as_list(sent))
    )
    return Content(
        inputs=inputs,
        instructions=_instruction_parts(get_field(body, "instructions")),
        tools=parse_tools(body),
    )


def parse_responses_content(reply: Any) -> Content:
    """Parse the output of a response into one message."""
    return Content(
        outputs=output_message(item_parts_of(get_field(reply, "output")), finish_reason(reply))
    )


def parse_fetched_content(reply: Any) -> Content:
    """Parse a response that was fetched by id, with its instructions and tools."""
    content = parse_responses_content(reply)
    content.instructions = _instruction_parts(get_field(reply, "instructions"))
    content.tools = parse_tools(reply)
    return content


def item_parts_of(output: Any) -> list[Part]:
    """Return the parts of all output items."""
    return [part for item in as_list(output) for part in output_item_parts(item)]


def output_message(parts: list[Part], reason: str | None = None) -> list[dict[str, Any]]:
    """Return the message of a response as a list; empty without parts."""
    if not parts:
        return []
    message: dict[str, Any] = {"role": "assistant", "parts": parts}
    if reason is not None:
        # The status does not distinguish a response that requests tools. Its parts do.
        calls = reason == "stop" and any(part["type"] == "tool_call" for part in parts)
        message["finish_reason"] = "tool_call" if calls else reason
    return [message]


def finish_reason(reply: Any) -> str | None:
    """Return why a response ended, in the conventions' terms; `None` if it has not ended."""
    status = get_field(reply, "status")
    if status == "completed":
        return "stop"
    if status == "incomplete":
        reason = as_str(get_field(get_field(reply, "incomplete_details"), "reason"))
        return status if reason is None else _REASONS.get(reason, reason)
    return "error" if isinstance(status, str) and status in _FAILED else None


def _instruction_parts(instructions: Any) -> list[Part]:
    """Return text parts of the instructions. A fetched response may return them as input items."""
    if isinstance(instructions, str):
        return text_part(instructions)
    found = (
        part for item in as_list(instructions) for part in content_parts(get_field(item, "content"))
    )
    return [part for part in found if part["type"] == "text"]


def _messages(sent: Sequence[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    has_text = False  # Whether the last message contains an item of type message.
    for item in sent:
        if not as_mapping(item):
            continue
        role, is_text = _role_of(item), get_field(item, "content") is not None
        is_continued = bool(messages) and role == "assistant" == messages[-1]["role"]
        if is_continued and not (has_text and is_text):
            messages[-1]["parts"].extend(item_parts(item))
            has_text = has_text or is_text
            continue
        messages.append({"role": role, "parts": item_parts(item)})
        has_text = is_text
    return messages


def _role_of(item: Any) -> str:
    role = as_str(get_field(item, "role"))
    if role is not None:
        return role
    kind = as_str(get_field(item, "type")) or ""
    if kind.endswith(_OUTPUT_SUFFIX):
        return "tool"
    if kind == "mcp_approval_response":
        return "user"
    return "unknown" if kind in {"", "item_reference"} else "assistant"


def is_hosted(item: Any) -> bool:
    """Return whether the provider runs a shell call, in a container."""
    return get_field(get_field(item, "environment"), "type") == "container_reference"


def output_item_parts(item: Any) -> list[Part]:
    """Return the parts of one item of a response."""
    if get_field(item, "type") == "shell_call_output":
        # Only the provider's own calls have their output in the response.
        return [server_tool_response_part(_call_id(item), "shell", _named(item, ("output",)))]
    return item_parts(item)


def item_parts(item: Any) -> list[Part]:
    """Return the parts of one input or output item; empty for an unknown one."""
    kind = as_str(get_field(item, "type"))
    if kind is None or kind == "message":
        return content_parts(get_field(item, "content"))
    read = _ITEM_READERS.get(kind)
    if read is not None:
        return read(item)
    if kind in _CLIENT_TOOLS:
        return [_client_tool_part(item, *_CLIENT_TOOLS[kind])]
    if kind in _SERVER_TOOLS:
        return _server_tool_parts(item, *_SERVER_TOOLS[kind])
    if kind.endswith(_OUTPUT_SUFFIX):
        return [tool_response_part(_call_id(item), _tool_output(get_field(item, "output")))]
    return [other_part(kind, item)]


def _client_tool_part(item: Any, name: str, fields: tuple[str, ...]) -> Part:
    arguments = _named(item, fields)
    if is_hosted(item):
        return server_tool_part(_call_id(item), name, arguments)
    return _called(item, as_str(get_field(item, "name")) or name, arguments)


def _called(item: Any, name: Any, arguments: Any) -> Part:
    return tool_call_part(_call_id(item), name, arguments)


def _call_id(item: Any) -> Any:
    return as_str(get_field(item, "call_id")) or get_field(item, "id")


def _tool_output(output: Any) -> Any:
    # A screenshot is one part. Other results are text or a list of parts.
    return [output] if get_field(output, "type") == "computer_screenshot" else output


def _reasoning(item: Any) -> list[Part]:
    blocks = [*as_list(get_field(item, "summary")), *as_list(get_field(item, "content"))]
    return [part for block in blocks for part in reasoning_part(get_field(block, "text"))]


def _compaction(item: Any) -> list[Part]:
    known = as_str(get_field(item, "id"))
    return [{"type": "compaction"} if known is None else {"type": "compaction", "id": known}]


def _image_generation(item: Any) -> list[Part]:
    image = as_str(get_field(item, "result"))
    parts = _server_tool_parts(item, *_SERVER_TOOLS["image_generation_call"])
    if image is not None:
        sort = as_str(get_field(item, "output_format"))
        parts.append(blob_part(BlobData(image), "image", _IMAGE_TYPES.get(sort or "")))
    return parts


_IMAGE_TYPES: Final = {
    **{sort: f"image/{sort}" for sort in ("png", "webp", "jpeg", "gif")},
    "svg": "image/svg+xml",
}


def _server_tool_parts(
    item: Any, name: str, arguments: tuple[str, ...], results: tuple[str, ...]
) -> list[Part]:
    details = _named(item, arguments)
    if "arguments" in details:
        details["arguments"] = parsed_json(details["arguments"])
    call = server_tool_part(_call_id(item), name, details)
    call["name"] = as_str(get_field(item, "name")) or name  # an MCP item has the tool's name
    found = _named(item, results)
    if not found:
        return [call]
    return [call, server_tool_response_part(_call_id(item), name, found)]


def _named(item: Any, fields: Iterable[str]) -> dict[str, Any]:
    found = {field: get_field(item, field) for field in fields}
    return {field: value for field, value in found.items() if value is not None}


_ITEM_READERS: Final[Mapping[str, Callable[[Any], list[Part]]]] = {
    "function_call": lambda item: [
        _called(item, get_field(item, "name"), get_field(item, "arguments"))
    ],
    "custom_tool_call": lambda item: [
        custom_call_part(_call_id(item), get_field(item, "name"), get_field(item, "input"))
    ],
    "reasoning": _reasoning,
    "compaction": _compaction,
    "image_generation_call": _image_generation,
    "tool_search_output": lambda item: [
        server_tool_response_part(_call_id(item), "tool_search", _named(item, ("tools",)))
    ],
}
