"""Gate of a CI job: fail if a server is slower than its baseline, or misses its latency limits.

It runs `llamatelemetry bench` with the options that it does not know itself. The exit status is 1 if
the server is slower in TTFT, TPOT or E2E, fails more often, or answers too few requests within the
limits; 2 for invalid options. benchmark.yml is a GitHub workflow that starts both servers.

    pip install 'llamatelemetry[bench]'
    python examples/benchmark_ci/gate.py --slo ttft=2s,tpot=200ms --attainment 0.95 \
        --url http://127.0.0.1:8080 --against http://127.0.0.1:8081 --profile quick
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from llamatelemetry.bench import BenchmarkResults


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the gate, and those of `llamatelemetry bench`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description="Benchmark gate of a CI job")
    parser.add_argument("--slo", required=True, help="latency limits, such as ttft=2s,tpot=200ms")
    parser.add_argument(
        "--attainment", type=float, default=0.95, help="required share, from 0 to 1"
    )
    parser.add_argument("--results", type=Path, default=Path("benchmark.json"))
    return parser.parse_known_args()


def missed_slo(results: BenchmarkResults, attainment: float) -> str | None:
    """Return why the limits are missed, or `None`. Failed requests miss them, too."""
    share = results.totals.goodput
    if share is None:
        return "no request was measured"
    if share.value < attainment:
        return f"only {share.value:.1%} of the requests met the SLO, {attainment:.1%} must"
    return None


def main() -> int:
    """Run the benchmark and return the exit status of the job."""
    options, rest = arguments()
    page = options.results.with_suffix(".md")
    command = [sys.executable, "-m", "llamatelemetry", "bench", *rest, "--slo", options.slo]
    files = ["--output", str(options.results), "--output", str(page)]
    status = subprocess.run([*command, *files], check=False).returncode
    if status == 2 or not options.results.exists():
        return status or 1
    missed = missed_slo(BenchmarkResults.load(options.results), options.attainment)
    verdict = missed or ("slower than the baseline" if status else "passed")
    print(f"\nGate: {verdict}")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(f"## Benchmark: {verdict}\n\n{page.read_text(encoding='utf-8')}\n")
    return 1 if missed else status


if __name__ == "__main__":
    sys.exit(main())
