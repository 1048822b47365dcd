"""Chat and text completions as messages in the conventions' schema. Pure functions of wire JSON.

Requests are parsed before they are sent, responses at their end, plain or accumulated. Roles and names
stay as they were sent. `parts` describes types that the schema lacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.parts import (
    as_mapping,
    blob_part,
    content_parts,
    custom_call_part,
    plain_json,
    reasoning_part,
    refusal_part,
    text_part,
    tool_call_part,
    tool_response_part,
)
from llamatelemetry.genai.json_access import as_list, as_str, get_field
from llamatelemetry.genai.model import Content

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.genai.content.parts import Part

_TOOL_ROLES: Final = frozenset({"tool", "function"})  # `function` is the older name of `tool`
_FINISH_REASONS: Final = {"tool_calls": "tool_call", "function_call": "tool_call"}


def parse_chat_request(body: Mapping[str, Any]) -> Content:
    """Parse the messages and tools of a chat completion request."""
    return Content(
        inputs=[_input_message(message) for message in as_list(get_field(body, "messages"))],
        tools=parse_tools(body),
    )


def parse_completion_request(body: Mapping[str, Any]) -> Content:
    """Parse the prompts of a text completion request. Each one is a message of the user."""
    prompt = get_field(body, "prompt")
    prompts = [prompt] if isinstance(prompt, str) else as_list(prompt)
    if any(isinstance(item, int) for item in prompts):
        prompts = [prompt]  # one prompt of tokens; llama.cpp accepts texts among them
    return Content(
        inputs=[{"role": "user", "parts": _prompt_parts(prompt)} for prompt in prompts],
    )


def _prompt_parts(prompt: Any) -> list[Part]:
    texts = [prompt] if isinstance(prompt, str) else as_list(prompt)
    return [part for item in texts for part in text_part(item)]


def parse_choices(choices: Any) -> Content:
    """Parse the choices of a chat or text completion, one message each."""
    return Content(outputs=[_output_message(choice) for choice in as_list(choices)])


def _input_message(message: Any) -> dict[str, Any]:
    role = as_str(get_field(message, "role")) or "unknown"
    read: dict[str, Any] = {"role": role}
    name = as_str(get_field(message, "name"))
    if name is not None:
        read["name"] = name
    read["parts"] = (
        [tool_response_part(get_field(message, "tool_call_id"), get_field(message, "content"))]
        if role in _TOOL_ROLES
        else _message_parts(message)
    )
    return read


def _output_message(choice: Any) -> dict[str, Any]:
    message = get_field(choice, "message")
    read: dict[str, Any] = {
        "role": as_str(get_field(message, "role")) or "assistant",
        "parts": text_part(get_field(choice, "text"))
        if message is None
        else _message_parts(message),
    }
    reason = as_str(get_field(choice, "finish_reason"))
    if reason is not None:
        # Deprecated, but required by the schema of v1.41.
        read["finish_reason"] = _FINISH_REASONS.get(reason, reason)
    return read


def _message_parts(message: Any) -> list[Part]:
    """Return reasoning, text, media, refusal and tool calls, in the order of generation."""
    return [
        # vLLM renamed the field; llama.cpp and DeepSeek use the longer name.
        *reasoning_part(get_field(message, "reasoning_content") or get_field(message, "reasoning")),
        *content_parts(get_field(message, "content")),
        *refusal_part(get_field(message, "refusal")),
        *_spoken_parts(get_field(message, "audio")),
        *(
            _tool_call(call)
            for call in as_list(get_field(message, "tool_calls"))
            if as_mapping(call)
        ),
        *_function_call(get_field(message, "function_call")),
    ]


def _spoken_parts(audio: Any) -> list[Part]:
    """Return the parts of audio output: sound and transcript; in the history, only its id is sent."""
    data = get_field(audio, "data")
    if isinstance(data, BlobData):
        sound = [blob_part(data, "audio")]
    elif isinstance(data, str) and data:
        sound = [blob_part(BlobData(data), "audio")]
    else:
        known = as_str(get_field(audio, "id"))
        sound = [] if known is None else [{"type": "file", "modality": "audio", "file_id": known}]
    return [*sound, *text_part(get_field(audio, "transcript"))]


def _tool_call(call: Any) -> Part:
    custom = get_field(call, "custom")
    if custom is not None:
        return custom_call_part(
            get_field(call, "id"), get_field(custom, "name"), get_field(custom, "input")
        )
    function = get_field(call, "function")
    return tool_call_part(
        get_field(call, "id"), get_field(function, "name"), get_field(function, "arguments")
    )


def _function_call(function: Any) -> list[Part]:
    if not as_mapping(function):
        return []
    return [tool_call_part(None, get_field(function, "name"), get_field(function, "arguments"))]


def parse_tools(body: Mapping[str, Any]) -> list[Part]:
    """Parse the tool definitions of a request or a fetched response, nested or flat."""
    definitions = [_tool(tool) for tool in as_list(get_field(body, "tools")) if as_mapping(tool)]
    functions = [
        _function(tool) for tool in as_list(get_field(body, "functions")) if as_mapping(tool)
    ]
    return definitions + functions


def _tool(tool: Any) -> Part:
    kind = as_str(get_field(tool, "type")) or "unknown"
    if kind == "function":
        nested = get_field(tool, "function")
        return _function(tool if nested is None else nested)
    nested = get_field(tool, "custom")
    named = tool if nested is None else nested
    # A built-in tool has only a type. The label distinguishes several MCP servers.
    name = as_str(get_field(named, "name")) or as_str(get_field(tool, "server_label")) or kind
    return {"type": kind, "name": name, **_description(named)}


def _function(function: Any) -> Part:
    definition: Part = {"type": "function", "name": as_str(get_field(function, "name")) or ""}
    definition.update(_description(function))
    parameters = get_field(function, "parameters")
    if isinstance(parameters, dict):
        definition["parameters"] = plain_json(parameters)
    return definition


def _description(tool: Any) -> Part:
    description = as_str(get_field(tool, "description"))
    return {} if description is None else {"description": description}
