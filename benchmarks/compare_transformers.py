"""Overhead of each instrumentation of transformers per pipeline call and per generated token.

Each contender runs in its own environment under build/bench. The first run creates it, on top of
torch and transformers of this environment. The contenders take turns (see `_contenders.py`). The
model has a few thousand parameters and one thread. Spans and metrics are on, and the exporters drop
them. The results are medians over the rounds, in microseconds of CPU time of the calling thread.

    python benchmarks/compare_transformers.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from _contenders import Worker, environment, take_turns

WORKER = Path(__file__).with_name("_transformers_worker.py")
# Packages to add to this environment. The environment of `make test` has the first three contenders.
CONTENDERS: dict[str, list[str]] = {
    "bare": [],
    "llamatelemetry": [],
    "llamatelemetry with events": [],
    "openllmetry": ["opentelemetry-instrumentation-transformers == 0.62.4"],
    # Its dependencies include all instrumented libraries and conflict with this version of the SDK.
    "openlit": ["--no-deps", "openlit == 1.45.0"],
}
# Generated tokens of a turn. The difference between both gives the cost of a token.
SHORT, LONG = 2, 66
TURNS = {"short": str(SHORT), "long": str(LONG)}


def interpreter(name: str, requirements: list[str]) -> Path:
    """Return the interpreter of a contender: this one, or one with further packages."""
    if not requirements:
        return Path(sys.executable)
    return environment(f"transformers-{name}", requirements, on_top_of_this=True)


def added(worker: Worker, bare: Worker, work: str) -> float:
    """Return the median over the rounds of the extra time of a contender's turn."""
    pairs = zip(worker.figures[work], bare.figures[work], strict=True)
    return statistics.median(instrumented - plain for instrumented, plain in pairs)


def main() -> int:
    """Run the rounds and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    pythons = {name: interpreter(name, needs) for name, needs in CONTENDERS.items()}
    workers: dict[str, Worker] = {}
    start_ms: dict[str, float] = {}
    for name, python in pythons.items():
        workers[name] = Worker(python, WORKER, name)
        start_ms[name] = workers[name].answer_ns() / 1e6
    take_turns(workers.values(), TURNS, rounds=rounds, warm_up=5)
    bare = workers["bare"]
    print(f"{'':<28}{'call, us':>10}{'added':>8}{'token, us':>11}{'added':>8}{'start, ms':>11}")
    for name, worker in workers.items():
        short, long = (statistics.median(worker.figures[work]) for work in TURNS)
        extra = added(worker, bare, "short")
        per_token = (added(worker, bare, "long") - extra) / (LONG - SHORT)
        print(
            f"{name:<28}{short:>10.0f}{extra:>+8.0f}{(long - short) / (LONG - SHORT):>11.1f}"
            f"{per_token:>+8.1f}{start_ms[name]:>11.0f}"
        )
    for worker in workers.values():
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
