"""Child processes with defined signal dispositions.

A child inherits the ignored and blocked signals of its parent. Under `nohup`, in background jobs of
scripts and in some CI systems, SIGINT is ignored.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# A launcher program, because `preexec_fn` is not safe in a process with threads.
_LAUNCHER = """
import os, signal, sys
ignored = {int(number) for number in sys.argv[1].split(",") if number}
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
blocked = {int(number) for number in sys.argv[2].split(",") if number}
signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def with_signals(
    command: Sequence[str | os.PathLike[str]],
    *,
    ignored: Iterable[int] = (),
    blocked: Iterable[int] = (),
) -> list[str]:
    """Return a command that runs another one with the default action of all other signals.

    The launcher replaces itself, so the parent can send signals to the process.
    """
    lists = [",".join(str(int(number)) for number in numbers) for numbers in (ignored, blocked)]
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, *lists, *map(os.fspath, command)]


def write_program(path: Path, source: str, *options: str) -> None:
    """Write a Python program and a shell script at `path` that runs it.

    A `#!` line cannot name an interpreter whose path has a space.
    """
    code = path.with_name(f"{path.name}.py")
    code.write_text(source, encoding="utf-8")
    line = shlex.join([sys.executable, *options, str(code)])
    path.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
