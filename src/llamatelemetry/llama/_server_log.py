"""What a server has logged: the last lines in memory, all of it in a file when asked for."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LINES_KEPT = 2000
_LINE_BYTES_KEPT = 8192


class ServerLog:
    """A bounded ring of lines. However much comes, and in lines however long, memory does not grow.

    ``secrets`` never get into the ring; the file gets what the server wrote, as it wrote it.
    """

    def __init__(self, secrets: tuple[str, ...] = (), file_path: Path | None = None) -> None:
        self._secrets = secrets
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._unfinished = b""
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None if file_path is None else file_path.open("ab")
        self.on_line: Callable[[str], None] | None = None

    def feed(self, data: bytes) -> None:
        """Take what has come, whole lines or not."""
        if self._file is not None:
            self._write(data)
        *whole, rest = (self._unfinished + data).split(b"\n")
        # A line without an end is cut, and the rest of it goes on being dropped.
        self._unfinished = rest[:_LINE_BYTES_KEPT]
        for line in whole:
            self._keep(line)

    def close(self) -> None:
        """Take the last line, which may lack its end, and close the file."""
        if self._unfinished:
            self._keep(self._unfinished)
            self._unfinished = b""
        if self._file is not None:
            self._file.close()
            self._file = None

    def lines(self, n: int | None = None) -> list[str]:
        """The last ``n`` lines, or all that are kept."""
        with self._lock:
            lines = list(self._lines)
        return lines if n is None else lines[max(0, len(lines) - n) :]

    def renew_lock(self) -> None:
        """In a forked child: whoever held the lock is not there."""
        self._lock = threading.Lock()

    def _keep(self, line: bytes) -> None:
        text = line[:_LINE_BYTES_KEPT].decode("utf-8", "replace").rstrip()
        for secret in self._secrets:
            text = text.replace(secret, "***")
        with self._lock:
            self._lines.append(text)
        if self.on_line is not None:
            self.on_line(text)

    def _write(self, data: bytes) -> None:
        file = self._file
        if file is None:
            return
        try:
            file.write(data)
            file.flush()
        except OSError as error:  # a full disk must not stop the reading, or the server hangs
            self._file = None
            self.feed(f"llamatelemetry: the log file is given up: {error}\n".encode())
