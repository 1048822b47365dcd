"""CPU time that each instrumentation of the openai client adds, for calls, chunks and options.

Each contender runs in its own environment under build/bench, which the first run creates. All
contenders take short turns in every round (`_contenders.py`). Spans and metrics are on, and
exports are dropped. The results are microseconds of CPU of the calling thread, medians over the
rounds. The added time is the difference to the bare client in the same round, because other load
on the machine slows all turns of a round alike. The memory layout makes each process a few
microseconds faster or slower, so each contender has several processes, and its result is their
mean. The last column is the ratio to the best other instrumentation. `by hand` is not an
instrumentation: it creates the same span, attributes and measurements with OpenTelemetry alone.

The rows of llama.cpp and vLLM are responses with the engine's timings. llamatelemetry also records
phase spans and server metrics of them, the others record what they record of any response. With
content, each contender captures it in its own way; OpenInference does so in every row. Redaction
and tail sampling exist only in llamatelemetry. The row of redaction includes capturing the content,
that of tail sampling includes buffering and dropping each trace.

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
from typing import NamedTuple

from _contenders import ROOT, Worker, environment, take_different_turns

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
OURS_ONLY = ("llamatelemetry",)


class Row(NamedTuple):
    """A kind of work under some options.

    Attributes:
        command: Command to the workers: the kind of work, and how often.
        variables: Environment variables of the workers, which select the options.
        processor: Span processor of llamatelemetry that the workers add.
        contenders: Contenders that have this work or these options.
    """

    command: str
    variables: dict[str, str] = {}  # noqa: RUF012 - not changed
    processor: tuple[str, ...] = ()
    contenders: tuple[str, ...] = (*OURS_ONLY, *OTHERS)


CONTENT = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"}
ROWS = {
    "plain call": Row("call 32", contenders=(*OURS_ONLY, "by hand", *OTHERS)),
    "streamed chunk": Row("chunk 1"),
    "llama.cpp response": Row("llama.cpp 32"),
    "vLLM response": Row("vllm 32"),
    "unsampled call": Row("call 32", {"OTEL_TRACES_SAMPLER": "always_off"}),
    "call, SDK disabled": Row("call 32", {"OTEL_SDK_DISABLED": "true"}),
    "call, content": Row("call 32", CONTENT),
    "call, redaction": Row("call 32", CONTENT, ("redaction",), OURS_ONLY),
    "call, tail sampling": Row("call 32", {}, ("tail sampling",), OURS_ONLY),
}
BARE = Row("call 32")  # No option concerns the bare client.
STARTS = 7
PROCESSES = 3


def added(workers: list[Worker], bare: list[float], row: str) -> float:
    """Return the median added time over the rounds, as the mean of a contender's processes."""
    return statistics.mean(
        statistics.median(
            with_it - without for with_it, without in zip(worker.figures[row], bare, strict=True)
        )
        for worker in workers
    )


def by_round(workers: list[Worker], row: str) -> list[float]:
    """Return the time of each round, as the mean of a contender's processes."""
    return [
        statistics.mean(took)
        for took in zip(*(worker.figures[row] for worker in workers), strict=True)
    ]


class Processes:
    """The running workers. Rows with the same options share the processes of a contender."""

    def __init__(self) -> None:
        self.pythons = {name: environment(name, needs) for name, needs in CONTENDERS.items()}
        self._workers: dict[tuple[object, ...], list[Worker]] = {}

    def of(self, name: str, row: Row) -> list[Worker]:
        """Return the workers of a contender for a row. Starts them if they do not run."""
        key = (name, *row.processor, *row.variables.items())
        if key not in self._workers:
            self._workers[key] = [
                Worker(self.pythons[name], WORKER, name, *row.processor, variables=row.variables)
                for _ in range(PROCESSES)
            ]
        return self._workers[key]

    def close(self) -> None:
        """End them all."""
        for workers in self._workers.values():
            for worker in workers:
                worker.close()


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


def print_rows(processes: Processes) -> None:
    """Print the time of the bare client and what each contender adds to it, for each row."""
    names = [name for name in CONTENDERS if name != "bare"]
    print(f"{'adds, us':<22}{'bare takes':>15}" + "".join(f"{name:>15}" for name in names))
    for title, row in ROWS.items():
        bare = by_round(processes.of("bare", BARE), title)
        adds = {name: added(processes.of(name, row), bare, title) for name in row.contenders}
        cells = [f"{adds[name]:.1f}" if name in adds else "" for name in names]
        others = [adds[name] for name in OTHERS if name in adds]
        if others:
            cells.append(f"{adds['llamatelemetry'] / min(others):.2f}")
        line = "".join(f"{cell:>15}" for cell in cells)
        print(f"{title:<22}{statistics.median(bare):>15.1f}{line}")


def main() -> int:
    """Run the rounds and print the tables."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    processes = Processes()
    turns = {
        title: (
            row.command,
            [
                *processes.of("bare", BARE),
                *(worker for name in row.contenders for worker in processes.of(name, row)),
            ],
        )
        for title, row in ROWS.items()
    }
    take_different_turns(turns, rounds, warm_up=3)
    print_rows(processes)
    processes.close()
    for name in ("llamatelemetry", *OTHERS):
        took_ms, imports_openai = start(name, processes.pythons[name])
        print(f"start of {name}: {took_ms:.0f} ms", "with openai" if imports_openai else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
