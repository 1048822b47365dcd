"""From requests to figures: which there are, what each is called, and its estimates."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.bench._statistics import (
    ENOUGH_RUNS,
    QUANTILES,
    Estimate,
    needed_for,
    over_runs,
    percentile,
    proportion,
    quantile,
    ratio,
)
from llamatelemetry.bench.slo import meets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.bench.records import RequestRecord, RunRecord

Read = Callable[["RequestRecord"], Sequence[float]]


def _one(name: str) -> Read:
    def read(record: RequestRecord) -> Sequence[float]:
        value: float | None = getattr(record, name)
        return () if value is None else (value,)

    return read


def _gaps(record: RequestRecord) -> Sequence[float]:
    return record.gaps_s


def _prefill_rate(record: RequestRecord) -> Sequence[float]:
    if not record.prefill_s or not record.prefilled_tokens:
        return ()
    return (record.prefilled_tokens / record.prefill_s,)


def _decode_rate(record: RequestRecord) -> Sequence[float]:
    # The first token comes out of the prompt's last batch: decode has made one fewer.
    if not record.decode_s or record.decoded_tokens is None or record.decoded_tokens < 2:
        return ()
    return ((record.decoded_tokens - 1) / record.decode_s,)


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of requests.

    Attributes:
        name: in files and on the command line.
        title: for people.
        read: gives its values for a request; several for the gaps of a stream.
        unit: ``s``, or ``tokens/s``.
        clock: whose measurement it is.
        explains: what it is, in a line.
    """

    name: str
    title: str
    read: Read
    unit: str = "s"
    clock: str = "client"
    explains: str = ""


METRICS: Final = (
    Metric("ttft", "TTFT", _one("ttft_s"), explains="due to first token"),
    Metric("ttfo", "TTFO", _one("ttfo_s"), explains="due to first token that is no reasoning"),
    Metric("itl", "ITL", _gaps, explains="between two pieces of a reply, over all replies"),
    Metric("tpot", "TPOT", _one("tpot_s"), explains="after the first token, over tokens less one"),
    Metric("e2e", "E2E", _one("e2e_s"), explains="due to the end of the reply"),
    Metric("queue", "queue", _one("queue_s"), clock="engine", explains="waiting for a slot"),
    Metric("prefill", "prefill", _one("prefill_s"), clock="engine", explains="reading the prompt"),
    Metric("decode", "decode", _one("decode_s"), clock="engine", explains="after the first token"),
    Metric("remainder", "remainder", _one("remainder_s"), explains="E2E less lag and all phases"),
    Metric("lag", "dispatch lag", _one("lag_s"), explains="due to sent: how late this program was"),
    Metric(
        "prefill_rate",
        "prefill rate",
        _prefill_rate,
        "tokens/s",
        "engine",
        "prompt tokens that were evaluated, over prefill",
    ),
    Metric(
        "decode_rate",
        "decode rate",
        _decode_rate,
        "tokens/s",
        "engine",
        "tokens after the first, over decode",
    ),
)
METRIC_BY_NAME: Final = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Figure:
    """The estimates of one metric. ``count`` is of values: gaps for ITL, requests else."""

    metric: Metric
    count: int
    mean: Estimate
    sd: float
    minimum: float
    maximum: float
    quantiles: dict[float, Estimate]


@dataclass(frozen=True, slots=True)
class Totals:
    """What all requests of the benchmark come to. Rates are over the time of the runs.

    Attributes:
        requests: that ended, well or not.
        failures: by kind.
        duration_s: of all runs.
        request_rate: whole replies per second.
        output_rate: output tokens per second, where they are known.
        input_rate: input tokens per second, where they are known.
        success: share of requests that got a whole reply.
        goodput_rate: requests per second within all objectives, where there are any.
        goodput: their share.
        energy_per_token_j: of the GPUs, by output token, idle draw included.
        energy_above_idle_per_token_j: likewise, without what they draw when idle.
    """

    requests: int
    failures: dict[str, int]
    duration_s: float
    request_rate: float
    output_rate: float | None
    input_rate: float | None
    success: Estimate | None
    goodput_rate: float | None
    goodput: Estimate | None
    energy_per_token_j: float | None
    energy_above_idle_per_token_j: float | None = field(default=None)


def samples(records: Sequence[RequestRecord], metric: Metric) -> dict[int, list[Sequence[float]]]:
    """Give the values of a metric by run and request; of requests that got a whole reply."""
    found: dict[int, list[Sequence[float]]] = {}
    for record in records:
        values = metric.read(record) if record.ok else ()
        if values:
            found.setdefault(record.run, []).append(values)
    return found


def figure(records: Sequence[RequestRecord], metric: Metric, seed: int) -> Figure | None:
    """Estimate a metric; ``None`` when nothing is known of it."""
    runs = list(samples(records, metric).values())
    if not runs:
        return None
    pooled = [float(value) for run in runs for value in chain(*run)]
    return Figure(
        metric=metric,
        count=len(pooled),
        mean=_mean(runs, seed),
        sd=statistics.stdev(pooled) if len(pooled) > 1 else 0.0,
        minimum=min(pooled),
        maximum=max(pooled),
        quantiles={q: _quantile(runs, pooled, q) for q in QUANTILES},
    )


_Run = list[Sequence[float]]  # the values of each request


def _mean(runs: Sequence[_Run], seed: int) -> Estimate:
    if 1 < len(runs) < ENOUGH_RUNS:
        return over_runs([statistics.fmean(chain(*run)) for run in runs])
    # What is resampled as one: the gaps of a reply, or all that a run has.
    units = runs[0] if len(runs) == 1 else [list(chain(*run)) for run in runs]
    return ratio([sum(unit) for unit in units], [float(len(unit)) for unit in units], seed)


def _quantile(runs: Sequence[_Run], pooled: Sequence[float], q: float) -> Estimate:
    if len(runs) > 1:
        over = over_runs([percentile(list(chain(*run)), q) for run in runs])
        return replace(over, supported=len(runs[0]) >= needed_for(q))
    if len(pooled) > len(runs[0]):
        # Gaps of one reply are not independent of one another: no interval is claimed for them.
        return Estimate(percentile(pooled, q), supported=len(runs[0]) >= needed_for(q))
    return quantile(pooled, q)


def totals(
    records: Sequence[RequestRecord], runs: Sequence[RunRecord], slo: Mapping[str, float]
) -> Totals:
    """Add up all requests."""
    failures: dict[str, int] = {}
    for record in records:
        if record.error is not None:
            failures[record.error] = failures.get(record.error, 0) + 1
    good = [record for record in records if record.ok]
    within = sum(meets(record, slo) for record in records)
    duration_s = sum(run.duration_s for run in runs)
    output = _sum(record.output_tokens for record in good)
    energy_j, above_j = _energy(runs)
    return Totals(
        requests=len(records),
        failures=dict(sorted(failures.items())),
        duration_s=duration_s,
        request_rate=len(good) / duration_s if duration_s else 0.0,
        output_rate=_rate(output, duration_s),
        input_rate=_rate(_sum(record.input_tokens for record in good), duration_s),
        success=proportion(len(good), len(records)) if records else None,
        goodput_rate=_rate(within, duration_s) if slo else None,
        goodput=proportion(within, len(records)) if slo and records else None,
        energy_per_token_j=energy_j / output if energy_j is not None and output else None,
        energy_above_idle_per_token_j=above_j / output if above_j is not None and output else None,
    )


def _sum(values: Any) -> int | None:
    """Give the sum, if there is anything to add and all of it is known."""
    known: list[int | None] = list(values)
    return None if not known or None in known else sum(value or 0 for value in known)


def _rate(total: int | None, duration_s: float) -> float | None:
    return None if total is None or not duration_s else total / duration_s


def _energy(runs: Sequence[RunRecord]) -> tuple[float | None, float | None]:
    used = [run.gpu_energy_j for run in runs]
    if not runs or None in used:
        return None, None
    energy_j = sum(value or 0.0 for value in used)
    idle = [run.gpu_idle_w for run in runs]
    if None in idle:
        return energy_j, None
    idle_j = sum((run.gpu_idle_w or 0.0) * run.duration_s for run in runs)
    return energy_j, max(0.0, energy_j - idle_j)
