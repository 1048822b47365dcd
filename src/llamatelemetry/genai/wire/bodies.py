"""Reading the JSON body of a reply cheaply, when the application has it raw.

The vectors of embeddings and the images of a generation make bodies of megabytes that say
nothing to us: parsing 100 vectors takes 10 ms. Such an array is cut out before parsing.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any, Final

# Parsing less than this costs no more than looking for something to cut out of it.
_SMALL: Final = 16 * 1024
_KEPT_OF_EACH_END: Final = 128 * 1024


def parse_body(body: bytes, bulk: str, *, is_bulk_wanted: bool = True) -> Any:
    """Parse a JSON body; ``None`` when it is none.

    Args:
        body: the whole body, or what `BodyCapture` kept of it.
        bulk: the top-level array that makes it long, such as ``data``.
        is_bulk_wanted: whether that array is to be read, or cut out of a long body.
    """
    if len(body) > _SMALL and not is_bulk_wanted:
        short = _without(body, bulk)
        parsed = None if short is None else _parse(short)
        if parsed is not None:
            return parsed
    return _parse(body)


def _parse(body: bytes) -> Any:
    try:
        # A text cut in the middle of a character must not hide the counts beside it.
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _without(body: bytes, bulk: str) -> bytes | None:
    """Cut out all between the ``[`` after the bulk's name and the last ``]`` of the body.

    That is right where the array is the last one: what is left is JSON then, and else it is none.
    """
    found = re.search(rb'"%s"\s*:\s*\[' % bulk.encode(), body[:_KEPT_OF_EACH_END])
    end = body.rfind(b"]")
    if found is None or end < found.end():
        return None
    return body[: found.end()] + body[end:]


class BodyCapture:
    """What passes of a body: all of a short one, both ends of a long one."""

    __slots__ = ("_head", "_head_size", "_tail", "_tail_size", "is_whole")

    def __init__(self) -> None:
        self._head: list[bytes] = []
        self._head_size = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.is_whole = True

    def feed(self, data: bytes) -> None:
        """Take in the next bytes. They are not copied."""
        if self._head_size < _KEPT_OF_EACH_END:
            self._head.append(data)
            self._head_size += len(data)
            return
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size - len(self._tail[0]) >= _KEPT_OF_EACH_END:
            self._tail_size -= len(self._tail.popleft())
            self.is_whole = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing has passed."""
        return not self._head

    def body(self) -> bytes:
        """Give what was kept, put together."""
        return b"".join((*self._head, *self._tail))

    def parse(self, bulk: str, *, is_bulk_wanted: bool = True) -> Any:
        """Parse what was kept as JSON; ``None`` when it is none. See `parse_body`."""
        body = self.body()
        if self.is_whole:
            return parse_body(body, bulk, is_bulk_wanted=is_bulk_wanted)
        short = _without(body, bulk)
        return None if short is None else _parse(short)
