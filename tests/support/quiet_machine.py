"""Tests marked `clock`: run them on a quiet machine, and skip them on a busy one.

Such a test compares two clocks within milliseconds or percents. Another process on the same cores
can delay one of them, which is not an error. The first test waits until the machine is quiet, and
so does each test after a busy one. A test that fails while other processes use the cores is
reported as skipped, with the measured load. On a quiet machine it fails like any other test.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# Cores that other processes may use. Background work of a desktop or CI runner is below this.
QUIET_CORES = 0.2
# Total for one run of the tests.
LONGEST_WAIT_S = 60.0
_SAMPLE_S = 0.3
_PROC = Path("/proc")


class CpuTime(NamedTuple):
    """CPU time in seconds since boot, at one moment.

    Attributes:
        at: Clock reading in seconds.
        all: CPU time of all processes, and of the host (steal).
        ours: CPU time of this process and its descendants.
    """

    at: float
    all: float
    ours: float


def read_cpu_time() -> CpuTime | None:
    """Read the counters of the kernel. Return `None` where there is no /proc/stat."""
    try:
        ticks = [int(word) for word in (_PROC / "stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    hertz = os.sysconf("SC_CLK_TCK")
    busy = (user + nice + system + irq + softirq + steal) / hertz
    return CpuTime(time.monotonic(), busy, _ticks_of_descendants(os.getpid()) / hertz)


def _ticks_of_descendants(root: int) -> int:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may contain spaces.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # The process has ended.
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(
            int(field) for field in fields[11:15]
        )  # of the process and its ended children
    return sum(spent for pid, spent in ticks.items() if _descends(pid, root, parents))


def _descends(pid: int, root: int, parents: dict[int, int]) -> bool:
    while pid != root:
        if pid not in parents:
            return False
        pid = parents[pid]
    return True


def cores_used_by_others(before: CpuTime | None, after: CpuTime | None) -> float:
    """Return the mean number of cores that other processes used; 0 if unknown."""
    if before is None or after is None or after.at <= before.at:
        return 0.0
    others = (after.all - before.all) - (after.ours - before.ours)
    return max(0.0, others / (after.at - before.at))


class QuietMachine:
    """Measures the load during each `clock` test and waits between them."""

    def __init__(self) -> None:
        self._left_s = LONGEST_WAIT_S
        self._known_quiet = False
        self._before: CpuTime | None = None

    def wait(self) -> float:
        """Wait until the machine is quiet, for a limited time. Return the cores in use by others."""
        used = 0.0
        while not self._known_quiet:
            used = self._sample()
            self._known_quiet = used < QUIET_CORES
            self._left_s -= _SAMPLE_S
            if self._left_s < 0:
                break
        return used

    def _sample(self) -> float:
        before = read_cpu_time()
        time.sleep(_SAMPLE_S)
        return cores_used_by_others(before, read_cpu_time())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.get_closest_marker("clock"):
            used = self.wait()
            if used >= QUIET_CORES:
                pytest.skip(f"compares clocks: other processes used {used:.1f} cores")
            self._before = read_cpu_time()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Iterator[None]:
        report = yield
        if call.when == "call" and item.get_closest_marker("clock"):
            used = cores_used_by_others(self._before, read_cpu_time())
            self._known_quiet = used < QUIET_CORES
            if report.failed and not self._known_quiet:
                path, line, _ = item.location
                reason = f"compares clocks, and failed while others used {used:.1f} cores"
                report.outcome = "skipped"
                report.longrepr = (path, line or 0, f"Skipped: {reason}")
        return report


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(QuietMachine(), "quiet-machine")
