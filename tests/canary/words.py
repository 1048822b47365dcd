"""Secrets with the name of the place they were put in, so that a leak says where it comes from."""

from __future__ import annotations

import json
import re
from typing import Any

_WORD = "c4n4ry"
PATTERN = rf"{_WORD}[\w.]*"

# Where replies and requests say something.
_SAYING = {
    *("content", "text", "delta", "arguments", "refusal", "reasoning_content", "b64_json"),
    *("revised_prompt", "url", "message", "param", "prompt", "input", "instructions", "suffix"),
    *("description", "user", "stop", "query", "document", "documents", "input_prefix"),
    *("input_suffix", "system", "safety_identifier", "prompt_cache_key", "title", "partial_json"),
}


def at(place: str) -> str:
    """The secret of a place, such as `openai.request.user`."""
    return f"{_WORD}.{place}~"  # in protobuf, anything may follow


def found_in(text: str) -> set[str]:
    """The places whose secrets are in the text, also when they are escaped or in capitals."""
    return {f"{word.lower()}~" for word in re.findall(PATTERN, text, re.IGNORECASE)}


def poisoned(value: Any, place: str, *, all_of_it: bool = False) -> Any:
    """A copy in which every text that says something is the secret of its place."""
    if isinstance(value, dict):
        return {
            name: poisoned(item, f"{place}.{name}", all_of_it=all_of_it or name in _SAYING)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [poisoned(item, place, all_of_it=all_of_it) for item in value]
    if not all_of_it or not isinstance(value, str) or not value:
        return value
    if place.endswith((".role", ".type", ".object", ".id", ".finish_reason", ".detail")):
        return value
    if value.startswith("{") and value.endswith("}"):  # what a client parses must stay JSON
        return json.dumps({name: at(place) for name in json.loads(value)})
    return at(place)
