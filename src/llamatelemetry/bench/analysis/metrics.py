"""Metrics of a benchmark: definitions, summary statistics, totals, and SLO attainment."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.bench.analysis.statistics import (
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.bench.records import RequestRecord, RunRecord

ValuesOf = Callable[["RequestRecord"], Sequence[float]]

SLO_METRICS: Final = ("ttft", "ttfo", "tpot", "e2e")
_UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_QUANTITY: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s)")


def _field(name: str) -> ValuesOf:
    def values_of(record: RequestRecord) -> Sequence[float]:
        value: float | None = getattr(record, name)
        return () if value is None else (value,)

    return values_of


def _prefill_rate(record: RequestRecord) -> Sequence[float]:
    if not record.prefill_s or not record.prefilled_tokens:
        return ()
    return (record.prefilled_tokens / record.prefill_s,)


def _decode_rate(record: RequestRecord) -> Sequence[float]:
    # The last prefill batch produces the first token, so decoding produces one fewer.
    return (1 / record.engine_tpot_s,) if record.engine_tpot_s else ()


@dataclass(frozen=True, slots=True)
class Metric:
    """Definition of a metric of requests, with `name` in files and `title` in tables.

    `values_of` returns the values of a request; ITL has several. `unit` is `s` or `tokens/s`.
    `clock` is what measures it, `client` or `engine`.
    """

    name: str
    title: str
    values_of: ValuesOf
    definition: str
    unit: str = "s"
    clock: str = "client"


METRICS: Final = (
    Metric("ttft", "TTFT", _field("ttft_s"), "scheduled time to first token"),
    Metric("ttfo", "TTFO", _field("ttfo_s"), "scheduled time to first token after the reasoning"),
    Metric("itl", "ITL", lambda record: record.gaps_s, "time between two chunks of a response"),
    Metric("tpot", "TPOT", _field("tpot_s"), "time after the first token / (output tokens - 1)"),
    Metric("e2e", "E2E", _field("e2e_s"), "scheduled time to the end of the response"),
    Metric("queue", "Queue", _field("queue_s"), "wait before the prefill", clock="engine"),
    Metric("prefill", "Prefill", _field("prefill_s"), "prompt processing time", clock="engine"),
    Metric("decode", "Decode", _field("decode_s"), "time after the first token", clock="engine"),
    Metric(
        "engine_tpot",
        "Engine TPOT",
        _field("engine_tpot_s"),
        "decode time / (output tokens - 1)",
        clock="engine",
    ),
    Metric(
        "remainder",
        "Remainder",
        _field("remainder_s"),
        "E2E minus dispatch delay, queue, prefill and decode",
    ),
    Metric("lag", "Dispatch delay", _field("lag_s"), "scheduled time to sending"),
    Metric(
        "prefill_rate",
        "Prefill rate",
        _prefill_rate,
        "evaluated prompt tokens / prefill time",
        "tokens/s",
        "engine",
    ),
    Metric(
        "decode_rate",
        "Decode rate",
        _decode_rate,
        "tokens after the first / decode time",
        "tokens/s",
        "engine",
    ),
)
METRIC_BY_NAME: Final = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """Summary statistics of one metric.

    `count` is the number of values: inter-chunk intervals for ITL, requests otherwise.
    `quantiles` holds the estimates of p50, p90, p95 and p99 by quantile, such as 0.5.
    """

    metric: Metric
    count: int
    mean: Estimate
    sd: float
    minimum: float
    maximum: float
    quantiles: dict[float, Estimate]


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals over all requests of a benchmark, including failed ones; `None` if unknown.

    Rates are per second of the runs' duration. `failures` counts requests by error type. `success`
    is the share of requests with a complete response that has a token, `goodput` the share that met all SLOs.
    Energy is that of the GPUs per output token; without `above_idle` it includes idle power.
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
    energy_above_idle_per_token_j: float | None = None


def values_by_run(
    records: Sequence[RequestRecord], metric: Metric
) -> dict[int, list[Sequence[float]]]:
    """Return the values of a metric per successful request, grouped by run."""
    found: dict[int, list[Sequence[float]]] = {}
    for record in records:
        values = metric.values_of(record) if record.ok else ()
        if values:
            found.setdefault(record.run, []).append(values)
    return found


def summarize_metric(
    records: Sequence[RequestRecord], metric: Metric, seed: int
) -> MetricSummary | None:
    """Return the summary statistics of a metric, or `None` if no request has a value."""
    runs = list(values_by_run(records, metric).values())
    if not runs:
        return None
    pooled = [float(value) for run in runs for value in chain(*run)]
    return MetricSummary(
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
    # The bootstrap resamples whole requests of a single run, or whole runs.
    units = runs[0] if len(runs) == 1 else [list(chain(*run)) for run in runs]
    return ratio([sum(unit) for unit in units], [float(len(unit)) for unit in units], seed)


def _quantile(runs: Sequence[_Run], pooled: Sequence[float], q: float) -> Estimate:
    if len(runs) > 1:
        over = over_runs([percentile(list(chain(*run)), q) for run in runs])
        return replace(over, supported=min(map(len, runs)) >= needed_for(q))
    if len(pooled) > len(runs[0]):
        # Inter-chunk intervals of one response are correlated, so they get no interval.
        return Estimate(percentile(pooled, q), supported=len(runs[0]) >= needed_for(q))
    return quantile(pooled, q)


def compute_totals(
    records: Sequence[RequestRecord], runs: Sequence[RunRecord], slo: Mapping[str, float]
) -> Totals:
    """Return the totals over all requests and runs."""
    failures = Counter(record.error for record in records if record.error is not None)
    good = [record for record in records if record.ok]
    within = sum(meets_slo(record, slo) for record in records)
    duration_s = sum(run.duration_s for run in runs)
    output = sum_if_known(record.output_tokens for record in good)
    energy_j, above_j = _energy(runs)
    return Totals(
        requests=len(records),
        failures=dict(sorted(failures.items())),
        duration_s=duration_s,
        request_rate=len(good) / duration_s if duration_s else 0.0,
        output_rate=_rate(output, duration_s),
        input_rate=_rate(sum_if_known(record.input_tokens for record in good), duration_s),
        success=proportion(len(good), len(records)) if records else None,
        goodput_rate=_rate(within, duration_s) if slo else None,
        goodput=proportion(within, len(records)) if slo and records else None,
        energy_per_token_j=energy_j / output if energy_j is not None and output else None,
        energy_above_idle_per_token_j=above_j / output if above_j is not None and output else None,
    )


def sum_if_known(values: Iterable[int | None]) -> int | None:
    """Return the sum, or `None` if there are no values or any of them is unknown."""
    found = list(values)
    return None if not found or None in found else sum(value or 0 for value in found)


def _rate(total: int | None, duration_s: float) -> float | None:
    return None if total is None or not duration_s else total / duration_s


def _energy(runs: Sequence[RunRecord]) -> tuple[float | None, float | None]:
    used = [run.gpu_energy_j for run in runs]
    if not runs or None in used:
        return None, None
    energy_j = sum(value or 0.0 for value in used)
    if any(run.gpu_idle_w is None for run in runs):
        return energy_j, None
    idle_j = sum((run.gpu_idle_w or 0.0) * run.duration_s for run in runs)
    return energy_j, max(0.0, energy_j - idle_j)


def parse_slo(slo: Mapping[str, Any] | str | None) -> dict[str, float]:
    """Return the latency limits of `"ttft=500ms,tpot=50ms"`, or of a dict, in seconds by metric.

    Raises:
        ValueError: A metric or a limit is invalid.
    """
    if slo is None:
        return {}
    if isinstance(slo, str):
        pairs = [part.partition("=") for part in slo.split(",") if part.strip()]
        slo = {name.strip(): value.strip() for name, _, value in pairs}
    return {_slo_name(name): _slo_seconds(name, value) for name, value in slo.items()}


def _slo_name(name: str) -> str:
    short = name.removesuffix("_s")
    if short not in SLO_METRICS:
        raise ValueError(f"an SLO must be one of {', '.join(SLO_METRICS)}, got {name!r}")
    return short


def _slo_seconds(name: str, value: Any) -> float:
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    limit = value if match is None else float(match["number"]) * _UNITS_S[match["unit"]]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        raise ValueError(f"{name} must have a unit, got {value!r}. Use {value}s or {value}ms")
    if not isinstance(limit, (int, float)) or not math.isfinite(limit) or limit <= 0:
        raise ValueError(f"{name} must be a time such as 500ms or 1.5s, got {value!r}")
    return float(limit)


def meets_slo(record: RequestRecord, slo: Mapping[str, float]) -> bool:
    """Return whether a request succeeded within all latency limits.

    A response of one token has no TPOT and so meets a TPOT limit. Any other unknown value does
    not meet its limit.
    """
    has_tpot = record.output_tokens is None or record.output_tokens > 1
    values = (
        (getattr(record, f"{name}_s"), slo[name]) for name in slo if name != "tpot" or has_tpot
    )
    return record.ok and all(value is not None and value <= limit_s for value, limit_s in values)
