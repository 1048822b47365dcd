"""Where a benchmark runs: the conditions that must match, and what may have disturbed it."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry import __version__

if TYPE_CHECKING:
    from llamatelemetry.bench._targets import ServerFacts
    from llamatelemetry.bench.load import Load
    from llamatelemetry.bench.prompts import Conversation

_BUSY_SHARE: Final = 0.5
_CLOCK_STEP_S: Final = 0.05
_SATURATED: Final = 0.8


def machine() -> dict[str, Any]:
    """Say what this machine is."""
    return {
        "llamatelemetry": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def fingerprint(
    facts: ServerFacts,
    conversations: Sequence[Conversation],
    load: Load,
    gpus: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Put together what two benchmarks must share to be compared.

    Of the prompts only their number and lengths go in: a digest of their words could be guessed.
    """
    processors = f"{_processor()} x {os.cpu_count()}"
    return {
        **facts.fingerprint,
        "machine": processors,
        **({"gpus": list(gpus)} if gpus else {}),
        "prompts": len(conversations),
        "prompt_lengths": _lengths_digest(conversations),
        **{f"load.{name}": value for name, value in load.describe().items()},
        **settings,
    }


def _lengths_digest(conversations: Sequence[Conversation]) -> str:
    lengths = [
        [len(str(message.get("content"))) for turn in each.turns for message in turn]
        for each in conversations
    ]
    return hashlib.sha256(repr(lengths).encode()).hexdigest()[:16]


class Clocks:
    """The clocks of a run: whether the wall clock was set, and how busy this process was."""

    def __init__(self) -> None:
        self.started_unix_s = time.time()
        self._started_s = time.perf_counter()
        self._cpu_s = time.process_time()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, by the clock that nobody sets."""
        return time.perf_counter() - self._started_s

    @property
    def jump_s(self) -> float:
        """How far the wall clock has moved against it."""
        return time.time() - self.started_unix_s - self.elapsed_s

    @property
    def cpu_share(self) -> float:
        """Processor time over time; 1 is a whole core."""
        elapsed_s = self.elapsed_s
        return (time.process_time() - self._cpu_s) / elapsed_s if elapsed_s else 0.0


def warnings_before(facts: ServerFacts, load: Load) -> list[str]:
    """Say what is wrong before anything is measured."""
    found: list[str] = []
    if facts.slots is not None and load.most_in_flight and load.most_in_flight > facts.slots:
        found.append(
            f"{load.most_in_flight} requests at a time, but the server has {facts.slots} slots: "
            "the others wait in its queue, and latencies show that wait"
        )
    if facts.busy:
        found.append(
            f"the server was working on {facts.busy} other requests when the benchmark began"
        )
    loaded = _machine_load()
    if loaded is not None and loaded > _BUSY_SHARE:
        found.append(
            f"the machine was loaded before the benchmark began ({loaded:.0%} of its processors)"
        )
    return found


def _machine_load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def warnings_of_clocks(clocks: Clocks, *, engine_is_here: bool) -> list[str]:
    """Say what the clocks of a run tell.

    Args:
        clocks: of the run.
        engine_is_here: whether the engine runs in this process, which it may well keep busy.
    """
    found: list[str] = []
    if abs(clocks.jump_s) > _CLOCK_STEP_S:
        found.append(
            f"the wall clock was set by {clocks.jump_s * 1000:+.0f} ms during the run; durations are "
            "measured on another clock and hold, the times of spans are off by that much"
        )
    if clocks.cpu_share > _SATURATED and not engine_is_here:
        found.append(
            f"this program used {clocks.cpu_share:.0%} of a core: it may be what limits the "
            "figures, rather than the server"
        )
    return found


def others_at_work(
    engine: Mapping[str, float], prompt_tokens: int | None, output_tokens: int | None
) -> str | None:
    """Say whether the engine's counters have counted more than this benchmark asked for."""
    counted_prompt = engine.get("prompt_tokens_total")
    counted_output = engine.get("tokens_predicted_total")
    if None in (counted_prompt, counted_output, prompt_tokens, output_tokens):
        return None
    excess = (
        (counted_prompt or 0) - (prompt_tokens or 0),
        (counted_output or 0) - (output_tokens or 0),
    )
    if max(excess) <= 0:
        return None
    return (
        f"others used the server during the run: it counted {excess[0]:.0f} prompt tokens and "
        f"{excess[1]:.0f} output tokens more than were asked for here"
    )
