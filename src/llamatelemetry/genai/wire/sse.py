"""Incremental decoder for server-sent events and JSON Lines, for raw bodies that no client library parses."""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

# Longer lines, such as images in base64, are skipped.
_LONGEST_LINE: Final = 4 * 1024 * 1024


class EventReader:
    """Splits bytes into JSON objects.

    OpenAI-compatible servers send a whole object on one `data:` line; it is returned at the end of that
    line. Several data lines are joined at the next empty line, as the standard requires. Anything else is
    skipped: comments, `[DONE]`, and lines that are too long.

    Attributes:
        is_done: Whether `[DONE]` has arrived.
    """

    __slots__ = ("_after_cr", "_data", "_data_size", "_rest", "_rest_size", "_started", "is_done")

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of an incomplete line
        self._rest_size = 0
        self._data: list[bytes] = []  # lines of an incomplete event
        self._data_size = 0
        self._after_cr = False
        self._started = False
        self.is_done = False

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add bytes and return the objects that are now complete."""
        found = (parse_object(payload) for payload in self.payloads(data))
        return [event for event in found if event is not None]

    def payloads(self, data: bytes) -> list[bytes]:
        """Add bytes and return the payloads that are now complete, unparsed."""
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
        """Return the line that ends with these bytes; an empty comment if it is too long."""
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
            elif data == b"[DONE]":
                self.is_done = True
            else:
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
    """Parse a JSON object. Return `None` if the payload is something else."""
    try:
        # Bytes may be cut within a character. The counts beside that text must still be parsed.
        found: Any = json.loads(payload.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
