"""Parts of messages in the conventions' schema. Pure functions.

A part is a dict with a `type`. `limits` cuts parts to size later. Any value becomes a part or nothing:
no function raises, and none iterates over values other than lists, tuples and dicts.

| Value | Part |
|---|---|
| string, `text` | `text` |
| `refusal` | `text` with `refusal: true` |
| `image_url`, `video_url`, `audio_url` | `uri`; `blob` for a `data:` URL |
| `input_audio` | `blob` |
| `file` | `file`, `uri` or `blob` |
| anything else | its own `type`, everything else as `content` |
"""

from __future__ import annotations

import json
import math
import mimetypes
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai.content.blobs import BlobData, data_url
from llamatelemetry.genai.json_access import as_list, as_str, get_field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Part = dict[str, Any]

# OTLP receivers reject values nested more than about 30 levels deep.
_DEEPEST = 24


class CutText(str):
    """The kept beginning of a longer text. `original_chars` is the length of the whole text."""

    original_chars: int

    def __new__(cls, kept: str, original_chars: int) -> CutText:
        """Create it from the kept beginning and the full length."""
        made = super().__new__(cls, kept)
        made.original_chars = original_chars
        return made


class ParsedPart(dict[str, Any]):
    """A part of the schema inside a message that is still to be parsed."""


def text_part(value: Any) -> list[Part]:
    """Return a text part; empty if there is no text."""
    return [{"type": "text", "content": value}] if isinstance(value, str) and value else []


def reasoning_part(value: Any) -> list[Part]:
    """Return a reasoning part; empty if there is no text."""
    return [{"type": "reasoning", "content": value}] if isinstance(value, str) and value else []


def refusal_part(value: Any) -> list[Part]:
    """Return a refusal as a marked text part, because the user reads it as text."""
    return [{**part, "refusal": True} for part in text_part(value)]


def tool_call_part(call_id: Any, name: Any, arguments: Any) -> Part:
    """Return a tool call. Arguments are parsed if they are JSON."""
    part = _identified("tool_call", call_id)
    part["name"] = as_str(name) or ""
    if arguments is not None:
        part["arguments"] = parsed_json(arguments)
    return part


def custom_call_part(call_id: Any, name: Any, given: Any) -> Part:
    """Return a call of a custom tool. Its input is free text and is not parsed."""
    part = tool_call_part(call_id, name, None)
    if given is not None:
        part["arguments"] = plain_json(given)
    return part


def tool_response_part(call_id: Any, response: Any) -> Part:
    """Return the result of a tool call that the application sends back."""
    part = _identified("tool_call_response", call_id)
    part["response"] = content_parts(response) if _holds_parts(response) else plain_json(response)
    return part


def server_tool_part(call_id: Any, name: str, details: Mapping[str, Any]) -> Part:
    """Return a call of a tool that the provider ran. `details` are its arguments."""
    part = _identified("server_tool_call", call_id)
    part["name"] = name
    part["server_tool_call"] = {"type": name, **_without_none(details)}
    return part


def server_tool_response_part(call_id: Any, name: str, details: Mapping[str, Any]) -> Part:
    """Return the result of a tool that the provider ran."""
    part = _identified("server_tool_call_response", call_id)
    part["server_tool_call_response"] = {"type": name, **_without_none(details)}
    return part


def other_part(kind: Any, source: Any) -> Part:
    """Return a part of a type that the conventions lack, with everything else as content."""
    rest = {key: value for key, value in as_mapping(source).items() if key not in _NOT_CONTENT}
    content = plain_json(_without_none(rest))
    known = as_str(kind)
    part: Part = {"type": "unknown" if known is None or known in _DEFINED else known}
    if content:
        part["content"] = content
    return part


# Types of the conventions, each with required fields.
_DEFINED = frozenset(
    {
        *("text", "reasoning", "compaction", "blob", "file", "uri", "tool_call"),
        *("tool_call_response", "server_tool_call", "server_tool_call_response"),
    }
)
# Redundant, or for the provider only.
_NOT_CONTENT = frozenset({"type", "status", "encrypted_content"})


def _identified(kind: str, call_id: Any) -> Part:
    known = as_str(call_id)
    return {"type": kind} if known is None else {"type": kind, "id": known}


def _without_none(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain_json(value) for key, value in source.items() if value is not None}


def content_parts(content: Any) -> list[Part]:
    """Return the parts of a message's `content`: a string, a list of parts, or one part."""
    if isinstance(content, str):
        return text_part(content)
    if isinstance(content, dict):
        return _content_part(cast("dict[str, Any]", content))
    return [part for item in as_list(content) for part in _content_part(item)]


def _content_part(item: Any) -> list[Part]:
    if isinstance(item, str):
        return text_part(item)
    if isinstance(item, ParsedPart):
        return [item]
    if not as_mapping(item):
        return []
    kind = get_field(item, "type")
    if kind is None and isinstance(get_field(item, "text"), str):
        kind = "text"
    read = _READERS.get(kind) if isinstance(kind, str) else None
    return [other_part(kind, item)] if read is None else read(item)


def _linked(item: Any, field: str, modality: str) -> list[Part]:
    link = get_field(item, field)
    if link is not None and not isinstance(link, str):
        link = get_field(link, "url")  # nested in chat, flat in Responses
    if isinstance(link, str) and link:
        return [media_part(link, modality)]
    return file_part(item, modality)


def _audio(item: Any) -> list[Part]:
    audio = get_field(item, "input_audio")
    data = get_field(audio, "data")
    if not isinstance(data, str):
        return []
    sound = as_str(get_field(audio, "format"))
    return [blob_part(BlobData(data), "audio", _AUDIO_TYPES.get(sound or ""))]


# `audio/mp3` is not a registered media type.
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg"}


def _file(item: Any) -> list[Part]:
    nested = get_field(item, "file")
    return file_part(item if nested is None else nested, "document")


def file_part(file: Any, modality: str) -> list[Part]:
    """Return a file: by the provider's id, by URL, or inline."""
    name = as_str(get_field(file, "filename"))
    # Python's built-in table. `guess_type` would read files of the system on first use.
    suffix = f".{name.rpartition('.')[2].lower()}" if name and "." in name else ""
    mime_type = mimetypes.types_map.get(suffix)
    file_id = as_str(get_field(file, "file_id"))
    if file_id is not None:
        return [_media("file", modality, mime_type, "file_id", file_id)]
    link = as_str(get_field(file, "file_url"))
    if link is not None:
        return [media_part(link, modality)]
    data = as_str(get_field(file, "file_data"))
    if data is None:
        return []
    if data.startswith("data:"):
        return [media_part(data, modality)]
    return [blob_part(BlobData(data), modality, mime_type)]


def media_part(url: str, modality: str) -> Part:
    """Return media by URL; inline data for a `data:` URL."""
    inline = data_url(url)
    if inline is None:
        return _media("uri", modality, None, "uri", url)
    mime_type, data = inline
    return blob_part(data, modality, mime_type)


def blob_part(data: BlobData, modality: str, mime_type: str | None = None) -> Part:
    """Return inline binary data."""
    return _media("blob", modality, mime_type, "content", data)


def _media(kind: str, modality: str, mime_type: str | None, field: str, value: Any) -> Part:
    part: Part = {"type": kind, "modality": modality}
    if mime_type is not None:
        part["mime_type"] = mime_type
    part[field] = value
    return part


_READERS: Mapping[str, Callable[[Any], list[Part]]] = {
    **dict.fromkeys(
        ("text", "input_text", "output_text"), lambda item: text_part(get_field(item, "text"))
    ),
    **dict.fromkeys(
        ("summary_text", "reasoning_text"), lambda item: reasoning_part(get_field(item, "text"))
    ),
    "refusal": lambda item: refusal_part(get_field(item, "refusal")),
    **dict.fromkeys(
        ("image_url", "input_image", "computer_screenshot"),
        partial(_linked, field="image_url", modality="image"),
    ),
    "video_url": partial(_linked, field="video_url", modality="video"),
    "audio_url": partial(_linked, field="audio_url", modality="audio"),
    "input_audio": _audio,
    "file": _file,
    "input_file": _file,
}


def _holds_parts(value: Any) -> bool:
    """Return whether a tool's result is a list of message parts."""
    kinds = [get_field(item, "type") for item in as_list(value)]
    return bool(kinds) and all(isinstance(kind, str) and kind in _READERS for kind in kinds)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return the fields of a dict or pydantic model; empty for anything else."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    try:
        extra: dict[str, Any] = value.__pydantic_extra__ or {}
        fields = {**value.__dict__, **extra}
    except (AttributeError, TypeError):
        return {}
    # A model has all declared fields. Missing ones are None.
    return {name: field for name, field in fields.items() if field is not None}


def parsed_json(value: Any) -> Any:
    """Parse a JSON text. Return the text itself if it is not valid JSON or was cut."""
    if not isinstance(value, str):
        return plain_json(value)
    if isinstance(value, CutText):
        return value
    try:
        return plain_json(json.loads(value))
    except (ValueError, RecursionError):
        return value


def plain_json(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a copy that JSON and OTLP can represent.

    Numbers beyond 64 bits and non-finite numbers become text. Other unsupported values become the name of
    their type, never their `str()`.

    Args:
        value: Any value.
        inside: Ids of the enclosing containers.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else _long_number(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _plain_container(value, inside)


def _plain_container(value: Any, inside: tuple[int, ...]) -> Any:
    if len(inside) >= _DEEPEST or id(value) in inside:
        return "…"
    within = (*inside, id(value))
    if isinstance(value, (list, tuple)):
        return [plain_json(item, within) for item in as_list(value)]
    fields = as_mapping(value)
    if fields or isinstance(value, dict):
        return {str(key): plain_json(item, within) for key, item in fields.items()}
    return f"<{type(value).__name__}>"


def _long_number(value: int) -> str:
    # str() raises for more than some thousand digits.
    return hex(value) if value.bit_length() > 1024 else str(value)
