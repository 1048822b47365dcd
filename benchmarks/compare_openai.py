"""What each instrumentation of the openai client adds to a call and to a streamed chunk.

Each contender runs in an environment of its own under build/bench, made on the first run. All
are alive at once and take short turns, in changing order, so that whatever the machine does
meanwhile falls on all of them alike. Spans and metrics are on; what is exported is dropped. The
figures are medians over the rounds, in microseconds of CPU of the calling thread, and the ratio
of what we add to what the best of the others adds.

    python benchmarks/compare_openai.py [ROUNDS]
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "bench"
WORKER = Path(__file__).with_name("_openai_worker.py")
OPENAI = "openai == 3.54.0"
SDK = "opentelemetry-sdk >= 1.45.2, < 2"
OURS = [
    f"-e{ROOT / path}"
    for path in ("src/llamatelemetry", "src/llamatelemetry_instrumentation_openai")
]
CONTENDERS = {
    "bare": [OPENAI],
    "llamatelemetry": [OPENAI, SDK, *OURS],
    "official": [OPENAI, SDK, "opentelemetry-instrumentation-genai-openai == 1.3b0"],
    "openinference": [OPENAI, SDK, "openinference-instrumentation-openai == 0.1.66"],
}
WORK = {"call": 20, "chunk": 1}


def environment(name: str, requirements: list[str]) -> Path:
    """The interpreter of a contender's environment, which is made if it is not there."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making the environment of {name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True)
        (folder / "complete").touch()
    return python


class Worker:
    """A contender's process."""

    def __init__(self, name: str, python: Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(python), str(WORKER), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.start_ms = float(self._answer()) / 1e6
        self.figures: dict[str, list[float]] = {work: [] for work in WORK}

    def turn(self, work: str, *, keep: bool) -> None:
        """Do a piece of work and note its cost in microseconds."""
        stdin: IO[str] | None = self._process.stdin
        assert stdin is not None
        stdin.write(f"{work} {WORK[work]}\n")
        stdin.flush()
        cost_us = float(self._answer()) / 1000
        if keep:
            self.figures[work].append(cost_us)

    def _answer(self) -> str:
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        return stdout.readline()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def added(workers: dict[str, Worker], name: str, work: str) -> float:
    """The median over the rounds of what a contender's turn took more than the bare one's."""
    pairs = zip(workers[name].figures[work], workers["bare"].figures[work], strict=True)
    return statistics.median(theirs - bare for theirs, bare in pairs)


def main() -> int:
    """Run the rounds and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    pythons = {name: environment(name, needs) for name, needs in CONTENDERS.items()}
    workers = {name: Worker(name, python) for name, python in pythons.items()}
    order = list(workers.values())
    shuffle = random.Random(0).shuffle  # noqa: S311 - the order of turns is no secret
    for number in range(-3, rounds):  # the first three warm up
        for work in WORK:
            shuffle(order)
            for worker in order:
                worker.turn(work, keep=number >= 0)
    print(
        f"{'':<16}{'call, us':>10}{'added':>8}{'chunk, us':>11}{'added':>8}{'import + instrument, ms':>25}"
    )
    for name, worker in workers.items():
        medians = {work: statistics.median(figures) for work, figures in worker.figures.items()}
        extra = {work: added(workers, name, work) for work in WORK}
        print(
            f"{name:<16}{medians['call']:>10.0f}{extra['call']:>+8.0f}"
            f"{medians['chunk']:>11.1f}{extra['chunk']:>+8.1f}{worker.start_ms:>25.0f}"
        )
    for work in WORK:
        best = min(added(workers, name, work) for name in ("official", "openinference"))
        print(
            f"ours over the best other, per {work}: {added(workers, 'llamatelemetry', work) / best:.2f}"
        )
    for worker in workers.values():
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
