"""The log of a llama.cpp server: the last lines in memory, the whole log in a file if requested."""

from __future__ import annotations

import re
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

from llamatelemetry._limits import Limit
from llamatelemetry._private_files import make_private_file
from llamatelemetry._terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LINES: Final = Limit("server_log", 2000, "Lines of a server's log")
_LINE_BYTES_KEPT = 8192
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|output|compute) buffer size = *([\d.]+) MiB")
_OFFLOADED = re.compile(r"offloaded (\d+)/\d+ layers to GPU")
_KINDS = {"model": "model", "KV": "context", "RS": "context", "output": "context"}
_MIB = 1024 * 1024


class ServerLog:
    """A bounded buffer of log lines.

    Its memory is limited for any number and length of lines. `secrets` are masked in the buffer;
    the file has the unchanged output of the server.
    """

    def __init__(self, secrets: tuple[str, ...] = (), file_path: Path | None = None) -> None:
        self._secrets = secrets
        self._lines: deque[str] = deque(maxlen=_LINES.most)
        self._unfinished = b""
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None if file_path is None else _open(file_path)
        self.on_line: Callable[[str], None] | None = None

    def feed(self, data: bytes) -> None:
        """Append output of the server, which may end within a line."""
        if self._file is not None:
            self._write(data)
        *whole, rest = (self._unfinished + data).split(b"\n")
        # Cut a line without an end; the rest of it is dropped as it arrives.
        self._unfinished = rest[:_LINE_BYTES_KEPT]
        for line in whole:
            self._append(line)

    def close(self) -> None:
        """Append the last line, which may lack a line break, and close the file."""
        if self._unfinished:
            self._append(self._unfinished)
            self._unfinished = b""
        if self._file is not None:
            self._file.close()
            self._file = None

    def lines(self, n: int | None = None) -> list[str]:
        """Return the last `n` lines, or all buffered lines."""
        with self._lock:
            lines = list(self._lines)
        return lines if n is None else lines[max(0, len(lines) - n) :]

    def reset_lock_after_fork(self) -> None:
        """Replace the lock: a thread that held it does not exist in the forked child."""
        self._lock = threading.Lock()

    def _append(self, line: bytes) -> None:
        # A model file can contain control characters in its metadata, which the server logs.
        text = printable(line[:_LINE_BYTES_KEPT].decode("utf-8", "replace").rstrip())
        for secret in self._secrets:
            text = text.replace(secret, "***")
        with self._lock:
            _LINES.append(self._lines, text)
        if self.on_line is not None:
            self.on_line(text)

    def _write(self, data: bytes) -> None:
        file = self._file
        if file is None:
            return
        try:
            file.write(data)
            file.flush()
        except OSError as error:
            # Go on reading: with a full pipe the server would block.
            self._file = None
            self.feed(f"llamatelemetry: stopped writing the log file: {error}\n".encode())


def _open(path: Path) -> BinaryIO:
    if not path.exists():
        # A verbose log contains prompts. An existing file keeps the mode that the user has chosen.
        make_private_file(path)
    return path.open("ab")


@dataclass(slots=True)
class LoadReport:
    """Memory of the model in bytes by device and kind, and its layers on the GPU, from the log."""

    memory: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    gpu_layers: int | None = None

    def parse_line(self, line: str) -> None:
        """Update the report from one line of the log."""
        if found := _BUFFER.search(line):
            device, kind, size_mib = found.groups()
            kinds = self.memory.setdefault(device, {"model": 0, "context": 0, "compute": 0})
            kinds[_KINDS.get(kind, "compute")] += round(float(size_mib) * _MIB)
        elif found := _OFFLOADED.search(line):
            self.gpu_layers = int(found[1])
