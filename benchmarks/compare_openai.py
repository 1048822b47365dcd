"""What each instrumentation of the openai client adds to a call and to a streamed chunk.

Each contender runs in an environment of its own under build/bench, made on the first run; they
take turns, as `_contenders.py` says. Spans and metrics are on; what is exported is dropped. The
figures are microseconds of CPU of the calling thread, medians over the rounds; what one adds is
the difference to the bare client's turns of the same round, a moment before or after: what a busy
neighbour takes away, of caches above all, it takes from all of a round. Where things lie in a
process's memory makes it some microseconds faster or slower, for good: so each contender has
several, and its figure is their mean. The last lines are the ratio of what we add to what the
best of the others adds. ``by hand`` is no contender: it makes the same span, with the same
attributes, and the same points with what OpenTelemetry offers to programs, and nothing else.

Importing and instrumenting is the CPU of a fresh process beyond what OpenTelemetry's API and SDK
take, the least of several.

    python benchmarks/compare_openai.py [ROUNDS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from _contenders import ROOT, Worker, environment, take_turns

WORKER = Path(__file__).with_name("_openai_worker.py")
STARTER = Path(__file__).with_name("_openai_start.py")
OPENAI = "openai == 3.54.0"
SDK = "opentelemetry-sdk >= 1.45.2, < 2"
OURS = [
    f"-e{ROOT / path}"
    for path in ("src/llamatelemetry", "src/llamatelemetry_instrumentation_openai")
]
CONTENDERS = {
    "bare": [OPENAI],
    "llamatelemetry": [OPENAI, SDK, *OURS],
    "by hand": [OPENAI, SDK],
    "official": [OPENAI, SDK, "opentelemetry-instrumentation-genai-openai == 1.3b0"],
    "openinference": [OPENAI, SDK, "openinference-instrumentation-openai == 0.1.66"],
}
OTHERS = ("official", "openinference")
# What a worker is asked for: a piece of work, and how often. What is done for some dozens of
# calls at a time is done in each turn.
WORK = {"call": "call 32", "chunk": "chunk 1"}
STARTS = 7
PROCESSES = 3


def added(workers: list[Worker], bare: list[float], work: str) -> float:
    """The median difference to the bare client, over the rounds; the mean of a contender's processes."""
    return statistics.mean(
        statistics.median(
            with_it - without for with_it, without in zip(worker.figures[work], bare, strict=True)
        )
        for worker in workers
    )


def by_round(workers: list[Worker], work: str) -> list[float]:
    """What a piece of work took in each round, the mean of a contender's processes."""
    return [
        statistics.mean(took)
        for took in zip(*(worker.figures[work] for worker in workers), strict=True)
    ]


def start(name: str, python: Path) -> tuple[float, bool]:
    """The milliseconds that importing and instrumenting takes, and whether it imports openai."""
    # Compiled, as an installed package is.
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    answers = [
        subprocess.run(
            [python, STARTER, name], env=clean, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        for _ in range(STARTS)
    ]
    return min(float(took) for took, _ in answers), answers[0][1] == "True"


def main() -> int:
    """Run the rounds and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    pythons = {name: environment(name, needs) for name, needs in CONTENDERS.items()}
    workers = {
        name: [Worker(python, WORKER, name) for _ in range(PROCESSES)]
        for name, python in pythons.items()
    }
    everyone = [worker for of_one in workers.values() for worker in of_one]
    take_turns(everyone, WORK, rounds=rounds, warm_up=3)
    bare = {work: by_round(workers["bare"], work) for work in WORK}
    call, chunk = (statistics.median(bare[work]) for work in WORK)
    print(f"bare: {call:.0f} us a call, {chunk:.1f} us a chunk\n")
    print(f"{'adds':<16}{'call, us':>10}{'chunk, us':>11}{'start, ms':>11}  imports openai")
    adds = {
        name: {work: added(of_one, bare[work], work) for work in WORK}
        for name, of_one in workers.items()
        if name != "bare"
    }
    for name, by_work in adds.items():
        row = f"{name:<16}{by_work['call']:>10.0f}{by_work['chunk']:>11.1f}"
        if name != "by hand":
            took, imports_openai = start(name, pythons[name])
            row += f"{took:>11.0f}  {'yes' if imports_openai else 'no'}"
        print(row)
    for work in WORK:
        best = min(adds[name][work] for name in OTHERS)
        print(f"ours over the best other, per {work}: {adds['llamatelemetry'][work] / best:.2f}")
    for worker in everyone:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
