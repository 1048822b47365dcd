"""A target that is open: warming it up, and making runs with it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation

from llamatelemetry.bench._driver import Driver
from llamatelemetry.bench._environment import Clocks, others_at_work, warnings_of_clocks
from llamatelemetry.bench.records import RunRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from llamatelemetry.bench._driver import Plan
    from llamatelemetry.bench._gpu import GpuMeter
    from llamatelemetry.bench._loop import LoopThread
    from llamatelemetry.bench._targets import Target
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.genai import Instrumenter

_PREFIX: Final = "llamatelemetry.bench"


class BenchmarkError(RuntimeError):
    """The benchmark could not begin: not one warm-up request was answered."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one run."""

    run: RunRecord
    records: Sequence[RequestRecord]
    warnings: Sequence[str]


class Session:
    """Opens a target, which its owner closes, and makes runs with it."""

    def __init__(
        self,
        loop: LoopThread,
        target: Target,
        instrumenter: Instrumenter,
        on_record: Callable[[RequestRecord], None],
        gpus: GpuMeter,
    ) -> None:
        self._loop = loop
        self._target = target
        self._instrumenter = instrumenter
        self._on_record = on_record
        self._gpus = gpus
        with suppress_instrumentation():
            loop.do(target.open())
        gpus.measure_idle()

    def warm_up(self, plan: Plan) -> None:
        """Make requests that are not measured, and leave no telemetry.

        Raises:
            BenchmarkError: not one of them was answered.
        """
        driver = Driver(self._target, plan, self._instrumenter)
        with suppress_instrumentation():
            self._loop.do(driver.run())
        records = driver.progress.records
        if not any(record.ok for record in records):
            kinds = ", ".join(sorted({str(record.error) for record in records}))
            raise BenchmarkError(f"none of {len(records)} warm-up requests was answered: {kinds}")

    def run(self, plan: Plan) -> Measured:
        """Make one run; Ctrl-C ends it with what was measured by then.

        Raises:
            KeyboardInterrupt: nothing was.
        """
        before = self._counters()
        driver = Driver(self._target, plan, self._instrumenter)
        driver.progress.on_record = self._on_record
        interrupted = False
        with self._span(plan) as span, _few_collections():
            self._gpus.begin()
            clocks = Clocks()
            try:
                self._loop.do(driver.run())
            except KeyboardInterrupt:
                interrupted = True
            disturbances = warnings_of_clocks(clocks, engine_is_here=not self._target.has_queue)
            cpu_share = clocks.cpu_share
            disturbances += self._gpus.end()
        records = driver.progress.records
        if not records:
            raise KeyboardInterrupt
        try:
            engine = _difference(before, self._counters())
        except KeyboardInterrupt:  # all requests are made, and are kept
            interrupted, engine = True, {}
        run = RunRecord(
            started_unix_s=clocks.started_unix_s,
            duration_s=max(record.ended_s for record in records),
            trace_id=_trace_id(span),
            planned=sum(talk.turns for talk in plan.talks),
            interrupted=interrupted,
            engine=engine,
            gpu_energy_j=self._gpus.energy_j,
            gpu_idle_w=self._gpus.idle_w,
            client_cpu_share=round(cpu_share, 3),
        )
        warnings = [*disturbances, *_shortcomings(run, records)]
        return Measured(run, records, warnings)

    def _counters(self) -> dict[str, float]:
        with suppress_instrumentation():
            return self._loop.do(self._target.counters())

    @contextmanager
    def _span(self, plan: Plan) -> Generator[Span]:
        """The span that is the parent of the run's requests."""
        attributes: dict[str, Any] = {
            f"{_PREFIX}.run": plan.run,
            f"{_PREFIX}.load": str(plan.load),
            f"{_PREFIX}.max_tokens": plan.max_tokens,
            f"{_PREFIX}.cache": "cold" if plan.cold else "warm",
        }
        name = f"benchmark {plan.model}".rstrip()
        with self._instrumenter.tracer.start_as_current_span(name, attributes=attributes) as span:
            yield span


def _shortcomings(run: RunRecord, records: Sequence[RequestRecord]) -> list[str]:
    if run.interrupted:
        return [f"interrupted: {len(records)} of {run.planned} requests were measured"]
    found: list[str] = []
    if len(records) < run.planned:
        found.append(
            f"{run.planned - len(records)} turns were not asked, because an earlier turn of their "
            "conversation failed"
        )
    if all(record.ok for record in records):  # what an engine counts of a failure is not known here
        prompt = _sum([record.prefilled_tokens for record in records])
        output = _sum([record.decoded_tokens for record in records])
        others = others_at_work(run.engine, prompt, output)
        found += [others] if others else []
    return found


def _sum(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value or 0 for value in values)


def _difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {
        name: after[name] - value
        for name, value in before.items()
        if name.endswith("_total") and name in after
    }


def _trace_id(span: Span) -> str | None:
    context = span.get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


@contextmanager
def _few_collections() -> Generator[None]:
    """Keep the collector from going through everything while time is measured; young objects are."""
    thresholds = gc.get_threshold()
    gc.set_threshold(thresholds[0], thresholds[1], 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
