"""What each instrumentation of the openai client adds to a call and to a streamed chunk.

Each contender runs in an environment of its own under build/bench, made on the first run; they
take turns, as `_contenders.py` says. Spans and metrics are on; what is exported is dropped. The
figures are microseconds of CPU of the calling thread, in the quickest tenth of the turns: what a
busy neighbour takes away, of caches above all, it takes from the others. The last lines are the
ratio of what we add to what the best of the others adds.

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
    "official": [OPENAI, SDK, "opentelemetry-instrumentation-genai-openai == 1.3b0"],
    "openinference": [OPENAI, SDK, "openinference-instrumentation-openai == 0.1.66"],
}
# What a worker is asked for: a piece of work, and how often.
WORK = {"call": "call 10", "chunk": "chunk 1"}
STARTS = 7


def cost(worker: Worker, work: str) -> float:
    """The mean of the quickest tenth of a contender's turns."""
    turns = sorted(worker.figures[work])
    return statistics.mean(turns[: max(1, len(turns) // 10)])


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
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    pythons = {name: environment(name, needs) for name, needs in CONTENDERS.items()}
    workers = {name: Worker(python, WORKER, name) for name, python in pythons.items()}
    take_turns(workers.values(), WORK, rounds=rounds, warm_up=3)
    bare = {work: cost(workers["bare"], work) for work in WORK}
    added = {
        name: {work: cost(worker, work) - bare[work] for work in WORK}
        for name, worker in workers.items()
    }
    print(f"bare: {bare['call']:.0f} us a call, {bare['chunk']:.1f} us a chunk\n")
    print(f"{'adds':<16}{'call, us':>10}{'chunk, us':>11}{'start, ms':>11}  imports openai")
    for name in CONTENDERS:
        if name != "bare":
            took, imports_openai = start(name, pythons[name])
            call, chunk = added[name]["call"], added[name]["chunk"]
            said = "yes" if imports_openai else "no"
            print(f"{name:<16}{call:>10.0f}{chunk:>11.1f}{took:>11.0f}  {said}")
    for work in WORK:
        best = min(added[name][work] for name in ("official", "openinference"))
        print(f"ours over the best other, per {work}: {added['llamatelemetry'][work] / best:.2f}")
    for worker in workers.values():
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
