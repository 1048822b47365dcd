"""Mutation testing: change the code in small ways and count the changes that the tests notice.

    .venv/bin/python scripts/mutation.py statistics            all mutants of a target
    .venv/bin/python scripts/mutation.py genai --sample 200    a random sample of them
    .venv/bin/python scripts/mutation.py genai --survivors     those that survived the last time
    .venv/bin/python scripts/mutation.py genai --show          their changes; runs nothing

mutmut works on a copy of the checkout in build/mutation/TARGET. It mutates the bodies of functions
without decorators, so constants, properties and defaults of dataclasses are not part of the score.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

from llamatelemetry.bench.analysis.statistics import proportion

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "mutation"


def _under(folder: str, *names: str) -> list[str]:
    return [f"{folder}/{name}" for name in names]


# The code of each target, and the tests that concern it and take seconds.
TARGETS = {
    "statistics": (
        _under("src/llamatelemetry/bench/analysis", "*"),
        _under(
            "tests/bench",
            *("analysis", "targets/test_engines.py", "load/test_schedule.py"),
            *("load/test_driver.py", "test_results.py", "test_runner.py"),
        ),
    ),
    # Without the thread that reads the GPUs: its tests wait, and if it is broken each of them waits
    # until its time limit.
    "energy": (
        _under(
            "src/llamatelemetry/gpu",
            *("energy.py", "spans.py", "nvml/plausibility.py", "nvml/reader.py"),
            *("monitor/engines.py", "monitor/history.py", "monitor/host_call_counts.py"),
        ),
        ["tests/gpu", "--ignore=tests/gpu/test_wiring.py"],
    ),
    "redaction": (_under("src/llamatelemetry/otel/redaction", "*"), ["tests/otel/redaction"]),
    # Calls, tokens, phases, streams, formats of engines, and sections of prompts.
    "genai": (
        _under(
            "src/llamatelemetry/genai",
            *("call.py", "external_usage.py", "metrics.py", "phases.py", "spans.py"),
            *("engines/*", "wire/*", "streams/accumulators.py", "streams/chunk_intervals.py"),
            *("streams/event_accumulators.py", "streams/observers.py", "streams/steps.py"),
            *("diagnostics/references.py", "diagnostics/sections.py"),
        ),
        _under(
            "tests",
            *("genai/test_call.py", "genai/test_external_spans.py", "genai/test_metrics.py"),
            *("genai/test_nested_calls.py", "genai/test_phases.py", "genai/test_spans.py"),
            *("genai/test_usage.py", "genai/engines", "genai/wire"),
            *("genai/content/test_responses_accumulator.py", "genai/streams/test_accumulators.py"),
            *("genai/streams/test_chunk_intervals.py", "genai/streams/test_event_accumulators.py"),
            *("genai/streams/test_observers.py", "genai/streams/test_steps.py"),
            "genai/streams/test_wrappers.py",
            # One test, because another one of this file starts a real server.
            "cli/doctor/test_inference_server.py::test_vllm_is_recognized_and_its_flags_are_named",
            *("genai/diagnostics/test_prompt_sections.py", "server_metrics/test_exposition.py"),
        ),
    ),
}
# Tests with real servers, of seconds, or that compare clocks do not run for every mutant.
_SELECTION = ["-m", "not slow and not long and not clock and not needs"]
_SURVIVED = ("survived", "no tests")
_NEW = "not checked"
_SAMPLE = "sample.txt"

_CONFIGURATION = """
[tool.mutmut]
source_paths = ["src/"]
also_copy = ["scripts", "docs", "examples"] # imported or read by tests/support
only_mutate = {only_mutate}
do_not_mutate_patterns = ['log(ger)?\\.(debug|info|warning|error|exception)\\(', 'raise \\w+\\(']
pytest_add_cli_args = ["--no-cov", "-n", "0", "-p", "no:cacheprovider", "--hypothesis-seed=1"]
pytest_add_cli_args_test_selection = {selection}
# Some tests start threads, which a process forked from theirs would lack.
process_isolation = "forkserver"
timeout_multiplier = 5.0
use_git_change_detection = false
"""


def main() -> int:
    """Run the mutants of a target, then print its score and its survivors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--sample", type=int, help="number of mutants (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample")
    parser.add_argument("--survivors", action="store_true", help="run only the last survivors")
    parser.add_argument("--show", action="store_true", help="print the changes of the survivors")
    parser.add_argument("--processes", type=int, default=1, help="mutants at the same time")
    options = parser.parse_args()
    folder = FOLDER / options.target
    if not options.show:
        copy_checkout(folder)
        configure(folder, options.target)
        # mutmut has no command that only creates mutants. It does so before it looks for the name.
        _mutmut(folder, "run", "no such mutant", fails=True)
        if not options.survivors:
            _draw(folder, options.sample, options.seed)
        names = [
            name
            for name, result in _sample(folder).items()
            if result in (*_SURVIVED, _NEW) or not options.survivors
        ]
        _mutmut(folder, "run", "--max-children", str(options.processes), *names)
    sample = _sample(folder)
    for name, result in sample.items():
        if result in _SURVIVED:
            print(_mutmut(folder, "show", name) if options.show else name)
    print(summary(options.target, list(sample.values()), len(_results(folder))))
    return 0


def copy_checkout(folder: Path) -> None:
    """Copy the tracked and the new files of the checkout. Unchanged ones keep their results."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, folder / name
        if not source.is_file() or (copy.exists() and _version(copy) == _version(source)):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy)


def _version(file: Path) -> tuple[float, int]:
    return file.stat().st_mtime, file.stat().st_size


def configure(folder: Path, target: str) -> None:
    """Add the configuration of mutmut to the copy of pyproject.toml."""
    code, tests = TARGETS[target]
    text = _CONFIGURATION.format(
        only_mutate=json.dumps(code), selection=json.dumps([*tests, *_SELECTION])
    )
    original = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(original + text, encoding="utf-8")


def _draw(folder: Path, size: int | None, seed: int) -> None:
    """Write the names of a random sample of all mutants."""
    names = sorted(_results(folder))
    if not names:
        raise SystemExit(f"mutmut has created no mutants. Run `mutmut run` in {folder} to see why.")
    drawn = Random(seed).sample(names, min(size or len(names), len(names)))  # noqa: S311 - no secret
    (folder / _SAMPLE).write_text("\n".join(sorted(drawn)), encoding="utf-8")


def _sample(folder: Path) -> dict[str, str]:
    """Return the results of the last sample, without mutants of code that has since changed."""
    names = (folder / _SAMPLE).read_text(encoding="utf-8").split()
    results = _results(folder)
    return {name: results[name] for name in names if name in results}


def _results(folder: Path) -> dict[str, str]:
    """Return the result of each mutant by name, such as `killed` or `not checked`."""
    lines = _mutmut(folder, "results", "--all", "true").splitlines()
    return dict(line.strip().split(": ", 1) for line in lines if ": " in line)


def _mutmut(folder: Path, *arguments: str, fails: bool = False) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    # Without bytecode files each mutant compiles its test files again.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, cwd=folder, env=environment, check=False, text=True, capture_output=True
    )
    if done.returncode and not fails:
        raise SystemExit(f"mutmut has failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def summary(target: str, results: list[str], mutants: int) -> str:
    """Return the score: the share of killed mutants, with its 95% interval if it is a sample."""
    score = proportion(sum(result not in _SURVIVED for result in results), len(results))
    interval = "" if len(results) == mutants else f" ({score.low:.1%} to {score.high:.1%})"
    counts = ", ".join(f"{count} {result}" for result, count in Counter(results).most_common())
    return f"{target}: {len(results)} of {mutants} mutants, {score.value:.1%}{interval}: {counts}"


if __name__ == "__main__":
    sys.exit(main())
