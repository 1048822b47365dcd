"""The conventions' message schemas, as the facts that a recorded message must keep to.

Stricter than the published ones in one respect: there, a part of a known type that lacks a
required field passes as one of an unknown type. Here a part must keep to its own type.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator

TEXT = {"type": "string"}
TYPED = {"type": "object", "required": ["type"], "properties": {"type": TEXT}}
MEDIA = {"modality": TEXT, "mime_type": TEXT}

# Fields of each part type: the required ones, then the optional ones. Optional fields are left
# out where nothing is known, never null; `arguments`, `response` may be any JSON.
PART_FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"content": TEXT}, {}),
    "reasoning": ({"content": TEXT}, {}),
    "tool_call": ({"name": TEXT}, {"id": TEXT, "arguments": {}}),
    "tool_call_response": ({"response": {}}, {"id": TEXT}),
    "server_tool_call": ({"name": TEXT, "server_tool_call": TYPED}, {"id": TEXT}),
    "server_tool_call_response": ({"server_tool_call_response": TYPED}, {"id": TEXT}),
    "compaction": ({}, {"id": TEXT, "content": TEXT}),
    "blob": ({"modality": TEXT, "content": TEXT}, {"mime_type": TEXT}),
    "file": ({"modality": TEXT, "file_id": TEXT}, {"mime_type": TEXT}),
    "uri": (
        {"modality": TEXT, "uri": {"type": "string", "not": {"pattern": "^data:"}}},
        {"mime_type": TEXT},
    ),
}
PART: dict[str, Any] = {
    **TYPED,
    "allOf": [
        {
            "if": {"properties": {"type": {"const": kind}}},
            "then": {"required": [*required], "properties": {**required, **optional}},
        }
        for kind, (required, optional) in PART_FIELDS.items()
    ],
}
MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role", "parts"],
    "properties": {
        "role": TEXT,
        "parts": {"type": "array", "items": PART},
        "name": TEXT,
        "finish_reason": TEXT,
    },
}
MESSAGES = {"type": "array", "items": MESSAGE}
INSTRUCTIONS = {
    "type": "array",
    "items": {**PART, "properties": {"type": {"const": "text"}, "content": TEXT}},
}
TOOLS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "name"],
        "properties": {
            "type": TEXT,
            "name": TEXT,
            "description": TEXT,
            "parameters": {"type": "object"},
        },
    },
}

SCHEMAS = {
    "gen_ai.input.messages": MESSAGES,
    "gen_ai.output.messages": MESSAGES,
    "gen_ai.system_instructions": INSTRUCTIONS,
    "gen_ai.tool.definitions": TOOLS,
}


def check(name: str, value: Any) -> None:
    """Hold the decoded value of a content attribute against its schema."""
    Draft202012Validator(SCHEMAS[name]).validate(value)
    if name == "gen_ai.tool.definitions":
        for tool in value:
            Draft7Validator.check_schema(tool.get("parameters", {}))


def check_messages(messages: Any) -> None:
    """Hold messages against the schema."""
    check("gen_ai.input.messages", messages)


def check_parts(parts: Any) -> None:
    """Hold message parts against the schema."""
    check_messages([{"role": "user", "parts": parts}])
