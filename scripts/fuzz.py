"""Fuzz the functions that read data of others, with coverage guidance: `make fuzz`.

    .venv/bin/python scripts/fuzz.py                         every target, 100,000 cases each
    .venv/bin/python scripts/fuzz.py streams otlp --cases 1000000 --seed 7

Inputs that reach new code are kept in build/fuzz/corpus and are the start of the next run. An input
that fails is written to build/fuzz/failures, and belongs into tests/test_fuzz_targets.py.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "fuzz"
sys.path.insert(0, str(ROOT))

# Bounds of one case: seconds, and MiB of the process.
_TIMEOUT_S, _MEMORY_MIB = 20, 3000


def main() -> int:
    """Run the targets one after the other. Return 1 if one of them has failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="names of targets (default: all)")
    parser.add_argument("--cases", type=int, default=100_000, help="cases for each target")
    parser.add_argument("--seconds", type=int, default=0, help="time limit for each target")
    parser.add_argument("--seed", type=int, default=1, help="seed of the mutations")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.targets[0], options.cases, options.seconds, options.seed)
    from tests.support.fuzz_targets import TARGETS

    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    results = [_run(name, options) for name in options.targets or TARGETS]
    return int(not all(results))


def _run(name: str, options: argparse.Namespace) -> bool:
    """Run a target in a process of its own, because libFuzzer ends its process."""
    command = [sys.executable, __file__, name, "--inside", "--cases", str(options.cases)]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    log = FOLDER / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        code = subprocess.run(
            command, stdout=output, stderr=output, cwd=ROOT, check=False
        ).returncode
    text = log.read_text(encoding="utf-8", errors="replace")
    counts = re.findall(r"^#(\d+)\s", text, re.MULTILINE)
    covered = re.findall(r" cov: (\d+)", text)
    outcome = "no failure" if code == 0 else f"FAILED, see {log.relative_to(ROOT)}"
    print(
        f"{name:14} {counts[-1] if counts else 0:>9} cases  "
        f"{covered[-1] if covered else 0:>6} edges  {outcome}",
        flush=True,
    )
    return code == 0


def _fuzz(name: str, cases: int, seconds: int, seed: int) -> None:
    """Run the fuzzer on a target in this process, which it ends."""
    try:
        import atheris
    except ImportError:
        sys.exit("Fuzzing needs atheris: .venv/bin/python -m pip install --group fuzz")

    with atheris.instrument_imports(include=["llamatelemetry"]):
        from llamatelemetry.genai import internal_errors
        from tests.support.fuzz_targets import TARGETS
    from tests.support.mutations import field_names, mutated

    logging.disable()
    internal_errors.set_strict(True)
    target = TARGETS[name]
    inputs = target.inputs()
    names = field_names(inputs)
    corpus, failures = FOLDER / "corpus" / name, FOLDER / "failures"
    for folder in (corpus, failures):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs):
        (corpus / f"start-{number}").write_bytes(data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        changed = mutated(data, Random(seed), names, keep_types=target.keep_types)  # noqa: S311
        return changed[:max_size]

    arguments = [
        *(sys.argv[0], str(corpus), f"-runs={cases}", f"-seed={seed}", "-max_len=65536"),
        *(f"-max_total_time={seconds}", f"-timeout={_TIMEOUT_S}", f"-rss_limit_mb={_MEMORY_MIB}"),
        f"-artifact_prefix={failures / name}-",
    ]
    atheris.Setup(arguments, target.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
