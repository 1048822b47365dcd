"""CPU time of starting a program, without instrumentation, with OpenTelemetry's distro, and with ours.

Each contender has its own environment under build/bench, which the first run creates from
constraints.txt. All start the same empty program in turn, in changing order, and no exporter is on.
The results are the user and system CPU time of whole processes in milliseconds: medians over the
rounds, and the median of the ratios within each round.

    python benchmarks/start_up.py [ROUNDS]
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

from _contenders import ROOT, environment

LOCKED = ["-c", str(ROOT / "constraints.txt")]
# Editable, so that the environment has the present code.
SOURCES = [f"-e{path}" for path in (ROOT, *sorted((ROOT / "src").glob("llamatelemetry*")))]
CONTENDERS = {
    "bare": ["pip"],
    "distro": [*LOCKED, "opentelemetry-distro", "opentelemetry-exporter-otlp"],
    "llamatelemetry": [*LOCKED, *SOURCES],
}
NO_EXPORTERS = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}


def start(name: str, python: Path) -> float:
    """Start the empty program once and return the CPU time of its process in milliseconds."""
    command = [str(python), "-c", "pass"]
    if name != "bare":
        command.insert(0, str(python.with_name("opentelemetry-instrument")))
    # Installed packages have compiled files, so allow them here too.
    variables = {
        key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"
    }
    process = subprocess.Popen(command, env=variables | NO_EXPORTERS)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name} ended with status {process.returncode}")
    return (used.ru_utime + used.ru_stime) * 1000


def main() -> int:
    """Run the rounds and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    pythons = {name: environment(f"start {name}", needs) for name, needs in CONTENDERS.items()}
    took: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for round_ in range(rounds + 1):
        for name in random.sample(list(CONTENDERS), len(CONTENDERS)):
            ms = start(name, pythons[name])
            if round_:  # The first round fills the cache of files.
                took[name].append(ms)
    for name, times in took.items():
        print(f"{name:<16}{statistics.median(times):>7.0f} ms")
    ratios = [
        ours / distro for ours, distro in zip(took["llamatelemetry"], took["distro"], strict=True)
    ]
    print(f"llamatelemetry / distro: {statistics.median(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
