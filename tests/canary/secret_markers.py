"""Secret texts that contain the name of their place, so that a leak shows its source."""

from __future__ import annotations

import json
import re
from typing import Any

_WORD = "c4n4ry"
PATTERN = rf"{_WORD}[\w.]*"

# Fields of requests and responses whose texts are content.
_CONTENT_FIELDS = {
    *("content", "text", "delta", "arguments", "refusal", "reasoning_content", "b64_json"),
    *("revised_prompt", "url", "message", "param", "prompt", "input", "instructions", "suffix"),
    *("description", "user", "stop", "query", "document", "documents", "input_prefix"),
    *("input_suffix", "system", "safety_identifier", "prompt_cache_key", "title", "partial_json"),
}


def marker(place: str) -> str:
    """Return the secret text of a place, such as `openai.request.user`."""
    return f"{_WORD}.{place}~"  # In protobuf, any byte may follow.


def markers_in(text: str) -> set[str]:
    """Return the markers in a text, also if they are escaped or in capitals."""
    return {f"{word.lower()}~" for word in re.findall(PATTERN, text, re.IGNORECASE)}


def with_markers(value: Any, place: str, *, is_content: bool = False) -> Any:
    """Return a copy in which the marker of its place replaces each text that is content."""
    if isinstance(value, dict):
        return {
            name: with_markers(
                item, f"{place}.{name}", is_content=is_content or name in _CONTENT_FIELDS
            )
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [with_markers(item, place, is_content=is_content) for item in value]
    if not is_content or not isinstance(value, str) or not value:
        return value
    if place.endswith((".role", ".type", ".object", ".id", ".finish_reason", ".detail")):
        return value
    if value.startswith("{") and value.endswith("}"):  # The client parses this text.
        return json.dumps({name: marker(place) for name in json.loads(value)})
    return marker(place)
