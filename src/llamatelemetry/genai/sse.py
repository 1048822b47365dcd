"""Server-sent events out of raw bytes, for streams that nobody parses in sight of us."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

# Of an event that is longer than this only the end can be lost: an image in base64, not a count.
_LONGEST_LINE: Final = 8 * 1024 * 1024


class EventReader:
    """Cuts bytes, however they are split, into the JSON objects of ``data:`` lines.

    OpenAI and everything compatible with it put one whole object on one line. What is no
    object, such as ``[DONE]``, is passed over.
    """

    __slots__ = ("_rest", "_size")

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take in bytes; give the objects that are complete now."""
        if b"\n" not in data and b"\r" not in data:
            self._keep(data)
            return
        *lines, rest = _LINE_END.split(b"".join((*self._rest, data)))
        self._rest.clear()
        self._size = 0
        self._keep(rest)
        for line in lines:
            event = _event_of(line)
            if event is not None:
                yield event

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _LONGEST_LINE:
            self._rest.append(data)


def _event_of(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"data:"):
        return None
    try:
        event: Any = json.loads(line[5:])
    except ValueError:
        return None
    return cast("dict[str, Any]", event) if isinstance(event, dict) else None
