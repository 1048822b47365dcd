"""Call counts of the other processes on this host, for each GPU.

Eight workers of one service may call the same server. Without their counts, each worker would
assign the whole energy of that server to its own calls. So each process writes its number of calls
into its record of a small shared file, at each reading of the GPUs, and adds up the records of the
others. Records that are not renewed, for example of dead processes, are ignored.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

if sys.platform != "win32":  # without file locks there, processes do not share their counts
    import fcntl

_BOARDS: Final = 32
# Process ID, `time.monotonic` of the write (the same clock in all processes), calls on each board.
_RECORD: Final = struct.Struct(f"<Id{_BOARDS}I")
_RECORDS: Final = 256
_COUNTS_FOR_S: Final = 2.0
_IS_FREE_AFTER_S: Final = 60.0


class HostCallCounts:
    """Record of this process, and the sums of all others. Used by one thread.

    Only this user can write to the directory of the file. Without one, nothing is shared.
    """

    def __init__(self, folder: Callable[[], Path | None]) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._own: int | None = None
        self._is_unusable = sys.platform == "win32"

    def exchange(self, now_s: float, calls: Mapping[int, int]) -> dict[int, int]:
        """Write the calls of this process by board index, and return the sums of all others."""
        if self._is_unusable:
            return {}
        try:
            if self._fd is None:
                self._open(now_s)
            self._write(now_s, calls)
            return self._others(now_s)
        except OSError:
            self._is_unusable = True
            self.close()
            return {}

    def close(self) -> None:
        """Release the record."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                if self._own is not None:
                    os.pwrite(fd, bytes(_RECORD.size), self._own * _RECORD.size)
            os.close(fd)
        self._own = None

    def after_fork(self) -> None:
        """Reset in a forked child: the record belongs to the parent."""
        self._own = None
        self.close()

    def _open(self, now_s: float) -> None:
        folder = self._folder()
        if folder is None:
            raise FileNotFoundError("no shared directory")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(folder / "gpu-calls", flags, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            # If every record is in use, this process only reads.
            self._own = next(self._free(now_s), None)
            self._write(now_s, {})
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _free(self, now_s: float) -> Iterator[int]:
        taken = {
            index
            for index, pid, at_s, _ in self._records()
            # The clock restarts with the machine.
            if pid and 0 <= now_s - at_s < _IS_FREE_AFTER_S
        }
        return (index for index in range(_RECORDS) if index not in taken)

    def _write(self, now_s: float, calls: Mapping[int, int]) -> None:
        if self._own is None or self._fd is None:
            return
        counts = [calls.get(board, 0) for board in range(_BOARDS)]
        os.pwrite(self._fd, _RECORD.pack(os.getpid(), now_s, *counts), self._own * _RECORD.size)

    def _others(self, now_s: float) -> dict[int, int]:
        sums = dict[int, int]()
        for index, pid, at_s, counts in self._records():
            if index == self._own or not pid or not 0 <= now_s - at_s < _COUNTS_FOR_S:
                continue
            for board, count in enumerate(counts):
                if count:
                    sums[board] = sums.get(board, 0) + count
        return sums

    def _records(self) -> Iterator[tuple[int, int, float, tuple[int, ...]]]:
        content = b"" if self._fd is None else os.pread(self._fd, _RECORDS * _RECORD.size, 0)
        whole = len(content) - len(content) % _RECORD.size
        for index, (pid, at_s, *counts) in enumerate(_RECORD.iter_unpack(content[:whole])):
            yield index, pid, at_s, tuple(counts)
