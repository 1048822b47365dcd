"""What each instrumentation of transformers adds to a pipeline call, and to a token it generates.

Each contender runs in an environment of its own under build/bench, made on the first run on top
of this one's torch and transformers. All are alive at once and take short turns, in changing
order, so that whatever the machine does meanwhile falls on all of them alike. The model has a few
thousand parameters and one thread. Spans and metrics are on; what is exported is dropped. The
figures are medians over the rounds, in microseconds of CPU of the calling thread.

    python benchmarks/compare_transformers.py [ROUNDS]
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "bench"
WORKER = Path(__file__).with_name("_transformers_worker.py")
# What is added to the environment that this runs in; that of `make test` has the first two.
CONTENDERS: dict[str, list[str]] = {
    "bare": [],
    "llamatelemetry": [],
    "llamatelemetry with events": [],
    "openllmetry": ["opentelemetry-instrumentation-transformers == 0.62.4"],
    # Its dependencies are those of all it instruments, and exclude each other with this SDK.
    "openlit": ["--no-deps", "openlit == 1.45.0"],
}
# New tokens of a turn: the difference between the two is what a token costs.
SHORT, LONG = 2, 66


def environment(name: str, requirements: list[str]) -> Path:
    """The interpreter of a contender's environment, which is made if it is not there."""
    if not requirements:
        return Path(sys.executable)
    folder = ENVIRONMENTS / f"transformers-{name}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making the environment of {name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return python


class Worker:
    """A contender's process."""

    def __init__(self, name: str, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(WORKER), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start_ms = float(self._answer()) / 1e6
        self.figures: dict[int, list[float]] = {SHORT: [], LONG: []}

    def turn(self, tokens: int, *, keep: bool) -> None:
        """Generate so many tokens and note the cost in microseconds."""
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.write(f"{tokens}\n")
        stdin.flush()
        cost_us = float(self._answer()) / 1000
        if keep:
            self.figures[tokens].append(cost_us)

    def _answer(self) -> str:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        return stdout.readline()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def added(worker: Worker, bare: Worker, tokens: int) -> float:
    """The median over the rounds of what a contender's turn took more than the bare one's."""
    pairs = zip(worker.figures[tokens], bare.figures[tokens], strict=True)
    return statistics.median(theirs - plain for theirs, plain in pairs)


def main() -> int:
    """Run the rounds and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    pythons = {name: environment(name, needs) for name, needs in CONTENDERS.items()}
    workers = {name: Worker(name, python) for name, python in pythons.items()}
    order = list(workers.values())
    shuffle = random.Random(0).shuffle  # noqa: S311 - the order of turns is no secret
    for number in range(-5, rounds):  # the first five warm up
        for tokens in (SHORT, LONG):
            shuffle(order)
            for worker in order:
                worker.turn(tokens, keep=number >= 0)
    bare = workers["bare"]
    print(f"{'':<28}{'call, us':>10}{'added':>8}{'token, us':>11}{'added':>8}{'start, ms':>11}")
    for name, worker in workers.items():
        short, long = (statistics.median(worker.figures[tokens]) for tokens in (SHORT, LONG))
        extra = added(worker, bare, SHORT)
        per_token = (added(worker, bare, LONG) - extra) / (LONG - SHORT)
        print(
            f"{name:<28}{short:>10.0f}{extra:>+8.0f}{(long - short) / (LONG - SHORT):>11.1f}"
            f"{per_token:>+8.1f}{worker.start_ms:>11.0f}"
        )
    for worker in workers.values():
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
