"""CPU time that each instrumentation of the openai client adds to a call and to a streamed chunk.

Each contender runs in its own environment under build/bench, which the first run creates. All
contenders take short turns in every round (`_contenders.py`). Spans and metrics are on, and
exports are dropped. The results are microseconds of CPU of the calling thread, medians over the
rounds. The added time is the difference to the bare client in the same round, because other load
on the machine slows all turns of a round alike. The memory layout makes each process a few
microseconds faster or slower, so each contender has several processes, and its result is their
mean. The last lines are the ratios to the best other instrumentation. `by hand` is not an
instrumentation: it creates the same span, attributes and measurements with OpenTelemetry alone.

The start is the CPU time of a fresh process for importing and instrumenting, without that of
OpenTelemetry's API and SDK. It is the minimum of several processes.

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
# The command to a worker: a kind of work, and how often.
WORK = {"call": "call 32", "chunk": "chunk 1"}
STARTS = 7
PROCESSES = 3


def added(workers: list[Worker], bare: list[float], work: str) -> float:
    """Return the median added time over the rounds, as the mean of a contender's processes."""
    return statistics.mean(
        statistics.median(
            with_it - without for with_it, without in zip(worker.figures[work], bare, strict=True)
        )
        for worker in workers
    )


def by_round(workers: list[Worker], work: str) -> list[float]:
    """Return the time of each round, as the mean of a contender's processes."""
    return [
        statistics.mean(took)
        for took in zip(*(worker.figures[work] for worker in workers), strict=True)
    ]


def start(name: str, python: Path) -> tuple[float, bool]:
    """Return the start in milliseconds, and whether it imports openai."""
    # Installed packages have compiled files, so allow them here too.
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
        print(f"llamatelemetry / best other, per {work}: {adds['llamatelemetry'][work] / best:.2f}")
    for worker in everyone:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
