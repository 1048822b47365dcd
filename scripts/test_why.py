#!/usr/bin/env python3
"""Blind test of `llamatelemetry why`: known faults in calls to a real llama.cpp server.

    scripts/test-why --seed 7               ten calls with each of 16 faults, half beside other traffic
    scripts/test-why --seed 7 --count 2     two of each
    scripts/test-why --only retry,cold      some faults
    scripts/test-why --read DIRECTORY       judge an earlier recording again

`why` reads only the recording. The truth is in a file of its own, joined by the id of the response.
The call before each fault is its control: the same conversation, one turn earlier, without a
fault. Exits with 1 if fewer than 95% of the top causes are right, if a second counter contradicts
an accusation, or if parts do not add up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llamatelemetry.local.recording import Recording, read_recorded
from llamatelemetry.local.why import WORK, CallExplanation, Part, explain
from llamatelemetry.local.why.verdict import causes_of

SCRIPTS = Path(__file__).parent
# Faults with the expected top cause, and the cause of a repeated prefill.
FAULTS = {
    "queue": ("queue", None),
    "time_stamp": ("prefill_again", "section_changed"),
    "tools_reordered": ("prefill_again", "tools_reordered"),
    "history_edited": ("prefill_again", "section_changed"),
    "evicted": ("prefill_again", "evicted"),
    "cache_off": ("prefill_again", "cache_not_used"),
    "cold": ("prefill_again", "first_call"),
    "others_prompt": ("others_prompts", None),
    "loop_blocked": ("client_late", None),
    "slow_reader": ("client_late", None),
    "network_delay": ("network_before", None),
    "network_stall": ("network_stream", None),
    "server_frozen": ("server_stopped", None),
    "retry": ("retry", None),
    "slow_lookup": ("connect", None),
    "cpu_hog": ("server_cpu_wait", None),
}
PAIRS = (
    ("retry", "cache_off"),
    ("network_delay", "time_stamp"),
    ("slow_lookup", "network_stall"),
    ("history_edited", "loop_blocked"),
)
TRAFFIC_CAUSES = {"queue", "queue_batch", "others_prompts", "batch", "normal", "unknown"}
PROCESS_ATTRIBUTES = ("cpu", "run_delay", "stopped")
HARMLESS = {"normal", "unknown"}
# Other programs must have used the core for at least this share of the wait for a CPU.
CONFIRMED_SHARE = 0.5


class Judged(NamedTuple):
    """A call with its truth, its control, and the explanations of both."""

    truth: dict[str, Any]
    found: CallExplanation
    control: CallExplanation

    @property
    def fault(self) -> str:
        """Name of the fault, or of both."""
        return "+".join(self.truth["faults"])

    @property
    def is_right(self) -> bool:
        """Whether the top cause is the injected one."""
        if self.truth["faults"] == ["none"]:
            return self.is_normal
        return self._is_injected(self.found.top_cause, self.found.causes)

    @property
    def is_right_beside_load(self) -> bool:
        """Whether the injected cause is the top one while the server had a CPU.

        Only for calls whose wait for a CPU the counters of the core confirm.
        """
        if self.is_right or self.truth["faults"] == ["none"]:
            return self.is_right
        causes = self.causes_beside_load
        known = [part for part in causes if part.name != "batch"]
        return bool(known) and self._is_injected(known[0].name, causes)

    @property
    def causes_beside_load(self) -> list[Part]:
        """Causes without the wait for a CPU, if the counters confirm that wait."""
        wait = sum(part.ms for part in self.found.parts if part.name == "server_cpu_wait")
        if self.truth["others_cpu_ms"] < CONFIRMED_SHARE * wait:
            return list(self.found.causes)
        parts = [part for part in self.found.parts if part.name != "server_cpu_wait"]
        return causes_of(parts, self.found.duration_ms - wait)

    def _is_injected(self, top: str, causes: Sequence[Part]) -> bool:
        expected, cause = FAULTS[self.truth["faults"][0]]
        first = next((part for part in causes if part.name == top), None)
        if first is None:
            return False
        if expected == "queue" and first.name == "queue_batch":
            return True
        return first.name == expected and (cause is None or first.cause == cause)

    @property
    def is_named(self) -> bool:
        """Whether the injected fault is among the causes."""
        name = self.truth["faults"][0]
        return name != "none" and FAULTS[name][0] in {part.name for part in self.causes_beside_load}

    @property
    def is_normal(self) -> bool:
        """Whether the call was found as normal as it was."""
        allowed = TRAFFIC_CAUSES if self.truth["traffic"] else HARMLESS
        return self.found.top_cause in allowed or is_confirmed(self.found, self.truth)

    @property
    def accuses(self) -> bool:
        """Whether the call has a wrong cause, and not just none."""
        if self.truth["faults"] == ["none"]:
            return not self.is_normal
        allowed = TRAFFIC_CAUSES if self.truth["traffic"] else HARMLESS
        is_accusation = not self.is_right and self.found.top_cause not in allowed
        return is_accusation and not is_confirmed(self.found, self.truth)


def is_confirmed(found: CallExplanation, truth: dict[str, Any]) -> bool:
    """Return whether a second counter confirms the top cause.

    The kernel's counters of the core confirm a wait of the server for a CPU, and the blocked event
    loop confirms a late client, whose time is that of the socket. Other traffic on two slots does
    evict prompts, and the server has counted the tokens that were still in its cache.
    """
    if found.top_cause == "prefill_again":
        return bool(truth["traffic"]) and found.causes[0].cause == "evicted"
    if found.top_cause == "client_late":
        return "the event loop was blocked" in found.causes[0].evidence
    if found.top_cause != "server_cpu_wait":
        return False
    return truth["others_cpu_ms"] >= CONFIRMED_SHARE * found.causes[0].ms


def main() -> int:
    """Record, judge and print. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10, help="calls with each fault")
    parser.add_argument("--only", help="names of faults, separated by commas")
    parser.add_argument("--pairs", type=int, default=2, help="calls with each pair of faults")
    parser.add_argument("--keep", type=Path, help="directory for the recording")
    parser.add_argument("--read", type=Path, help="directory of an earlier recording")
    options = parser.parse_args()
    folder = options.read or options.keep or Path(tempfile.mkdtemp(prefix="test-why-"))
    if options.read is None:
        folder.mkdir(parents=True, exist_ok=True)
        names = options.only.split(",") if options.only else [*FAULTS, "none"]
        plan = [([name], bool(number % 2)) for name in names for number in range(options.count)]
        if not options.only:
            plan += [(list(pair), False) for pair in PAIRS for _ in range(options.pairs)]
        record(folder, options.seed, plan)
    recording = read_recorded(folder / "run.db")
    truths = [json.loads(line) for line in (folder / "truth.jsonl").open(encoding="utf-8")]
    print(f"Recording: {folder}, seed {options.seed}, {len(truths)} episodes\n")
    is_good = report("All data", recording, truths)
    report("Without the server process", without_process(recording), truths)
    return 0 if is_good else 1


def record(folder: Path, seed: int, plan: list[Any]) -> None:
    """Run the program with its faults under `llamatelemetry run`."""
    core = max(os.sched_getaffinity(0))
    database, truth = folder / "run.db", folder / "truth.jsonl"
    with server(core) as (pid, port):
        program = [
            *(sys.executable, str(SCRIPTS / "_why_program.py"), f"http://127.0.0.1:{port}/v1"),
            *(str(pid), str(core), str(seed), json.dumps(plan), str(truth)),
        ]
        command = [sys.executable, "-m", "llamatelemetry.cli", "run", "--no-report"]
        subprocess.run([*command, "--output", str(database), "--", *program], check=True)


@contextmanager
def server(core: int) -> Iterator[tuple[int, int]]:
    """Run the server with its proxy. Yield its process id and port."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "_why_server.py"), "--core", str(core)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OTEL_SDK_DISABLED": "true"},
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.strip():
            raise RuntimeError("the llama.cpp server did not start")
        yield process.pid, int(line)
    finally:
        process.kill()
        process.wait()


def without_process(recording: Recording) -> Recording:
    """Return the recording as if the server ran on another machine."""
    hidden = {f"llamatelemetry.server.{name}" for name in PROCESS_ATTRIBUTES}
    spans = [
        replace(
            span,
            attributes={key: v for key, v in span.attributes.items() if key not in hidden},
        )
        for span in recording.spans
    ]
    return replace(recording, spans=spans)


def report(title: str, recording: Recording, truths: list[dict[str, Any]]) -> bool:
    """Print how the explanation compares with the truth. Return whether it is good enough."""
    explanation = explain(recording)
    ids = {span.span_id: span.attributes.get("gen_ai.response.id") for span in recording.spans}
    by_id = {ids[call.span_id]: call for call in explanation.calls}
    judged = [
        Judged(truth, by_id[truth["id"]], by_id[truth["control"]["id"]])
        for truth in truths
        if truth["id"] in by_id and truth["control"]["id"] in by_id
    ]
    print(f"## {title}\n{len(judged)} of {len(truths)} episodes are in the recording")
    for rates in explanation.servers:
        print(f"rates: {rates.to_dict()}")
    single = [each for each in judged if len(each.truth["faults"]) == 1]
    faulty = [each for each in single if each.fault != "none"]
    print_faults(single)
    controls = [
        Judged({**each.truth["control"], "faults": ["none"], "traffic": each.truth["traffic"]},
               each.control, each.control)
        for each in judged
    ]  # fmt: skip
    accused = [each for each in [*single, *controls] if each.accuses]
    print(f"wrong accusations: {len(accused)} of {len(single) + len(controls)} calls")
    for each in accused:
        print(f"  {each.fault}: {each.found.span_id[:6]} {each.found.sentence}")
    print_pairs([each for each in judged if len(each.truth["faults"]) == 2])
    print_accuracy(faulty)
    right = sum(each.is_right for each in faulty)
    beside = sum(each.is_right_beside_load for each in faulty)
    sums = max(
        (abs(sum(part.ms for part in call.parts) - call.duration_ms) for call in explanation.calls),
        default=0.0,
    )
    print(
        f"right: {right} of {len(faulty)}, {beside} without confirmed waits for a CPU; "
        f"parts add up within {sums:.1e} ms\n"
    )
    return beside >= 0.95 * len(faulty) and not accused and sums <= 0.01


def print_faults(judged: list[Judged]) -> None:
    """Print one row per fault."""
    print(
        f"{'fault':18}{'right':>8}{'beside load':>13}{'named':>8}{'normal':>8}{'unknown':>9}  others"
    )
    for fault in sorted({each.fault for each in judged}):
        group = [each for each in judged if each.fault == fault]
        wrong = [each.found for each in group if not each.is_right]
        counts = (
            sum(each.is_right_beside_load for each in group),
            sum(each.is_named for each in group),
            sum(call.top_cause == "normal" for call in wrong),
            sum(call.top_cause == "unknown" for call in wrong),
        )
        others = [
            f"{call.top_cause} ({call.span_id[:6]})"
            for call in wrong
            if call.top_cause not in HARMLESS
        ]
        print(
            f"{fault:18}{len(group) - len(wrong):4} /{len(group):2}"
            "{:13}{:8}{:8}{:9}".format(*counts),
            "",
            ", ".join(others),
        )


def print_pairs(judged: list[Judged]) -> None:
    """Print whether both faults of a call were named, and in the order of milliseconds."""
    both = 0
    for each in judged:
        expected = {FAULTS[name][0] for name in each.truth["faults"]}
        named = {part.name for part in each.causes_beside_load}
        both += expected <= named
        if not expected <= named:
            print(f"  {each.fault}: named {', '.join(sorted(named)) or 'nothing'}")
    print(f"two faults at once: both named in {both} of {len(judged)}")


def print_accuracy(faulty: list[Judged]) -> None:
    """Print the unexplained share, and the attributed against the real loss of pairs."""
    shares = sorted(each.found.unexplained_ms / each.found.duration_ms for each in faulty)
    if len(shares) > 1:
        print(
            f"unexplained share of faulty calls: p50 {quantile(shares, 0.5):.3f} "
            f"p90 {quantile(shares, 0.9):.3f} p95 {quantile(shares, 0.95):.3f} max {shares[-1]:.3f}"
        )
    pairs = [
        (
            each.found.duration_ms - each.control.duration_ms,
            attributed(each.found) - attributed(each.control),
        )
        for each in faulty
        if not each.truth["traffic"]
    ]
    if pairs:
        errors = sorted(abs(real - told) for real, told in pairs)
        print(
            f"{len(pairs)} pairs without traffic: median real loss "
            f"{statistics.median(real for real, _ in pairs):.0f} ms, error of the attributed loss "
            f"p50 {quantile(errors, 0.5):.0f} ms p90 {quantile(errors, 0.9):.0f} ms"
        )


def attributed(call: CallExplanation) -> float:
    """Return the milliseconds that are attributed to anything but the work itself."""
    return sum(part.ms for part in call.parts if part.name not in WORK)


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    sys.exit(main())
