"""JSON schemas of the recorded messages, taken from the semantic conventions.

The published schemas accept a part of a known type without a required field, because it is also
a valid part of an unknown type. These schemas reject such a part.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator

TEXT = {"type": "string"}
TYPED = {"type": "object", "required": ["type"], "properties": {"type": TEXT}}
MEDIA = {"modality": TEXT, "mime_type": TEXT}

# Required and optional fields of each part type. An optional field without a value is omitted,
# never null. `arguments` and `response` can be any JSON.
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
    """Validate the decoded value of a content attribute against its schema."""
    Draft202012Validator(SCHEMAS[name]).validate(value)
    if name == "gen_ai.tool.definitions":
        for tool in value:
            Draft7Validator.check_schema(tool.get("parameters", {}))


def check_messages(messages: Any) -> None:
    """Validate messages against the schema."""
    check("gen_ai.input.messages", messages)


def check_parts(parts: Any) -> None:
    """Validate message parts against the schema."""
    check_messages([{"role": "user", "parts": parts}])
