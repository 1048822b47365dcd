"""Processes of several instrumentations, each with its own environment, that run in turns.

All processes exist at the same time. They take short turns in random order, so that other load on
the machine affects all of them alike.
"""

from __future__ import annotations

import os
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
    """Return the interpreter of a contender's environment. Creates the environment if missing.

    Args:
        name: Name of the contender.
        requirements: Requirements to install.
        on_top_of_this: Whether the packages of this interpreter are importable, too.
    """
    folder = ENVIRONMENTS / name.replace(" ", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"Creating the environment of {name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        if on_top_of_this:
            own = next(folder.glob("lib/python*/site-packages"))
            (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return python


class Worker:
    """Process of a contender. It answers each line with a duration in nanoseconds.

    Args:
        python: Interpreter of its environment.
        program: Script to run.
        arguments: Arguments of the script.
        variables: Environment variables to add.
    """

    def __init__(
        self,
        python: Path,
        program: Path,
        *arguments: str,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [str(python), str(program), *arguments],
            env={**os.environ, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.figures: dict[str, list[float]] = {}

    def turn(self, work: str, line: str, *, keep: bool) -> None:
        """Send a command, and keep the duration in microseconds if `keep`."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{line}\n")
        stdin.flush()
        cost_us = self.answer_ns() / 1000
        if keep:
            self.figures.setdefault(work, []).append(cost_us)

    def answer_ns(self) -> float:
        """Wait for the next duration, in nanoseconds."""
        stdout = self._process.stdout
        assert stdout is not None
        return float(stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def take_turns(
    workers: Iterable[Worker], lines: Mapping[str, str], *, rounds: int, warm_up: int
) -> None:
    """Run each command on each worker once per round. `lines` maps the kinds of work to commands."""
    take_different_turns({work: (line, workers) for work, line in lines.items()}, rounds, warm_up)


def take_different_turns(
    turns: Mapping[str, tuple[str, Iterable[Worker]]], rounds: int, warm_up: int
) -> None:
    """Run each kind of work, a command on some workers, once per round."""
    shuffle = random.Random(0).shuffle  # noqa: S311 - not used for cryptography
    for number in range(-warm_up, rounds):
        for work, (line, workers) in turns.items():
            order = list(workers)
            shuffle(order)
            for worker in order:
                worker.turn(work, line, keep=number >= 0)
