"""Efficient parsing of raw JSON bodies.

Vectors of embeddings and generated images make bodies of several megabytes; parsing 100 vectors
takes 10 ms. Such an array is removed before the body is parsed.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, Final

# Below this size, parsing costs no more than searching for the array.
_SMALL: Final = 16 * 1024
_KEPT_OF_EACH_END: Final = 128 * 1024


def parse_body(body: bytes, bulk: str, *, is_bulk_wanted: bool = True) -> Any:
    """Parse a JSON body. Return `None` if it is not valid JSON.

    Args:
        body: Complete body, or the part that `BodyCapture` kept.
        bulk: Name of the top-level array that makes the body long, such as `data`.
        is_bulk_wanted: Whether the array is parsed. If not, it is removed from a long body.
    """
    if len(body) > _SMALL and not is_bulk_wanted:
        short = _without(body, bulk)
        parsed = None if short is None else _parse(short)
        if parsed is not None:
            return parsed
    return _parse(body)


def _parse(body: bytes) -> Any:
    try:
        # Bytes may be cut within a character. The counts beside that text must still be parsed.
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _without(body: bytes, bulk: str) -> bytes | None:
    """Remove everything between the `[` after the name of the array and the last `]` of the body.

    The result is valid JSON only if the array is the last one in the body.
    """
    found = re.search(rb'"%s"\s*:\s*\[' % bulk.encode(), body[:_KEPT_OF_EACH_END])
    end = body.rfind(b"]")
    if found is None or end < found.end():
        return None
    return body[: found.end()] + body[end:]


class BodyCapture:
    """The part of a body that is kept: all of a short body, both ends of a long one."""

    __slots__ = ("_head", "_head_size", "_tail", "_tail_size", "is_whole")

    def __init__(self) -> None:
        self._head: list[bytes] = []
        self._head_size = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.is_whole = True

    def feed(self, data: bytes) -> None:
        """Add the next bytes. They are not copied."""
        if self._head_size < _KEPT_OF_EACH_END:
            self._head.append(data)
            self._head_size += len(data)
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= _KEPT_OF_EACH_END:
            self._tail_size -= len(self._tail.popleft())
            self.is_whole = False

    def body(self) -> bytes:
        """Return the kept bytes."""
        return b"".join((*self._head, *self._tail))

    def parse(self, bulk: str, *, is_bulk_wanted: bool = True) -> Any:
        """Parse the kept bytes as JSON. Return `None` if they are not valid. See `parse_body`."""
        body = self.body()
        if self.is_whole:
            return parse_body(body, bulk, is_bulk_wanted=is_bulk_wanted)
        short = _without(body, bulk)
        return None if short is None else _parse(short)
