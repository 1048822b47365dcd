"""CPU time, wait for a CPU, and stopped time of a server on this machine while calls are open.

A thread samples the processes of the server every 25 ms, or less often if that would take more than
a quarter of a percent of a core. All figures come from Linux's `/proc` (`proc(5)`): the state of a
process from `stat`, and the nanoseconds that a thread has waited on a run queue from `schedstat`.
The files stay open, because opening one takes longer than reading it. The thread ends soon after
the last call.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from bisect import bisect_right
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from llamatelemetry._limits import Limit
from llamatelemetry.genai import internal_errors
from llamatelemetry.genai.diagnostics.cpu_limit import CpuLimit
from llamatelemetry.genai.server_pids import is_on_this_machine, pids_of

if TYPE_CHECKING:
    from collections.abc import Iterable

INTERVAL_S: Final = 0.025
_LONGEST_INTERVAL_S: Final = 1.0
# Of a core, for the samples and again for the search of busy threads.
_SHARE: Final = 1 / 400
_SEARCH_S: Final = 1.0
# After the last call. The next one then needs neither a new thread nor a wake-up.
_LINGERS_S: Final = 0.5
_SAMPLES: Final = Limit(
    "server_samples", 16_000, "Samples of a server on this machine", "drops the older half"
)
_NEW_NS: Final = 4_000_000
# No server starts a process, loads a model and responds within this time.
_SHORTEST_START_NS: Final = 50_000_000
_THREADS: Final = 8
_PROCESSES: Final = 8
_STOPPED: Final = b"Tt"
_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_is_local: Final = Limit(
    "local_addresses", 256, "Server addresses, and whether they are on this machine"
).cached(is_on_this_machine)


class Sample(NamedTuple):
    """Figures of a server, counted since its first sample, in nanoseconds.

    Attributes:
        at_ns: Time of the sample, by `perf_counter_ns`.
        cpu_ns: CPU time of all its processes.
        run_delay_ns: Wait for a CPU: the longest of any thread in each interval.
        stopped_ns: Time in which one of its processes was stopped.
        throttled_ns: Part of the run delay in which its CPU limit was used up.
    """

    at_ns: int
    cpu_ns: int
    run_delay_ns: int
    stopped_ns: int
    throttled_ns: int = 0


class _Process:
    """One process of a server: its open files, and the last figures."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.started_ns = _started_ns(Path(f"/proc/{pid}/stat").read_bytes())
        self._stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        self.threads: dict[int, tuple[int, int]] = {}  # file and last run delay, by thread
        self._ran_ns: dict[int, int] = {}
        # The clock of another process, as `clock_getcpuclockid(3)` returns it on Linux.
        self._clock = (~pid << 3) | 2
        self._cpu_ns: int | None = None
        self._limit = CpuLimit(pid)
        self._throttled_ns = self._limit.throttled_ns()

    def close(self) -> None:
        self._limit.close()
        for file in [self._stat, *(file for file, _ in self.threads.values())]:
            os.close(file)
        self.threads.clear()

    def find_threads(self) -> list[tuple[int, int]]:
        """Return the threads with the CPU time of each since the last search."""
        found: dict[int, int] = {}
        for entry in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                found[int(entry.name)] = int((entry / "schedstat").read_bytes().split()[0])
        before, self._ran_ns = self._ran_ns, found
        return [(ran_ns - before.get(thread, 0), thread) for thread, ran_ns in found.items()]

    def follow(self, threads: Iterable[int]) -> None:
        """Read these threads, and no others, from now on."""
        wanted = set(threads)
        for thread in self.threads.keys() - wanted:
            os.close(self.threads.pop(thread)[0])
        for thread in wanted - self.threads.keys():
            with contextlib.suppress(OSError, ValueError, IndexError):
                file = os.open(f"/proc/{self.pid}/task/{thread}/schedstat", os.O_RDONLY)
                self.threads[thread] = (file, _run_delay_ns(file))

    def read(self, *, is_quick: bool) -> tuple[int, int, int, bool]:
        """Return CPU time, run delay and throttled time since the last reading; whether it is stopped.

        Args:
            is_quick: Whether to read only the first two.

        Raises:
            OSError: The process has ended.
        """
        cpu_ns = time.clock_gettime_ns(self._clock)
        used_ns = 0 if self._cpu_ns is None else cpu_ns - self._cpu_ns
        self._cpu_ns = cpu_ns
        longest_ns = 0
        for thread, (file, before_ns) in list(self.threads.items()):
            try:
                delay_ns = _run_delay_ns(file)
            except (OSError, ValueError, IndexError):  # The thread has ended.
                os.close(self.threads.pop(thread)[0])
                continue
            self.threads[thread] = (file, delay_ns)
            longest_ns = max(longest_ns, delay_ns - before_ns)
        if is_quick:
            return used_ns, longest_ns, 0, False
        # The name before the state may contain parentheses.
        is_stopped = os.pread(self._stat, 512, 0).rpartition(b") ")[2][:1] in _STOPPED
        before_ns, self._throttled_ns = self._throttled_ns, self._limit.throttled_ns()
        throttled_ns = max(0, self._throttled_ns - before_ns)
        return used_ns, longest_ns, throttled_ns, is_stopped


def _started_ns(stat: bytes) -> int:
    """Return the start of a process by `perf_counter_ns`, rounded down to a tick of 10 ms."""
    # The numbers after the name begin with the third, the state; the start is the 22nd.
    ticks = int(stat.rpartition(b") ")[2].split()[19])
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 1_000_000_000 // _TICKS
    return time.perf_counter_ns() - age_ns


def _run_delay_ns(file: int) -> int:
    return int(os.pread(file, 128, 0).split()[1])


class Server:
    """The processes of one server, and their samples.

    Attributes:
        calls: Open calls.
        samples: The newest samples, at least those of the last three minutes.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.calls: WeakSet[Any] = WeakSet()
        self.samples: list[Sample] = []
        self._processes: list[_Process] = []
        self._was_stopped = False
        self._search_at_s = 0.0
        self._last_call_s = time.monotonic()
        # Of the sampling thread and the thread of a call that ends, one samples.
        self._permit: list[None] = [None]

    def close(self) -> None:
        """Close the files."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.close()

    def is_in_use(self) -> bool:
        """Return whether a call is open, or has been within the last half second."""
        now_s = time.monotonic()
        if self.calls:
            self._last_call_s = now_s
        return now_s - self._last_call_s < _LINGERS_S

    def sample(self, *, may_search: bool, is_quick: bool = False) -> None:
        """Take a sample, unless the last one is new.

        Args:
            may_search: Whether to search for processes and busy threads if it is time.
            is_quick: Whether to read only CPU time and run delay, because the server has just
                responded. Then it is not stopped, and the next sample has the throttled time.
        """
        if self.samples and time.perf_counter_ns() - self.samples[-1].at_ns < _NEW_NS:
            return
        try:
            self._permit.pop()
        except IndexError:
            return
        try:
            if may_search and time.monotonic() >= self._search_at_s:
                started_ns = time.thread_time_ns()
                self._search()
                pause_s = (time.thread_time_ns() - started_ns) / 1e9 / _SHARE
                self._search_at_s = time.monotonic() + max(_SEARCH_S, pause_s)
            if self._processes:
                self._read(is_quick=is_quick)
        finally:
            self._permit.append(None)

    def _search(self) -> None:
        pids = sorted(pids_of(self.origin) - {os.getpid()})[:_PROCESSES]
        for process in [each for each in self._processes if each.pid not in pids]:
            self._processes.remove(process)
            process.close()
        for pid in set(pids).difference(process.pid for process in self._processes):
            with contextlib.suppress(OSError):
                self._processes.append(_Process(pid))
        threads: list[tuple[int, int, _Process]] = []
        for process in self._processes:
            with contextlib.suppress(OSError):
                threads += [(ran_ns, thread, process) for ran_ns, thread in process.find_threads()]
        busiest = sorted(threads, key=lambda each: each[0], reverse=True)[:_THREADS]
        for process in self._processes:
            process.follow(thread for _, thread, owner in busiest if owner is process)

    def _read(self, *, is_quick: bool) -> None:
        cpu_ns, longest_ns, throttled_ns, is_stopped = 0, 0, 0, False
        for process in list(self._processes):
            try:
                used_ns, delay_ns, process_throttled_ns, is_process_stopped = process.read(
                    is_quick=is_quick
                )
            except OSError:
                self._processes.remove(process)
                process.close()
                self._search_at_s = 0.0
                continue
            cpu_ns += used_ns
            longest_ns = max(longest_ns, delay_ns)
            throttled_ns = max(throttled_ns, process_throttled_ns)
            is_stopped = is_stopped or is_process_stopped
        at_ns = time.perf_counter_ns()
        last = self.samples[-1] if self.samples else Sample(at_ns, 0, 0, 0)
        # Half of an interval at whose start or end it was not stopped.
        stopped_ns = (at_ns - last.at_ns) * (is_stopped + self._was_stopped) // 2
        self._was_stopped = is_stopped
        self.samples.append(
            Sample(
                at_ns,
                last.cpu_ns + cpu_ns,
                last.run_delay_ns + longest_ns,
                last.stopped_ns + stopped_ns,
                last.throttled_ns + throttled_ns,
            )
        )
        if len(self.samples) > _SAMPLES.most:
            kept = self.samples[-_SAMPLES.most // 2 :]
            _SAMPLES.drop(len(self.samples) - len(kept))
            self.samples = kept

    def start_after(self, at_ns: int) -> int | None:
        """Return when the newest process of the server started, if that was after `at_ns`."""
        if time.perf_counter_ns() - at_ns < _SHORTEST_START_NS:
            return None
        started_ns = {process.pid: process.started_ns for process in list(self._processes)}
        # A process may have started and loaded a model since the last search. Shorter calls do not
        # pay for another one.
        if started_ns and time.perf_counter_ns() - at_ns > _SEARCH_S * 1e9:
            for pid in pids_of(self.origin) - started_ns.keys():
                with contextlib.suppress(OSError):
                    started_ns[pid] = _started_ns(Path(f"/proc/{pid}/stat").read_bytes())
        # A router starts a process within a few milliseconds, and the kernel rounds the start down.
        newest_ns = max(started_ns.values(), default=0) + 1_000_000_000 // _TICKS
        return newest_ns if newest_ns > at_ns else None

    def figures_between(self, bounds_ns: list[int]) -> list[tuple[float, ...]] | None:
        """Return CPU time, run delay, stopped and throttled time between each two bounds, in seconds.

        Returns:
            `None` if the samples do not cover this time.
        """
        samples = self.samples
        if len(samples) < 2 or bounds_ns[0] < samples[0].at_ns - 2 * INTERVAL_S * 1e9:
            return None
        at = [_interpolate(samples, bound_ns) for bound_ns in bounds_ns]
        return [
            tuple(
                round((after - before) / 1e9, 4) for before, after in zip(start, end, strict=True)
            )
            for start, end in pairwise(at)
        ]


def _interpolate(samples: list[Sample], at_ns: int) -> tuple[float, ...]:
    index = bisect_right(samples, (at_ns, inf))  # Samples are tuples that begin with their time.
    if index in (0, len(samples)):
        return samples[min(index, len(samples) - 1)][1:]
    before, after = samples[index - 1], samples[index]
    share = (at_ns - before.at_ns) / (after.at_ns - before.at_ns)
    return tuple(a + (b - a) * share for a, b in zip(before[1:], after[1:], strict=True))


class ServerSampler:
    """The servers that have open calls, and the thread that samples them."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        for server in self._servers.values():  # The child of a fork has copies of the files.
            server.close()
        self._servers = {}
        self._permit: list[None] = [None]  # of several callers, one starts the thread
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def open(self, origin: str, call: Any) -> Server | None:
        """Sample the server while the call is open. Return `None` if it is on another machine."""
        if not _is_local(origin) or sys.platform != "linux":
            return None
        server = self._servers.get(origin)
        if server is None:
            server = self._servers.setdefault(origin, Server(origin))
        server.calls.add(call)
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start_thread()
        return server

    def _start_thread(self) -> None:
        try:
            self._permit.pop()
        except IndexError:
            return
        try:
            if self._thread is not None and self._thread.is_alive():
                return
            # Together with the thread: gevent may have replaced both.
            self._stopping = threading.Event()
            thread = threading.Thread(
                target=self._run, name="llamatelemetry-server-sampler", daemon=True
            )
            thread.start()
            self._thread = thread
        except RuntimeError:  # Out of threads, or the interpreter is shutting down.
            pass
        finally:
            self._permit.append(None)

    def stop(self, timeout_s: float) -> bool:
        """Stop the thread. Return whether it ended within the time. The next call starts it again."""
        self._stopping.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        stopping = self._stopping
        pause_s = 0.0
        while not stopping.wait(pause_s):
            started_ns = time.thread_time_ns()
            in_use = [server for server in list(self._servers.values()) if server.is_in_use()]
            if not in_use:
                break
            for server in in_use:
                try:
                    server.sample(may_search=True)
                except Exception as error:
                    internal_errors.log_once("sampling a server", error)
            took_s = (time.thread_time_ns() - started_ns) / 1e9
            pause_s = min(max(INTERVAL_S, took_s / _SHARE), _LONGEST_INTERVAL_S)
        self._end()
        # A call may have begun while this thread still seemed to run.
        if not stopping.is_set() and any(server.calls for server in list(self._servers.values())):
            self._start_thread()

    def _end(self) -> None:
        self._thread = None
        for origin, server in list(self._servers.items()):
            if not server.calls:
                self._servers.pop(origin, None)
                server.close()


sampler: Final = ServerSampler()
