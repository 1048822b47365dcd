"""Events out of raw bytes, for streams that nobody parses in sight of us.

Server-sent events, and JSON lines: what comes out are the JSON objects, whatever the pieces
are that the network cut the bytes into.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

# An event that is longer than this is an image in base64, or no event: it is passed over.
_LONGEST_LINE: Final = 4 * 1024 * 1024


class EventReader:
    """Cuts bytes, however they are split, into JSON objects.

    OpenAI and everything compatible with it put a whole object on one ``data:`` line; such an
    object is given as soon as its line has ended. Several data lines are put together at the
    empty line after them, as the standard says. What is no object is passed over: comments,
    which servers send to keep a connection alive, ``[DONE]``, and what is too long to be kept.
    """

    __slots__ = ("_after_cr", "_data", "_data_size", "_rest", "_rest_size", "_started")

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line that has not ended
        self._rest_size = 0
        self._data: list[bytes] = []  # lines of an event that has not ended
        self._data_size = 0
        self._after_cr = False
        self._started = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take in bytes; give the objects that are complete now."""
        found = (parse_object(payload) for payload in self.payloads(data))
        return [event for event in found if event is not None]

    def payloads(self, data: bytes) -> list[bytes]:
        """Take in bytes; give what is complete now unparsed: each one should be an object."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            lines = _LINE_END.split(data)
        else:
            lines = data.split(b"\n")
        rest = lines.pop()
        found: list[bytes] = []
        if lines:
            lines[0] = self._whole(lines[0])
            if not self._started:
                self._started = True
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
            for line in lines:
                if line or self._data:
                    self._read_line(line, found)
        if rest:
            self._keep(rest)
        return found

    def _keep(self, rest: bytes) -> None:
        self._rest_size += len(rest)
        if self._rest_size <= _LONGEST_LINE:
            self._rest.append(rest)
        else:
            self._rest.clear()

    def _whole(self, end: bytes) -> bytes:
        """Give the line that ends with these bytes; an empty comment for one that was too long."""
        if not self._rest_size:
            return end
        self._rest_size += len(end)
        line = b"".join((*self._rest, end)) if self._rest_size <= _LONGEST_LINE else b":"
        self._rest.clear()
        self._rest_size = 0
        return line

    def _read_line(self, line: bytes, found: list[bytes]) -> None:
        if len(line) > _LONGEST_LINE:
            return
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if not self._data and data.startswith(b"{") and data.endswith(b"}"):
                found.append(data)
            elif data != b"[DONE]":
                self._data_size += len(data)
                if self._data_size <= _LONGEST_LINE:
                    self._data.append(data)
        elif not line:
            data = b"\n".join(self._data)
            self._data.clear()
            self._data_size = 0
            if data.startswith(b"{"):
                found.append(data)
        elif line.startswith(b"{"):
            found.append(line)


def parse_object(payload: bytes) -> dict[str, Any] | None:
    """Parse what should be a JSON object; ``None`` when it is none."""
    try:
        # A text cut in the middle of a character must not hide the counts beside it.
        found: Any = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
