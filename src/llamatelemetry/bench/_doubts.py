"""What the measured requests themselves say against their figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from llamatelemetry.bench._statistics import intervals

if TYPE_CHECKING:
    from llamatelemetry.bench.load import Load
    from llamatelemetry.bench.records import RequestRecord

_LATE_S: Final = 0.01
_CACHED_SHARE: Final = 0.1
_DRIFT: Final = 0.1
_ENOUGH: Final = 20


def doubts(
    records: Sequence[RequestRecord], load: Load, *, is_cold: bool, wants_exact: bool
) -> Iterator[str]:
    """Give a sentence for each thing that makes the figures less than they seem."""
    good = [record for record in records if record.ok]
    if len(good) < len(records):
        failed = len(records) - len(good)
        yield f"{failed} of {len(records)} requests failed; latencies are those of the others"
    yield from _about_lag(good, load)
    yield from _about_cache(good, is_cold)
    yield from _about_tokens(good, wants_exact)
    yield from _about_time(good)


def _about_lag(good: Sequence[RequestRecord], load: Load) -> Iterator[str]:
    if not good or not load.is_open or load.most_in_flight is not None:
        return
    late = sorted(record.lag_s for record in good)[int(0.99 * (len(good) - 1))]
    if late > _LATE_S:
        yield (
            f"requests were sent up to {late * 1000:.0f} ms late (99 %): this program did not keep up "
            "with the rate, and what was measured is in part itself"
        )


def _about_cache(good: Sequence[RequestRecord], is_cold: bool) -> Iterator[str]:
    known = [record for record in good if record.cached_tokens is not None and record.input_tokens]
    if not known:
        return
    share = sum(record.cached_tokens or 0 for record in known) / sum(
        record.input_tokens or 0 for record in known
    )
    if is_cold and share > _CACHED_SHARE:
        yield f"{share:.0%} of the prompts' tokens came from the prompt cache, which was to be cold"
    if not is_cold and share < 1 - 5 * _CACHED_SHARE:
        yield f"only {share:.0%} of the prompts' tokens came from the prompt cache, which was to be warm"


def _about_tokens(good: Sequence[RequestRecord], wants_exact: bool) -> Iterator[str]:
    if good and all(record.output_tokens is None for record in good):
        yield "the number of output tokens is not known, so there is no TPOT and no token rate"
    lengths = {record.output_tokens for record in good} - {None}
    stopped = sum(record.finish_reason == "stop" for record in good)
    if stopped and len(lengths) > 1 and wants_exact:
        yield (
            f"{stopped} replies ended before max_tokens: their lengths differ, and with them the "
            "latencies"
        )
    pieces = sum(len(record.token_times_s) for record in good)
    tokens = sum(record.output_tokens or 0 for record in good if record.token_times_s)
    if pieces and tokens > 1.5 * pieces:
        yield (
            f"a piece of a stream holds {tokens / pieces:.1f} tokens on average: ITL is the time "
            "between pieces"
        )


def _about_time(good: Sequence[RequestRecord]) -> Iterator[str]:
    runs = {record.run for record in good}
    if len(runs) != 1 or len(good) < _ENOUGH or (found := intervals()) is None:
        return
    by_time = sorted(good, key=lambda record: record.due_s + record.lag_s)
    values = [_service_s(record) for record in by_time]
    trend = found.stats.theilslopes(values)
    drift = float(trend[0]) * len(values) / statistics.median(values)
    proven = float(trend[2]) > 0 or float(trend[3]) < 0
    if proven and abs(drift) > _DRIFT:
        yield (
            f"latency changed by {drift:+.0%} over the run: the machine warmed up, throttled, or "
            "a queue grew"
        )
    elif found.autocorrelation(values) > 2 / len(values) ** 0.5:
        yield (
            "requests that follow one another are alike, so the intervals are too narrow; repeated "
            "runs (repeats=3 or more) give honest ones"
        )


def _service_s(record: RequestRecord) -> float:
    return record.e2e_s - record.lag_s
