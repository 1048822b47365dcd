"""The parts of a message in the conventions' schema, made from what APIs send: pure functions.

A part is a plain dict with a ``type``. Nothing is cut here; `llamatelemetry.genai.content.limits` does
that. Whatever its shape, a value becomes a part or nothing: no reader raises, and none iterates
over what is not a list, a tuple or a dict.

============================================  ==============================================
sent                                          part
============================================  ==============================================
a string, ``text``                            ``text``
``refusal``                                   ``text`` with ``refusal: true``
``image_url``, ``video_url``, ``audio_url``   ``uri``; ``blob`` when it is a ``data:`` URL
``input_audio``                               ``blob``
``file``                                      ``file``, ``uri`` or ``blob``
anything else                                 its own ``type``, the rest of it as ``content``
============================================  ==============================================
"""

from __future__ import annotations

import json
import math
import mimetypes
from typing import TYPE_CHECKING, Any, cast

from llamatelemetry.genai.content.blobs import BlobData, data_url
from llamatelemetry.genai.json_access import as_list, as_str, get_field

if TYPE_CHECKING:
    from collections.abc import Mapping

Part = dict[str, Any]

# OTLP readers refuse what is nested more than about 30 levels deep.
_DEEPEST = 24


class CutText(str):
    """Text of which a stream's fold kept only the beginning; ``original_chars`` is its true length."""

    original_chars: int

    def __new__(cls, kept: str, original_chars: int) -> CutText:
        """Take what was kept, and the length of the whole."""
        made = super().__new__(cls, kept)
        made.original_chars = original_chars
        return made


def text_part(value: Any) -> list[Part]:
    """A text part, or none where there is no text."""
    return [{"type": "text", "content": value}] if isinstance(value, str) and value else []


def reasoning_part(value: Any) -> list[Part]:
    """A reasoning part, or none where there is no text."""
    return [{"type": "reasoning", "content": value}] if isinstance(value, str) and value else []


def refusal_part(value: Any) -> list[Part]:
    """A refusal: text, since it is what the user reads, and marked as what it is."""
    return [{**part, "refusal": True} for part in text_part(value)]


def tool_call_part(call_id: Any, name: Any, arguments: Any) -> Part:
    """A call that the model wants made; ``arguments`` are parsed when they are JSON."""
    part = _identified("tool_call", call_id)
    part["name"] = as_str(name) or ""
    if arguments is not None:
        part["arguments"] = parsed_json(arguments)
    return part


def custom_call_part(call_id: Any, name: Any, given: Any) -> Part:
    """A call of a custom tool, which takes free text: ``5`` is not a number there."""
    part = tool_call_part(call_id, name, None)
    if given is not None:
        part["arguments"] = plain_json(given)
    return part


def tool_response_part(call_id: Any, response: Any) -> Part:
    """The result of a tool call, as the application sends it back."""
    part = _identified("tool_call_response", call_id)
    part["response"] = content_parts(response) if _holds_parts(response) else plain_json(response)
    return part


def server_tool_part(call_id: Any, name: str, details: Mapping[str, Any]) -> Part:
    """A tool that the provider ran itself. ``details`` are what it was asked."""
    part = _identified("server_tool_call", call_id)
    part["name"] = name
    part["server_tool_call"] = {"type": name, **_without_none(details)}
    return part


def server_tool_response_part(call_id: Any, name: str, details: Mapping[str, Any]) -> Part:
    """What came of a tool that the provider ran itself."""
    part = _identified("server_tool_call_response", call_id)
    part["server_tool_call_response"] = {"type": name, **_without_none(details)}
    return part


def other_part(kind: Any, source: Any) -> Part:
    """A part of a kind that the conventions do not know: its own type, the rest as it was sent."""
    rest = {key: value for key, value in as_mapping(source).items() if key not in _NOT_CONTENT}
    content = plain_json(_without_none(rest))
    known = as_str(kind)
    part: Part = {"type": "unknown" if known is None or known in _DEFINED else known}
    if content:
        part["content"] = content
    return part


# The conventions' own types, each with fields that it must have.
_DEFINED = frozenset(
    {
        *("text", "reasoning", "compaction", "blob", "file", "uri", "tool_call"),
        *("tool_call_response", "server_tool_call", "server_tool_call_response"),
    }
)
# Said elsewhere, or meant for the provider's eyes only.
_NOT_CONTENT = frozenset({"type", "status", "encrypted_content"})


def _identified(kind: str, call_id: Any) -> Part:
    known = as_str(call_id)
    return {"type": kind} if known is None else {"type": kind, "id": known}


def _without_none(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain_json(value) for key, value in source.items() if value is not None}


# --- what a message's content may be made of ------------------------------------------


def content_parts(content: Any) -> list[Part]:
    """The parts of a message's ``content``: a string, a list of parts, or one part by itself."""
    if isinstance(content, str):
        return text_part(content)
    if isinstance(content, dict):
        return _content_part(cast("dict[str, Any]", content))
    return [part for item in as_list(content) for part in _content_part(item)]


def _content_part(item: Any) -> list[Part]:
    if isinstance(item, str):
        return text_part(item)
    if not as_mapping(item):
        return []
    kind = get_field(item, "type")
    if kind is None and isinstance(get_field(item, "text"), str):
        kind = "text"
    read = _READERS.get(kind) if isinstance(kind, str) else None
    return [other_part(kind, item)] if read is None else read(item)


def _text(item: Any) -> list[Part]:
    return text_part(get_field(item, "text"))


def _reasoning(item: Any) -> list[Part]:
    return reasoning_part(get_field(item, "text"))


def _refusal(item: Any) -> list[Part]:
    return refusal_part(get_field(item, "refusal"))


def _image(item: Any) -> list[Part]:
    return _linked(item, "image_url", "image")


def _video(item: Any) -> list[Part]:
    return _linked(item, "video_url", "video")


def _audio_link(item: Any) -> list[Part]:
    return _linked(item, "audio_url", "audio")


def _linked(item: Any, field: str, modality: str) -> list[Part]:
    link = get_field(item, field)
    if link is not None and not isinstance(link, str):
        link = get_field(link, "url")  # chat nests it, Responses does not
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


# Not `audio/mp3`, which is no registered type.
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg"}


def _file(item: Any) -> list[Part]:
    nested = get_field(item, "file")
    return file_part(item if nested is None else nested, "document")


def file_part(file: Any, modality: str) -> list[Part]:
    """A file: known to the provider by its id, at a URL, or sent along."""
    name = as_str(get_field(file, "filename"))
    # The table that is built in: `guess_type` would read the system's files on first use.
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
    """Something at a URL; a ``data:`` URL holds the thing itself."""
    inline = data_url(url)
    if inline is None:
        return _media("uri", modality, None, "uri", url)
    mime_type, data = inline
    return blob_part(data, modality, mime_type)


def blob_part(data: BlobData, modality: str, mime_type: str | None = None) -> Part:
    """Binary data that was sent along."""
    return _media("blob", modality, mime_type, "content", data)


def _media(kind: str, modality: str, mime_type: str | None, field: str, value: Any) -> Part:
    part: Part = {"type": kind, "modality": modality}
    if mime_type is not None:
        part["mime_type"] = mime_type
    part[field] = value
    return part


_READERS = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "summary_text": _reasoning,
    "reasoning_text": _reasoning,
    "refusal": _refusal,
    "image_url": _image,
    "input_image": _image,
    "computer_screenshot": _image,
    "video_url": _video,
    "audio_url": _audio_link,
    "input_audio": _audio,
    "file": _file,
    "input_file": _file,
}


def _holds_parts(value: Any) -> bool:
    """Whether a tool's result is a list of message parts, rather than any list."""
    kinds = [get_field(item, "type") for item in as_list(value)]
    return bool(kinds) and all(isinstance(kind, str) and kind in _READERS for kind in kinds)


# --- any JSON -------------------------------------------------------------------------


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The fields of a dict or of a pydantic model; empty for anything else."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    try:
        extra: dict[str, Any] = value.__pydantic_extra__ or {}
        fields = {**value.__dict__, **extra}
    except (AttributeError, TypeError):
        return {}
    # A model has every field it could have; those that did not come are None.
    return {name: field for name, field in fields.items() if field is not None}


def parsed_json(value: Any) -> Any:
    """The value of a JSON text; a text that is none, or was cut, stays what it is."""
    if not isinstance(value, str):
        return plain_json(value)
    if isinstance(value, CutText):
        return value
    try:
        return plain_json(json.loads(value))
    except (ValueError, RecursionError):
        return value


def plain_json(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """A copy of a value that JSON and OTLP can hold, whatever it was.

    Numbers beyond 64 bits and those that are not finite become text; what no JSON can say
    becomes the name of its type, never its ``str()``. ``inside`` are the containers around it.
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
    # Not str(): it refuses more than some thousand digits.
    return hex(value) if value.bit_length() > 1024 else str(value)
