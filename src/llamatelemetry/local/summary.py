"""What a run comes to: the calls by operation and model, with their latencies and their energy."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from llamatelemetry.local.calls import Call, call_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamatelemetry.local.records import MetricPoint, SpanRecord

_FEWEST: Final = 20
_GPU_UTILIZATION: Final = "hw.gpu.utilization"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Median and 95th percentile, by linear interpolation between the two nearest values.

    Of fewer than 20 values there is no 95th percentile, only a largest one.
    """

    p50: float
    p95: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Quantiles | None:
        """Give those of the values that are known; ``None`` when none is."""
        known = sorted(value for value in values if value is not None)
        if not known:
            return None
        if len(known) < _FEWEST:
            return cls(statistics.median(known), None)
        cuts = statistics.quantiles(known, n=20, method="inclusive")
        return cls(cuts[9], cuts[18])


@dataclass(frozen=True, slots=True)
class Line:
    """The calls of one operation to one model. Times in milliseconds; unknown stays ``None``."""

    operation: str
    model: str | None
    calls: int
    errors: int
    input_tokens: int | None
    output_tokens: int | None
    queue_ms: Quantiles | None
    ttft_ms: Quantiles | None
    tpot_ms: Quantiles | None
    duration_ms: Quantiles | None
    tokens_per_s: Quantiles | None
    energy_j: float | None


@dataclass(slots=True)
class Summary:
    """A whole run. ``errors`` counts by kind; ``spans`` are those of calls and all others."""

    lines: list[Line] = field(default_factory=list[Line])
    errors: Counter[str] = field(default_factory=Counter[str])
    spans: int = 0
    processes: int = 0
    gpu_utilization: float | None = None

    @property
    def calls(self) -> int:
        """How many calls there were."""
        return sum(line.calls for line in self.lines)


def summarise(spans: Iterable[SpanRecord], points: Iterable[MetricPoint] = ()) -> Summary:
    """Sum up what was recorded."""
    summary = Summary()
    groups: dict[tuple[str, str | None], list[Call]] = defaultdict(list)
    processes: set[object] = set()
    for span in spans:
        summary.spans += 1
        resource = span.resource
        processes.add(resource.get("service.instance.id", resource.get("process.pid")))
        call = call_of(span)
        if call is not None:
            groups[call.operation, call.model].append(call)
            if call.error is not None:
                summary.errors[call.error] += 1
    summary.processes = len(processes)
    summary.lines = [
        _line(operation, model, calls)
        for (operation, model), calls in sorted(
            groups.items(), key=lambda item: (-len(item[1]), item[0][0], item[0][1] or "")
        )
    ]
    loads = [p.value for p in points if p.name == _GPU_UTILIZATION and p.value is not None]
    summary.gpu_utilization = statistics.fmean(loads) if loads else None
    return summary


def _line(operation: str, model: str | None, calls: Sequence[Call]) -> Line:
    energies = [call.energy_j for call in calls if call.energy_j is not None]
    return Line(
        operation=operation,
        model=model,
        calls=len(calls),
        errors=sum(call.error is not None for call in calls),
        input_tokens=_total(call.input_tokens for call in calls),
        output_tokens=_total(call.output_tokens for call in calls),
        queue_ms=Quantiles.of(call.queue_ms for call in calls),
        ttft_ms=Quantiles.of(call.ttft_ms for call in calls),
        tpot_ms=Quantiles.of(call.tpot_ms for call in calls),
        duration_ms=Quantiles.of(call.duration_ms for call in calls if call.error is None),
        tokens_per_s=Quantiles.of(call.tokens_per_s for call in calls),
        energy_j=sum(energies) if energies else None,
    )


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
