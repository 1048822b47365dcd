"""JSON in the texts of attributes, read strictly enough that nothing in it goes unseen."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any | None:
    """The object or array that the text is the JSON of, and None for any other text.

    Also None when an object has a name twice: what the parser then drops would not be looked at.
    """
    start = text[:64].lstrip()[:1]
    if start not in ("{", "["):
        return None
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        return None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def compact(value: Any) -> str:
    """JSON without blanks, and with letters of any script as themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
