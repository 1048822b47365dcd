"""The watchdog process: the parent of the server. It ends the server when the manager ends.

It is run by path with `python -I -S`, so it uses the standard library only and starts in a few
milliseconds. It is the server's parent, so the process id it signals is always the server's.
It watches a pipe instead of using the parent-death signal, which is sent when the *thread* that
started the process ends.

- stdin: `t` requests a graceful shutdown, `k` kills; end of file means that the manager is gone.
- stdout: lines of JSON: `{"pid": ...}`, then `{"exit": ...}`, or `{"error": ...}`.
- stderr: standard output and standard error of the server.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time


def main(grace_s: float, command: list[str]) -> int:
    """Run the server until it exits.

    `grace_s` is the time for a graceful shutdown after the manager is gone.
    """
    woken_fd = _catch_signals()
    try:
        pid = _spawn(command)
    except OSError as error:
        _report(error=f"{command[0]}: {error.strerror}")
        return 1
    _report(pid=pid)
    code = _supervise(pid, woken_fd, grace_s)
    # Also end the processes that the server started: a router's models, a wrapper's program.
    _signal_group(pid, signal.SIGKILL)
    _report(exit=code)
    return 0


def _catch_signals() -> int:
    woken_fd, wake_fd = os.pipe()
    os.set_blocking(woken_fd, False)
    os.set_blocking(wake_fd, False)
    signal.set_wakeup_fd(wake_fd)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _only_wake)
    # The thread that started this process may block signals, and the server inherits the mask.
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
        # Python ignores SIGPIPE, and a child process inherits ignored signals.
        setsigdef=[signal.SIGPIPE],
    )


def _supervise(pid: int, woken_fd: int, grace_s: float) -> int:
    """Forward the manager's commands until the server exits. Return its exit code."""
    control_fds, kill_at = [0], None
    while True:
        left_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        readable, _, _ = select.select([woken_fd, *control_fds], [], [], left_s)
        commands = _read_commands(readable, woken_fd)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if "gone" in commands:
            control_fds = []
        if commands & {"gone", "signaled"} and kill_at is None:
            kill_at = time.monotonic() + grace_s
        if "kill" in commands or (kill_at is not None and time.monotonic() >= kill_at):
            _signal_group(pid, signal.SIGKILL)
            kill_at = None
        elif commands:
            _signal_group(pid, signal.SIGTERM)


def _read_commands(readable: list[int], woken_fd: int) -> set[str]:
    commands: set[str] = set()
    if woken_fd in readable and set(os.read(woken_fd, 512)) - {signal.SIGCHLD}:
        commands.add("signaled")
    if 0 in readable:
        data = os.read(0, 64)
        if not data:
            commands.add("gone")
        commands |= {{"t": "terminate", "k": "kill"}[chr(byte)] for byte in data}
    return commands


def _signal_group(pid: int, number: signal.Signals) -> None:
    # macOS raises PermissionError for a process that has exited.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _report(**fields: object) -> None:
    # The manager may be gone.
    with contextlib.suppress(OSError):
        os.write(1, f"{json.dumps(fields)}\n".encode())


def _only_wake(_number: int, _frame: object) -> None:
    """Do nothing. Without a handler Python does not write to the wake-up pipe."""


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
