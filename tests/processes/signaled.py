"""Programs that make calls and wait for a signal: `signaled.py PROGRAM` prints their process ids."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from calls import work

if os.environ.get("INIT_IN_CODE"):
    import llamatelemetry

    llamatelemetry.init()

TIMES = 5


def report(*pids: int) -> None:
    sys.stdout.write(f"{' '.join(map(str, pids))}\n")
    sys.stdout.flush()


def make_calls() -> int:
    for _ in range(TIMES):
        work()
    return os.getpid()


def wait() -> None:
    report(make_calls())
    while True:
        # A signal just before a sleep does not interrupt it.
        time.sleep(0.1)


def run_native_code() -> None:
    """Run code that no signal interrupts, for hours, without the lock of the interpreter."""
    report(make_calls())
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def exit_in_own_handler() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    wait()


def clean_up_after_own_handler() -> None:
    """Restore the former handler at once, then clean up for a while."""

    class TerminatedError(Exception):
        pass

    def handle(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, handle)
    with contextlib.suppress(TerminatedError):
        wait()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)
    sys.exit(8)


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    report(make_calls())
    time.sleep(2)
    sys.exit(9)


def wait_in_child() -> None:
    pid = os.fork()
    if pid == 0:
        wait()
    _, status = os.waitpid(pid, 0)
    sys.exit(-os.waitstatus_to_exitcode(status))


def terminate_pool() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pids = pool.map(worker_calls, range(2), chunksize=1)
    report(*pids)


def worker_calls(_: int) -> int:
    time.sleep(0.5)  # Meanwhile the other worker takes the other task.
    return make_calls()


PROGRAMS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        wait,
        run_native_code,
        exit_in_own_handler,
        clean_up_after_own_handler,
        ignore_hangup,
        wait_in_child,
        terminate_pool,
    )
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
