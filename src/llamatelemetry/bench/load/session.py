"""A session with an open target: the warm-up and the runs of a benchmark."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import INVALID_SPAN, use_span

from llamatelemetry.bench.analysis.validity import clock_warnings, shortfall_warnings
from llamatelemetry.bench.load.driver import Driver
from llamatelemetry.bench.machine import Clocks
from llamatelemetry.bench.records import RunRecord
from llamatelemetry.genai import internal_errors

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from llamatelemetry.bench.load.driver import LoopThread, Plan
    from llamatelemetry.bench.machine import GpuMeter
    from llamatelemetry.bench.records import RequestRecord
    from llamatelemetry.bench.targets.target import BenchmarkTarget
    from llamatelemetry.genai import Instrumenter

_PREFIX: Final = "llamatelemetry.bench"


class BenchmarkError(RuntimeError):
    """The benchmark cannot start because every warm-up request failed."""


class Session:
    """Opens a target and makes runs against it. The caller closes the target.

    `records`, `runs` and `warnings` accumulate over the runs.
    """

    def __init__(
        self,
        loop: LoopThread,
        target: BenchmarkTarget,
        instrumenter: Instrumenter,
        on_record: Callable[[RequestRecord], None],
        gpus: GpuMeter,
    ) -> None:
        self._loop = loop
        self.target = target
        self._instrumenter = instrumenter
        self._on_record = on_record
        self.gpus = gpus
        self.records: list[RequestRecord] = []
        self.runs: list[RunRecord] = []
        self.warnings: list[str] = []
        with suppress_instrumentation():
            loop.run(target.open())
        gpus.measure_idle()

    def warm_up(self, plan: Plan) -> None:
        """Send requests that are neither measured nor traced.

        Raises:
            BenchmarkError: Every request failed.
        """
        driver = Driver(self.target, plan, self._instrumenter)
        with suppress_instrumentation():
            self._loop.run(driver.run())
        if not any(record.ok for record in driver.records):
            kinds = ", ".join(sorted({str(record.error) for record in driver.records}))
            raise BenchmarkError(f"all {len(driver.records)} warm-up requests failed: {kinds}")

    def run(self, plan: Plan) -> bool:
        """Make one run. Return `False` if Ctrl-C ended it; the requests until then are kept.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed before any request of the session finished.
        """
        try:
            self._run(plan)
        except KeyboardInterrupt:
            if not self.runs:
                raise
            self.runs[-1] = replace(self.runs[-1], interrupted=True)
            self.warnings.append(f"Interrupted after {len(self.runs)} runs")
        return not self.runs[-1].interrupted

    def _run(self, plan: Plan) -> None:
        before = self._counters()
        driver = Driver(self.target, plan, self._instrumenter, self._on_record)
        interrupted = False
        with self._span(plan) as span, _without_full_collections():
            self.gpus.start()
            clocks = Clocks()
            try:
                self._loop.run(driver.run())
            except KeyboardInterrupt:
                interrupted = True
            warnings = clock_warnings(clocks, engine_in_process=not self.target.has_queue)
            cpu_share = clocks.cpu_share
            warnings += self.gpus.finish()
        records = driver.records
        if not records:
            raise KeyboardInterrupt
        try:
            engine = _difference(before, self._counters())
        except KeyboardInterrupt:
            # All requests have finished, so they are kept without the engine's counters.
            interrupted, engine = True, {}
        run = RunRecord(
            started_unix_s=clocks.started_unix_s,
            duration_s=max(record.ended_s for record in records),
            trace_id=_trace_id(span),
            planned=sum(scheduled.turns for scheduled in plan.schedule),
            interrupted=interrupted,
            engine=engine,
            gpu_energy_j=self.gpus.energy_j,
            gpu_idle_w=self.gpus.idle_w,
            client_cpu_share=round(cpu_share, 3),
        )
        self.records += records
        self.runs.append(run)
        self.warnings += [*warnings, *shortfall_warnings(run, records)]

    def _counters(self) -> dict[str, float]:
        with suppress_instrumentation():
            return self._loop.run(self.target.counters())

    @contextmanager
    def _span(self, plan: Plan) -> Generator[Span]:
        """Open the parent span of the run's requests."""
        attributes: dict[str, Any] = {
            f"{_PREFIX}.run": plan.run,
            f"{_PREFIX}.load": str(plan.load),
            f"{_PREFIX}.max_tokens": plan.max_tokens,
            f"{_PREFIX}.cache": "cold" if plan.cold else "warm",
        }
        name = f"benchmark {plan.model}".rstrip()
        span = INVALID_SPAN
        # A sampler or a span processor of the application may raise. The run goes on.
        try:
            span = self._instrumenter.tracer.start_span(name, attributes=attributes)
        except Exception as error:
            internal_errors.log_once("starting the span of a run", error)
        try:
            with use_span(span):
                yield span
        finally:
            try:
                span.end()
            except Exception as error:
                internal_errors.log_once("ending the span of a run", error)


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
def _without_full_collections() -> Generator[None]:
    """Disable collections of the oldest generation, which would disturb the measurement."""
    thresholds = gc.get_threshold()
    gc.set_threshold(thresholds[0], thresholds[1], 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
