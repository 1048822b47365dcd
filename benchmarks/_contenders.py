"""Instrumentations side by side: each in an environment and a process of its own, taking turns.

All are alive at once and take short turns, in changing order, so that whatever the machine does
meanwhile falls on all of them alike.
"""

from __future__ import annotations

import random
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "bench"


def environment(name: str, requirements: list[str], *, on_top_of_this: bool = False) -> Path:
    """The interpreter of a contender's environment, which is made if it is not there.

    Args:
        name: of its folder.
        requirements: what is installed into it.
        on_top_of_this: whether what this interpreter has installed is there as well.
    """
    folder = ENVIRONMENTS / name.replace(" ", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making the environment of {name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        if on_top_of_this:
            own = next(folder.glob("lib/python*/site-packages"))
            (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return python


class Worker:
    """A contender's process, which answers each line with a number of nanoseconds."""

    def __init__(self, python: Path, program: Path, name: str) -> None:
        self._process = subprocess.Popen(
            [str(python), str(program), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.figures: dict[str, list[float]] = {}

    def turn(self, work: str, line: str, *, keep: bool) -> None:
        """Do a piece of work and note its cost in microseconds."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{line}\n")
        stdin.flush()
        cost_us = self.answer_ns() / 1000
        if keep:
            self.figures.setdefault(work, []).append(cost_us)

    def answer_ns(self) -> float:
        """Wait for the next number that it says."""
        stdout = self._process.stdout
        assert stdout is not None
        return float(stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def take_turns(
    workers: Iterable[Worker], lines: Mapping[str, str], *, rounds: int, warm_up: int
) -> None:
    """Let each worker do each piece of work, which a line asks for, once in every round."""
    order = list(workers)
    shuffle = random.Random(0).shuffle  # noqa: S311 - the order of turns is no secret
    for number in range(-warm_up, rounds):
        for work, line in lines.items():
            shuffle(order)
            for worker in order:
                worker.turn(work, line, keep=number >= 0)
