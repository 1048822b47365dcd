"""A CPU limit for a running process, as that of a container: a control group of Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PERIOD_US = 100_000


@contextmanager
def cpu_limit(pid: int, *, share: float) -> Iterator[None]:
    """Limit a process to a share of one core. This needs the rights of root.

    Raises:
        OSError: This system does not let the caller do that.
    """
    parent = Path("/sys/fs/cgroup/cpu")  # version 1
    limit = ("cpu.cfs_quota_us", f"{round(share * PERIOD_US)}")
    if not parent.exists():
        parent, limit = parent.parent, ("cpu.max", f"{round(share * PERIOD_US)} {PERIOD_US}")
    group = parent / f"llamatelemetry-test-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / limit[0]).write_text(limit[1])
        (group / "cgroup.procs").write_text(str(pid))
        yield
        (parent / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()
