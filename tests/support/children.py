"""Child processes that do not depend on how the tests were started.

A child inherits which signals its parent ignores and blocks: under `nohup`, in the background of
a script and in many a CI system, SIGINT is among them.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# A program between the two, as subprocess warns of `preexec_fn` beside threads.
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
    """Return a command that runs another one, with every signal but these as it is by default.

    The process keeps its id: its parent can send it signals as before.
    """
    lists = [",".join(str(int(number)) for number in numbers) for numbers in (ignored, blocked)]
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, *lists, *map(os.fspath, command)]


def write_program(path: Path, source: str, *options: str) -> None:
    """Write a Python program that can be run by its path.

    A shell script that runs it, as an interpreter line takes no interpreter with a blank in its
    path.
    """
    code = path.with_name(f"{path.name}.py")
    code.write_text(source, encoding="utf-8")
    line = shlex.join([sys.executable, *options, str(code)])
    path.write_text(f'#!/bin/sh\nexec {line} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
