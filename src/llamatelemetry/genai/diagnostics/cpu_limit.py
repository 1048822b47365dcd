"""How long the CPU limit of a process's control group has kept its threads from running.

A container with a CPU limit is such a group. The kernel stops the threads of a group that has used
up its quota until the next period, mostly of 100 ms. They count as waiting for a CPU meanwhile, so
only the statistics of the group tell a limit from a busy machine (`cgroups(7)`, and the kernel's
`Documentation/scheduler/sched-bwc.rst`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")
# `local` includes the limits of the groups around it; it is missing before Linux 6.6.
_FILES: Final = ("cpu.stat.local", "cpu.stat")
_NS: Final = {b"throttled_usec": 1000, b"throttled_time": 1}  # version 2, version 1


class CpuLimit:
    """The open statistics of the control group of a process."""

    def __init__(self, pid: int) -> None:
        self._file = _statistics_of(pid)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def throttled_ns(self) -> int:
        """Return the time in which the group could not run, summed over CPUs; 0 if it is unknown."""
        return 0 if self._file is None else _throttled_ns(self._file) or 0


def _statistics_of(pid: int) -> int | None:
    """Open the statistics, or return `None` if the group has none."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:  # number, controllers, path
        _, controllers, path = line.split(":", 2)
        # Version 2 has one line without controllers. Version 1 has one for each directory.
        if controllers and "cpu" not in controllers.split(","):
            continue
        for name in _FILES:
            try:
                file = os.open(_GROUPS / controllers / path.lstrip("/") / name, os.O_RDONLY)
            except OSError:
                continue
            if _throttled_ns(file) is not None:
                return file
            os.close(file)
    return None


def _throttled_ns(file: int) -> int | None:
    try:
        words = os.pread(file, 1024, 0).split()
    except OSError:  # The group has been removed.
        return None
    for name, value in zip(words[::2], words[1::2], strict=False):
        if name in _NS:
            return int(value) * _NS[name]
    return None
