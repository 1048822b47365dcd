"""The process between the manager and the server: it ends the server when the manager ends.

Run by path with ``python -I -S``, so it uses the standard library alone and starts in a few
milliseconds. It is the server's parent, so the process id it signals is always the server's own.
It watches a pipe rather than asking for the parent-death signal, which comes when the *thread*
that started the process ends.

- stdin: ``t`` asks for a graceful end, ``k`` for one by force; its end is the manager's end.
- stdout: lines of JSON: ``{"pid": ...}``, then ``{"exit": ...}``, or ``{"error": ...}``.
- stderr: the server's own output, both streams.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(grace_s: float, command: list[str]) -> int:
    """Run the server until it ends; ``grace_s`` is for a server whose manager has gone."""
    woken_fd = _catch_signals()
    try:
        pid = _spawn(command)
    except OSError as error:
        _report(error=f"{command[0]}: {error.strerror}")
        return 1
    _report(pid=pid)
    code = _attend(pid, woken_fd, grace_s)
    # What the server itself has started (a router's models, a wrapper script's program).
    _signal_group(pid, signal.SIGKILL)
    _report(exit=code)
    return 0


def _catch_signals() -> int:
    woken_fd, wake_fd = os.pipe()
    os.set_blocking(woken_fd, False)
    os.set_blocking(wake_fd, False)
    signal.set_wakeup_fd(wake_fd)
    for number in _SIGNALS:
        signal.signal(number, _only_wake)
    # The thread that has started this process may block them, and the server inherits the mask.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return woken_fd


def _spawn(command: list[str]) -> int:
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, 2, 1),
        ],
        setpgroup=0,
        # Python ignores it, and an ignored signal would stay ignored.
        setsigdef=[signal.SIGPIPE],
    )


def _attend(pid: int, woken_fd: int, grace_s: float) -> int:
    """Pass on what the manager wants until the server has ended; its exit code."""
    control_fds, kill_at = [0], None
    while True:
        left_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        readable, _, _ = select.select([woken_fd, *control_fds], [], [], left_s)
        wanted = _wanted(readable, woken_fd)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if "gone" in wanted:
            control_fds = []
        if wanted & {"gone", "signalled"} and kill_at is None:
            kill_at = time.monotonic() + grace_s
        if "kill" in wanted or (kill_at is not None and time.monotonic() >= kill_at):
            _signal_group(pid, signal.SIGKILL)
            kill_at = None
        elif wanted:
            _signal_group(pid, signal.SIGTERM)


def _wanted(readable: list[int], woken_fd: int) -> set[str]:
    wanted: set[str] = set()
    if woken_fd in readable and set(os.read(woken_fd, 512)) - {signal.SIGCHLD}:
        wanted.add("signalled")
    if 0 in readable:
        orders = os.read(0, 64)
        if not orders:
            wanted.add("gone")
        wanted |= {{"t": "terminate", "k": "kill"}[chr(order)] for order in orders}
    return wanted


def _signal_group(pid: int, number: signal.Signals) -> None:
    # macOS says the latter of the dead.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _report(**facts: object) -> None:
    with contextlib.suppress(OSError):  # nobody is left to tell
        os.write(1, f"{json.dumps(facts)}\n".encode())


def _only_wake(_number: int, _frame: object) -> None:
    """A handler must be there for the wake-up pipe to be written to."""


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
