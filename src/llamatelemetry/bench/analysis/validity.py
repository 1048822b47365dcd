"""Warnings about the validity of a benchmark: load, cache, clocks, drift, and other clients."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from llamatelemetry.bench.analysis.metrics import sum_if_known
from llamatelemetry.bench.analysis.statistics import intervals

if TYPE_CHECKING:
    from llamatelemetry.bench.load.schedule import Load
    from llamatelemetry.bench.machine import Clocks
    from llamatelemetry.bench.records import RequestRecord, RunRecord
    from llamatelemetry.bench.targets.target import ServerFacts

_MAX_LAG_S: Final = 0.01
_MAX_COLD_CACHED_SHARE: Final = 0.1
_MIN_WARM_CACHED_SHARE: Final = 0.5
_MAX_DRIFT: Final = 0.1
_MIN_REQUESTS_FOR_TRENDS: Final = 20
_MAX_MACHINE_LOAD: Final = 0.5
_MAX_CLOCK_STEP_S: Final = 0.05
_MAX_CPU_SHARE: Final = 0.8


def setup_warnings(facts: ServerFacts, load: Load) -> list[str]:
    """Return warnings about the server and the machine, from before the first request."""
    found: list[str] = []
    limit = load.max_in_flight
    if facts.slots is not None and limit and limit > facts.slots:
        found.append(
            f"Concurrency {limit} exceeds the {facts.slots} slots of the server: further requests "
            "wait in its queue, and latencies include that wait"
        )
    if facts.busy:
        found.append(
            f"The server was processing {facts.busy} other requests when the benchmark started"
        )
    machine_load = _machine_load()
    if machine_load is not None and machine_load > _MAX_MACHINE_LOAD:
        found.append(
            f"The machine was busy before the benchmark started (load {machine_load:.0%} of its "
            "processors)"
        )
    return found


def _machine_load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


def clock_warnings(clocks: Clocks, *, engine_in_process: bool) -> list[str]:
    """Return warnings about wall-clock steps and CPU saturation during a run.

    An engine in this process uses its CPU time, so saturation is then normal.
    """
    found: list[str] = []
    if abs(clocks.jump_s) > _MAX_CLOCK_STEP_S:
        found.append(
            f"The wall clock was adjusted by {clocks.jump_s * 1000:+.0f} ms during the run: "
            "durations are correct (monotonic clock), span timestamps are off by that much"
        )
    if clocks.cpu_share > _MAX_CPU_SHARE and not engine_in_process:
        found.append(
            f"The benchmark client used {clocks.cpu_share:.0%} of a CPU core: it may limit the "
            "results instead of the server"
        )
    return found


def shortfall_warnings(run: RunRecord, records: Sequence[RequestRecord]) -> list[str]:
    """Return warnings about requests that a run did not send, and about load from others."""
    if run.interrupted:
        return [f"Interrupted: {len(records)} of {run.planned} requests were measured"]
    found: list[str] = []
    if len(records) < run.planned:
        found.append(
            f"{run.planned - len(records)} turns were not sent, because an earlier turn of their "
            "conversation failed"
        )
    # The token counts of a failed request are unknown here, but part of the engine's counters.
    if all(record.ok for record in records):
        prompt = sum_if_known(record.prefilled_tokens for record in records)
        output = sum_if_known(record.decoded_tokens for record in records)
        external = external_load_warning(run.engine, prompt, output)
        found += [external] if external else []
    return found


def external_load_warning(
    engine: Mapping[str, float], prompt_tokens: int | None, output_tokens: int | None
) -> str | None:
    """Return a warning if the engine counted more tokens than this benchmark requested."""
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
        f"Other clients used the server during the run: it counted {excess[0]:.0f} more prompt "
        f"tokens and {excess[1]:.0f} more output tokens than this benchmark requested"
    )


def validity_warnings(
    records: Sequence[RequestRecord], load: Load, *, is_cold: bool, wants_exact: bool
) -> Iterator[str]:
    """Yield warnings derived from all measured requests.

    `is_cold` is whether the prompt cache was meant to be cold, otherwise warm. `wants_exact`
    enables a warning about differing response lengths.
    """
    good = [record for record in records if record.ok]
    if len(good) < len(records):
        failed = len(records) - len(good)
        yield f"{failed} of {len(records)} requests failed: latencies exclude them"
    yield from _lag_warnings(good, load)
    yield from _cache_warnings(good, is_cold)
    yield from _token_warnings(good, wants_exact)
    yield from _trend_warnings(good)


def _lag_warnings(good: Sequence[RequestRecord], load: Load) -> Iterator[str]:
    if not good or not load.is_open or load.max_in_flight is not None:
        return
    p99 = sorted(record.lag_s for record in good)[int(0.99 * (len(good) - 1))]
    if p99 > _MAX_LAG_S:
        yield (
            f"The dispatch delay reached {p99 * 1000:.0f} ms (p99): the benchmark client could not "
            "keep up with the rate, so latencies include its own delay"
        )


def _cache_warnings(good: Sequence[RequestRecord], is_cold: bool) -> Iterator[str]:
    known = [record for record in good if record.cached_tokens is not None and record.input_tokens]
    if not known:
        return
    share = sum(record.cached_tokens or 0 for record in known) / sum(
        record.input_tokens or 0 for record in known
    )
    if is_cold and share > _MAX_COLD_CACHED_SHARE:
        yield f"{share:.0%} of the input tokens came from the prompt cache, despite cache=cold"
    if not is_cold and share < _MIN_WARM_CACHED_SHARE:
        yield f"Only {share:.0%} of the input tokens came from the prompt cache, despite cache=warm"


def _token_warnings(good: Sequence[RequestRecord], wants_exact: bool) -> Iterator[str]:
    if good and all(record.output_tokens is None for record in good):
        yield "The number of output tokens is unknown: no TPOT and no output tokens/s"
    lengths = {record.output_tokens for record in good} - {None}
    stopped = sum(record.finish_reason == "stop" for record in good)
    if stopped and len(lengths) > 1 and wants_exact:
        yield (
            f"{stopped} responses ended before max_tokens: response lengths differ, which affects "
            "latencies"
        )
    late = sum(
        record.tpot_s is None and (record.output_tokens or 0) > 1 and bool(record.token_times_s)
        for record in good
    )
    if late:
        yield (
            f"TPOT is unknown for {late} of {len(good)} requests, because the first chunk of their "
            "responses may hold several tokens. They do not meet a TPOT limit"
        )
    chunks = sum(len(record.token_times_s) for record in good)
    tokens = sum(record.output_tokens or 0 for record in good if record.token_times_s)
    if chunks and tokens > 1.5 * chunks:
        yield (
            f"A stream chunk holds {tokens / chunks:.1f} tokens on average: ITL is the time "
            "between chunks, not between tokens"
        )


def _trend_warnings(good: Sequence[RequestRecord]) -> Iterator[str]:
    runs = {record.run for record in good}
    too_few = len(runs) != 1 or len(good) < _MIN_REQUESTS_FOR_TRENDS
    if too_few or (found := intervals()) is None:
        return
    by_time = sorted(good, key=lambda record: record.due_s + record.lag_s)
    values = [record.e2e_s - record.lag_s for record in by_time]
    trend = found.stats.theilslopes(values)
    drift = float(trend[0]) * len(values) / statistics.median(values)
    is_significant = float(trend[2]) > 0 or float(trend[3]) < 0
    if is_significant and abs(drift) > _MAX_DRIFT:
        yield (
            f"Latency drifted by {drift:+.0%} over the run: the machine warmed up, throttled, or "
            "a queue built up"
        )
    elif found.autocorrelation(values) > 2 / len(values) ** 0.5:
        yield (
            "Consecutive requests are correlated, so intervals are too narrow: use repeats=3 or "
            "more"
        )
