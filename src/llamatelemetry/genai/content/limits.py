"""Size limits of messages. The result is JSON that any exporter can send.

Each text of a part, and each structured value in it, is kept up to `max_chars` characters. A part that
was cut has two more keys:

- `truncated`: true
- `original_chars`: total length of its cut values, as text or as compact JSON

A cut text ends with `…`. A cut structured value (arguments, a tool's result) becomes the beginning of
its JSON, as text. Binary data is dropped unless it is tiny: a `blob` keeps modality and type, its
`content` is empty, and `original_bytes` is its size.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final, cast

from llamatelemetry.genai.content.blobs import BlobData
from llamatelemetry.genai.content.parts import CutText, plain_json
from llamatelemetry.genai.json_access import as_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamatelemetry.genai.content.parts import Part

# The size of an icon. Larger data belongs in other storage; a completion hook can put it there.
BLOB_MAX_BYTES: Final = 512

TRUNCATED: Final = "truncated"
ORIGINAL_CHARS: Final = "original_chars"
ORIGINAL_BYTES: Final = "original_bytes"

# Keys that identify a part. They are cut at a fixed length that valid values do not reach.
_LABELS: Final = frozenset(
    {"type", "role", "id", "name", "modality", "mime_type", "file_id", "finish_reason"}
)
_LABEL_MAX_CHARS: Final = 256

# Keys whose value must remain an object with a type.
_TYPED_OBJECTS: Final = frozenset({"server_tool_call", "server_tool_call_response"})


def compact_json(value: Any) -> str:
    """Serialize to JSON without spaces, with non-ASCII characters unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def limit_messages(messages: Sequence[Mapping[str, Any]], max_chars: int) -> list[dict[str, Any]]:
    """Return the messages with their parts cut to size."""
    return [_limit_message(message, max_chars) for message in messages]


def _limit_message(message: Mapping[str, Any], max_chars: int) -> dict[str, Any]:
    limited: dict[str, Any] = {
        name: _cut(name, value, max_chars)[0] for name, value in message.items() if name != "parts"
    }
    limited["parts"] = limit_parts(as_list(message.get("parts")), max_chars)
    return limited


def limit_parts(parts: Sequence[Part], max_chars: int) -> list[Part]:
    """Return the parts cut to size."""
    return [_limit_part(part, max_chars) for part in parts]


def _limit_part(part: Part, max_chars: int) -> Part:
    if part.get("type") == "blob":
        return _limit_blob(part)
    limited: Part = {}
    original_chars = 0
    for name, value in part.items():
        limited[name], cut_chars = _cut(name, value, max_chars)
        original_chars += cut_chars
    return _marked(limited, original_chars)


def limit_tools(tools: Sequence[Part], max_chars: int) -> list[Part]:
    """Return the tool definitions cut to size. Parameters that are too long are removed as a whole."""
    return [_limit_tool(tool, max_chars) for tool in tools]


def _limit_tool(tool: Part, max_chars: int) -> Part:
    limited: Part = {}
    original_chars = 0
    for name, value in tool.items():
        kept, cut_chars = _cut(name, value, max_chars)
        original_chars += cut_chars
        if not cut_chars or isinstance(value, str):
            limited[name] = kept
    return _marked(limited, original_chars)


def _marked(limited: Part, original_chars: int) -> Part:
    if original_chars:
        limited[TRUNCATED] = True
        limited[ORIGINAL_CHARS] = original_chars
    return limited


def _cut(name: str, value: Any, max_chars: int) -> tuple[Any, int]:
    """Return the value cut to size, and its original length if it was cut, else 0."""
    if name in _LABELS:
        return _cut_text(value, _LABEL_MAX_CHARS)[0], 0
    if isinstance(value, str):
        return _cut_text(value, max_chars)
    if not isinstance(value, (dict, list)):
        return plain_json(value), 0
    safe = _without_blobs(cast("dict[str, Any] | list[Any]", value))
    as_text = compact_json(safe)
    if len(as_text) <= max_chars:
        return safe, 0
    kept, original_chars = _cut_text(as_text, max_chars)
    if name in _TYPED_OBJECTS and isinstance(safe, dict):
        return {"type": cast("dict[str, Any]", safe).get("type"), "content": kept}, original_chars
    return kept, original_chars


def _cut_text(value: Any, max_chars: int) -> tuple[Any, int]:
    if not isinstance(value, str):
        return plain_json(value), 0
    if isinstance(value, CutText):
        return _encodable(_ended(value, max_chars)), value.original_chars
    if len(value) <= max_chars:
        return _encodable(value), 0
    return _encodable(_ended(value, max_chars)), len(value)


def _ended(value: str, max_chars: int) -> str:
    return f"{value[: max_chars - 1]}…"


def _encodable(value: str) -> str:
    """Replace halves of surrogate pairs, because one of them would fail a whole export."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="replace").decode()
    return value


def _limit_blob(part: Mapping[str, Any]) -> Part:
    limited: Part = {name: _cut_text(value, _LABEL_MAX_CHARS)[0] for name, value in part.items()}
    data = part.get("content")
    if isinstance(data, str):
        data = BlobData(data)
    size = data.size_bytes if isinstance(data, BlobData) else len(_bytes(data))
    content = b""
    if size <= BLOB_MAX_BYTES:
        content = data.decode() if isinstance(data, BlobData) else _bytes(data)
    limited["content"] = base64.b64encode(content).decode()
    if len(content) != size:
        limited[TRUNCATED] = True
        limited[ORIGINAL_BYTES] = size
    return limited


def _bytes(value: Any) -> bytes:
    return bytes(cast("bytes", value)) if isinstance(value, (bytes, bytearray)) else b""


def _without_blobs(value: Any) -> Any:
    """Return a copy with encodable texts and limited nested blobs."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        if fields.get("type") == "blob" and "modality" in fields:
            return _limit_blob(fields)
        return {_encodable(str(key)): _without_blobs(item) for key, item in fields.items()}
    if isinstance(value, list):
        return [_without_blobs(item) for item in cast("list[Any]", value)]
    return _encodable(value) if isinstance(value, str) else plain_json(value)
