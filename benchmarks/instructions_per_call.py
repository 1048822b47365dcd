"""Instructions that each instrumentation of the openai client adds to a call, in all threads.

The figures of `compare_openai.py` are times of the calling thread. Here everything counts that a
call causes in the process: garbage collection, and the recording and export of metrics and spans in
other threads, or at the end of the process. Each contender of `compare_openai.py` runs twice, with
different numbers of calls, so that imports and the start cancel out. valgrind must be installed.

    python benchmarks/instructions_per_call.py [CALLS]

callgrind runs one thread at a time, and a thread that waits for the interpreter lock counts too. So
work in other threads counts for more than it takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from _contenders import environment
from compare_openai import CONTENDERS, OTHERS, WORKER

COLLECTED = re.compile(r"Collected : (\d+)")


def instructions(python: Path, name: str, calls: int) -> int:
    """Return the instructions of a process that makes some calls."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", python, WORKER, name],
        env={**os.environ, "PYTHONHASHSEED": "0", "OTEL_BSP_SCHEDULE_DELAY": "3600000"},
        input=f"call {calls}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return int(COLLECTED.findall(done.stderr)[0])


def main() -> int:
    """Count, and print the table."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    per_call = {}
    for name, requirements in CONTENDERS.items():
        python = environment(name, requirements)
        few, many = (instructions(python, name, calls * factor) for factor in (1, 2))
        per_call[name] = (many - few) / calls
    bare = per_call.pop("bare")
    print(f"a call of the bare client: {bare:,.0f} instructions")
    for name, count in per_call.items():
        print(f"{name} adds {count - bare:,.0f}")
    best = min(per_call[name] for name in OTHERS) - bare
    print(f"llamatelemetry / best other: {(per_call['llamatelemetry'] - bare) / best:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
