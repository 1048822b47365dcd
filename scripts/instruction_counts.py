"""Compare the instructions of a call, a streamed chunk and a start with the recorded ones.

    scripts/instruction_counts.py             compare; exits with 1 if one is clearly higher
    scripts/instruction_counts.py --update    record the present ones

Unlike times, instruction counts do not depend on the load of the machine. They do depend on the
CPU, the Python build and the versions of libraries. Each result is therefore the number that
llamatelemetry adds, divided by that of a reference which is counted in the same run. The record
has one entry for each version of Python.

| name | counted | reference |
|---|---|---|
| `call` | a chat completion over a mock transport | the same with the bare client |
| `chunk` | a chunk of a stream | the same with the bare client |
| `start` | an empty program under `opentelemetry-instrument` | the same with OpenTelemetry's distro |

valgrind counts them. Without it or its headers, without a C compiler, with a Python that valgrind
cannot run, or without a record for this version of Python, nothing is compared, and the exit status
is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from opentelemetry.instrumentation import auto_instrumentation

ROOT: Final = Path(__file__).parents[1]
RECORD: Final = Path(__file__).with_name("instruction_counts.json")
PROGRAM: Final = Path(__file__).with_name("_counted_program.py")
VERSION: Final = "{}.{}".format(*sys.version_info)
COMPILER: Final = os.environ.get("CC", "cc")
CALLS, CHUNKS = 10, 200
TOLERANCE: Final = 0.1
"""Relative increase that is a regression. Repeated runs differ by less than 0.03."""

_LIBRARY: Final = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char *name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""
_VALGRIND: Final = ("valgrind", "--tool=callgrind")
_DUMP: Final = re.compile(r"Trigger: Client Request: (.+)\n(?:.*\n)*?(?:summary|totals): (\d+)")
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
# Without the instrumentors of other packages, which the environment of the tests has.
_STARTS: Final = {
    "distro": {
        "OTEL_PYTHON_DISTRO": "distro",
        "OTEL_PYTHON_CONFIGURATOR": "configurator",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
    },
    "llamatelemetry": {
        "OTEL_PYTHON_DISTRO": "llamatelemetry",
        "OTEL_PYTHON_CONFIGURATOR": "llamatelemetry",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(
            each.name
            for each in entry_points(group="opentelemetry_instrumentor")
            if not each.name.startswith("llamatelemetry_")
        ),
    },
}


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a counted process, without options of the caller."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # Compiled files must exist, as those of an installed package do.
        if not name.startswith(("OTEL_", "LLAMATELEMETRY_", "PYTHON"))
    }
    exporters = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    # The export thread of a batch would run at any moment.
    return {
        **kept,
        **exporters,
        "PYTHONHASHSEED": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        **more,
    }


def why_not() -> str | None:
    """Return why instructions cannot be counted here; `None` if they can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    try:
        check = [COMPILER, "-fsyntax-only", "-x", "c", "-"]
        subprocess.run(check, input=_LIBRARY, text=True, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "there is no C compiler, or valgrind's headers are missing"
    # An old valgrind does not know all instructions of a new CPU.
    runs = ["valgrind", "--tool=none", "--quiet", sys.executable, "-c", "pass"]
    if subprocess.run(runs, capture_output=True, check=False).returncode:
        return "valgrind cannot run this Python"
    return None


def run(command: list[str], variables: Mapping[str, str]) -> str:
    """Run a process and return its output.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def count_calls(folder: Path) -> dict[str, int]:
    """Return the instructions of each work of `_counted_program.py`."""
    source, library = folder / "count.c", folder / "count.so"
    source.write_text(_LIBRARY)
    run([COMPILER, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], os.environ)
    output = folder / "calls"
    run(
        [
            *_VALGRIND,
            "--instr-atstart=no",
            f"--callgrind-out-file={output}",
            *(sys.executable, str(PROGRAM), str(library), str(CALLS), str(CHUNKS)),
        ],
        environment(PYTHONPATH=str(ROOT / "benchmarks")),
    )
    dumps = (_DUMP.search(each.read_text()) for each in folder.glob("calls.*"))
    return {dump[1]: int(dump[2]) for dump in dumps if dump}


def count_start(folder: Path, name: str) -> int:
    """Return the instructions of a start with one of the distros."""
    [folder_of_start] = auto_instrumentation.__path__
    variables = environment(PYTHONPATH=folder_of_start, **_STARTS[name])
    program = [sys.executable, "-c", "pass"]
    run(program, variables)  # compiles the modules
    counted = [*_VALGRIND, f"--callgrind-out-file={folder / name}", *program]
    return int(_COLLECTED.findall(run(counted, variables))[0])


def ratios() -> dict[str, float]:
    """Return what llamatelemetry adds, as a share of the reference, by name."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        calls = pool.submit(count_calls, folder)
        starts = {each: pool.submit(count_start, folder, each) for each in _STARTS}
        counts, started = calls.result(), {each: start.result() for each, start in starts.items()}
    streams = {
        kind: counts[f"{kind} stream"] - counts[f"{kind} short stream"]
        for kind in ("instrumented", "bare")
    }
    return {
        "call": counts["instrumented calls"] / counts["bare calls"] - 1,
        "chunk": streams["instrumented"] / streams["bare"] - 1,
        "start": started["llamatelemetry"] / started["distro"] - 1,
    }


def regressions(counted: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """Return a message for each ratio that is clearly higher than the recorded one."""
    return [
        f"{name}: {counted[name]:.4f}, recorded {before:.4f}"
        for name, before in recorded.items()
        if counted[name] > before * (1 + TOLERANCE)
    ]


def main() -> int:
    """Compare or update the record. Return the exit status."""
    parser = argparse.ArgumentParser(description="Compare instruction counts with recorded ones.")
    parser.add_argument("--update", action="store_true", help="Record the present ones")
    is_update = parser.parse_args().update
    reason = why_not()
    record: dict[str, Any] = json.loads(RECORD.read_text())
    if reason is None and VERSION not in record and not is_update:
        reason = f"there is no record for Python {VERSION}"
    if reason is not None:
        print(f"Skipped: {reason}.")
        return 0
    counted = ratios()
    print(*(f"{name} {ratio:.4f}" for name, ratio in counted.items()), sep=", ")
    if is_update:
        record[VERSION] = {name: round(ratio, 4) for name, ratio in counted.items()}
        RECORD.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
        return 0
    found = regressions(counted, record[VERSION])
    if found:
        print(
            f"More instructions than recorded in {RECORD.relative_to(ROOT)}:",
            *found,
            "If the change is worth it, run `scripts/instruction_counts.py --update`. Otherwise look "
            "at `benchmarks/call_path.py --verbose`, or at `python -X importtime` for a start.",
            sep="\n",
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
