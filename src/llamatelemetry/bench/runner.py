"""`BenchmarkRunner`: warm up, run the load, and assemble the results."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llamatelemetry import __version__
from llamatelemetry.bench.analysis.metrics import parse_slo
from llamatelemetry.bench.analysis.validity import setup_warnings, validity_warnings
from llamatelemetry.bench.load.driver import LoopThread, Plan, ScheduledConversation
from llamatelemetry.bench.load.prompts import (
    Conversation,
    Prompt,
    SyntheticPrompts,
    as_conversations,
    rotate,
)
from llamatelemetry.bench.load.schedule import (
    Arrival,
    BenchmarkProfile,
    Load,
    Ramp,
    arrival_times,
    checked_integer,
)
from llamatelemetry.bench.load.session import Session
from llamatelemetry.bench.machine import GpuMeter, describe_machine, fingerprint
from llamatelemetry.bench.records import RequestRecord
from llamatelemetry.bench.report.terminal import progress_bar
from llamatelemetry.bench.results import PAIR, BenchmarkResults
from llamatelemetry.bench.sweep import SweepPoint, SweepResults
from llamatelemetry.bench.targets.target import make_target
from llamatelemetry.genai import ConfiguredInstrumenter

if TYPE_CHECKING:
    from llamatelemetry.bench.targets.target import BenchmarkTarget

_SCOPE: Final = "llamatelemetry.bench"


class _Prompts(NamedTuple):
    """The prompts of a benchmark, and for synthetic ones the settings that made them."""

    conversations: list[Conversation]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, given: Iterable[Prompt] | str) -> _Prompts:
        settings = (
            {"input_tokens": given.input_tokens, "input_tokens_method": given.counted_by}
            if isinstance(given, SyntheticPrompts)
            else {}
        )
        return cls(as_conversations(given), settings)


class _ActiveBenchmark(NamedTuple):
    """A benchmark in progress and its conditions."""

    model: str
    prompts: _Prompts
    load: Load
    session: Session
    plan: Callable[[int], Plan]

    def run(self, number: int) -> bool:
        """Make a run. Return `False` if Ctrl-C ended it."""
        return self.session.run(self.plan(number))


class BenchmarkRunner:
    """Benchmarks an inference server or engine.

    Args:
        client: `LlamaCppClient`, client of the openai library, or any inference engine.
        profile: Number of warm-up and measured requests.
        concurrency: Number of concurrent requests. With `rate`: maximum number, where 1 means
            no limit.
        rate: Arrivals per second, or a `Ramp`, for an open load. Latencies then count from the
            scheduled arrivals.
        arrival: Distribution of the arrivals, `poisson` or `constant`.
        max_tokens: Length of each response; exact if the server supports `ignore_eos`.
        cache: `cold` bypasses the prompt cache; `warm` fills it before the measurement.
        seed: Random seed of arrivals, sampling and statistics.
        slo: Latency limits for the goodput, as `"ttft=500ms,tpot=50ms"` or `{"ttft": 0.5}`.
        progress: Show a progress bar if stderr is a terminal.
        record_prompts: Keep the text of the prompts in the results.

    Raises:
        TypeError: The client is of an unsupported type.
        ValueError: Another argument is invalid.

    Examples:
        >>> from llamatelemetry.bench import BenchmarkProfile, BenchmarkRunner
        >>> from llamatelemetry.llama import LlamaCppClient
        >>> client = LlamaCppClient("http://127.0.0.1:8080")
        >>> runner = BenchmarkRunner(client, BenchmarkProfile.QUICK, max_tokens=2, slo="e2e=60s")
        >>> results = runner.run("my-model", ["Why is the sky blue?"])
        >>> len(results.requests), results.totals.goodput.value
        (10, 1.0)
        >>> print(results.summary())
        my-model: concurrency 1
        Metric                   Count   Mean    p50       p50 95% CI ...
        ...
        >>> client.close()
        >>> BenchmarkRunner(client, concurrency=0)
        Traceback (most recent call last):
        ValueError: concurrency must be at least 1, got 0
    """

    def __init__(
        self,
        client: Any,
        profile: BenchmarkProfile = BenchmarkProfile.STANDARD,
        *,
        concurrency: int = 1,
        rate: float | Ramp | None = None,
        arrival: Arrival = "poisson",
        max_tokens: int = 128,
        cache: Literal["cold", "warm"] = "cold",
        seed: int = 0,
        slo: Mapping[str, Any] | str | None = None,
        progress: bool = True,
        record_prompts: bool = False,
    ) -> None:
        # Called only to reject an unsupported client now; each benchmark creates its own target.
        make_target(client)
        if profile not in tuple(BenchmarkProfile):
            raise ValueError(
                f"profile must be a BenchmarkProfile such as BenchmarkProfile.QUICK, got {profile!r}"
            )
        if cache not in {"cold", "warm"}:
            raise ValueError(f"cache must be 'cold' or 'warm', got {cache!r}")
        self._client = client
        self._profile = profile
        self._load = Load(concurrency, rate, arrival)
        self._max_tokens = checked_integer("max_tokens", max_tokens, 1)
        self._cache = cache
        self._is_cold = cache == "cold"
        self._seed = checked_integer("seed", seed, 0)
        self._slo = parse_slo(slo)
        self._progress = progress
        self._record_prompts = record_prompts
        self._instrumenter = ConfiguredInstrumenter(_SCOPE, __version__)

    def run(
        self, model_name: str, prompts: Iterable[Prompt] | str, *, repeats: int = 1
    ) -> BenchmarkResults:
        """Run the benchmark. Ctrl-C ends it early and keeps the requests measured until then.

        Args:
            model_name: Model name to request.
            prompts: Texts, message lists or conversations, used in rotation.
            repeats: Number of runs. With 3 or more, intervals include the variation across runs.

        Raises:
            BenchmarkError: Every warm-up request failed.
        """
        repeats = checked_integer("repeats", repeats, 1)
        return self._measure(model_name, _Prompts.of(prompts), repeats, self._load)

    def run_interleaved(
        self,
        other: BenchmarkRunner,
        model_name: str,
        prompts: Iterable[Prompt] | str,
        *,
        repeats: int = 6,
        other_model_name: str | None = None,
    ) -> tuple[BenchmarkResults, BenchmarkResults]:
        """Run two benchmarks in alternation, so that drift of the machine affects both equally.

        The order of the runs is A B, B A, A B, and so on. A comparison of the two results then
        compares each run with the run next to it.

        Args:
            other: Runner of the other target, or of the same target with other settings.
            model_name: Model name to request.
            prompts: Prompts of both benchmarks, as for `run()`.
            repeats: Number of runs of each. Fewer than 4 detect only large differences.
            other_model_name: Model name to request from the other target, if it differs.

        Returns:
            The results of this runner and of the other one.

        Raises:
            BenchmarkError: Every warm-up request to one of the targets failed.

        Examples:
            >>> new, old = (BenchmarkRunner(client, BenchmarkProfile.QUICK) for _ in range(2))
            >>> candidate, baseline = new.run_interleaved(old, "my-model", ["Hello"], repeats=4)
            >>> candidate.is_paired_with(baseline), len(candidate.runs)
            (True, 4)
            >>> comparison = candidate.compare(baseline)
        """
        repeats = checked_integer("repeats", repeats, 2)
        prepared = _Prompts.of(prompts)
        total = (self._profile.runs + other._profile.runs) * repeats
        pair = secrets.token_hex(8)
        with (
            progress_bar(model_name, total, shown=self._progress) as advance,
            self._opened(model_name, prepared, self._load, advance) as own,
            other._opened(other_model_name or model_name, prepared, other._load, advance) as paired,
        ):
            for number in range(repeats):
                order = (own, paired) if number % 2 == 0 else (paired, own)
                if not all(each.run(number) for each in order):
                    break
            if not (own.session.runs and paired.session.runs):
                raise KeyboardInterrupt
            return self._results(own, pair), other._results(paired, pair)

    run_beside = run_interleaved
    """Former name of `run_interleaved()`."""

    def sweep(
        self,
        model_name: str,
        prompts: Iterable[Prompt] | str,
        *,
        concurrencies: Sequence[int] = (),
        rates: Sequence[float] = (),
    ) -> SweepResults:
        """Run the benchmark at increasing loads to find where throughput stops growing.

        An error or Ctrl-C at a later load ends the sweep, which keeps the loads before.

        Args:
            model_name: Model name to request.
            prompts: Prompts, as for `run()`.
            concurrencies: Numbers of concurrent requests; excludes `rates`.
            rates: Arrivals per second; excludes `concurrencies`.

        Raises:
            BenchmarkError: Every warm-up request of the first load failed.
            ValueError: Neither or both of `concurrencies` and `rates` are given.

        Examples:
            >>> runner = BenchmarkRunner(client, BenchmarkProfile.QUICK)
            >>> sweep = runner.sweep("my-model", ["Hello"], concurrencies=[1, 2])
            >>> [(point.level, len(point.results.requests)) for point in sweep.points]
            [(1.0, 10), (2.0, 10)]
        """
        levels = [*concurrencies, *rates]
        if bool(len(concurrencies)) == bool(len(rates)):
            raise ValueError("a sweep needs either concurrencies or rates")
        prepared = _Prompts.of(prompts)
        arrival = self._load.arrival
        loads = [Load(each) for each in concurrencies] or [
            Load(self._load.concurrency, each, arrival) for each in rates
        ]
        points: list[SweepPoint] = []
        for load, level in zip(loads, levels, strict=True):
            try:
                results = self._measure(model_name, prepared, 1, load)
            except (Exception, KeyboardInterrupt) as error:
                if not points:
                    raise
                points[-1] = _last_point(points[-1], load, error)
                break
            points.append(SweepPoint(float(level), results))
            if results.runs[-1].interrupted:
                break
        return SweepResults("rate" if len(rates) else "concurrency", tuple(points))

    def _measure(self, model: str, prompts: _Prompts, repeats: int, load: Load) -> BenchmarkResults:
        total = self._profile.runs * repeats
        with (
            progress_bar(model, total, shown=self._progress) as advance,
            self._opened(model, prompts, load, advance) as active,
        ):
            for run in range(repeats):
                if not active.run(run):
                    break
            return self._results(active)

    @contextmanager
    def _opened(
        self,
        model: str,
        prompts: _Prompts,
        load: Load,
        advance: Callable[[RequestRecord], None],
    ) -> Generator[_ActiveBenchmark]:
        """Open and warm up the target."""
        target = make_target(self._client)
        with LoopThread() as loop, GpuMeter(target.server) as gpus:
            try:
                session = Session(loop, target, self._instrumenter.get(), advance, gpus)
                session.warnings = setup_warnings(target.facts, load)
                conversations = prompts.conversations
                session.warm_up(self._warm_up_plan(target, model, conversations, load))
                plan = partial(self._plan, model, conversations, load)
                yield _ActiveBenchmark(model, prompts, load, session, plan)
            finally:
                loop.run(target.close())

    def _results(self, active: _ActiveBenchmark, pair: str | None = None) -> BenchmarkResults:
        model, (conversations, prompt_settings), load, session, _ = active
        facts, profile = session.target.facts, self._profile
        found = validity_warnings(
            session.records, load, is_cold=self._is_cold, wants_exact=not facts.ignores_eos
        )
        settings = {
            "profile": profile.name,
            "warmup": profile.warmup,
            "runs": profile.runs,
            **load.describe(),
            "load_text": str(load),
            "max_tokens": self._max_tokens,
            "cache": self._cache,
            "seed": self._seed,
            "ignore_eos": facts.ignores_eos,
            **prompt_settings,
            **({} if pair is None else {PAIR: pair}),
        }
        conditions = {"model": model, "max_tokens": self._max_tokens, "cache": self._cache}
        return BenchmarkResults(
            model=model,
            settings=settings,
            fingerprint=fingerprint(facts, conversations, load, session.gpus.names, conditions),
            environment={
                **({"server.url": session.target.url} if session.target.url else {}),
                **describe_machine(),
            },
            requests=sorted(session.records, key=lambda record: (record.run, record.index)),
            runs=session.runs,
            slo=self._slo,
            warnings=list(dict.fromkeys([*session.warnings, *found])),
        )

    def _plan(
        self, model: str, conversations: Sequence[Conversation], load: Load, run: int
    ) -> Plan:
        planned = list(rotate(conversations, self._profile.runs))
        due = arrival_times(load, len(planned), self._seed + run)
        schedule: list[ScheduledConversation] = []
        index = 0
        for (prompt, turns), due_s in zip(planned, due, strict=True):
            schedule.append(ScheduledConversation(prompt, turns, due_s, index))
            index += turns
        return Plan(
            run=run,
            model=model,
            conversations=conversations,
            schedule=schedule,
            load=load,
            max_tokens=self._max_tokens,
            cold=self._is_cold,
            seed=self._seed,
            keep_prompts=self._record_prompts,
        )

    def _warm_up_plan(
        self, target: BenchmarkTarget, model: str, conversations: Sequence[Conversation], load: Load
    ) -> Plan:
        """Return the warm-up: at least one request per slot; for a warm cache, every prompt."""
        slots = target.facts.slots or load.concurrency
        count = max(self._profile.warmup, slots)
        if not self._is_cold:
            count = max(count, min(len(conversations), self._profile.runs))
        schedule = [
            ScheduledConversation(number % len(conversations), 1, 0.0, number)
            for number in range(count)
        ]
        plan = self._plan(model, conversations, Load(slots), -1)
        return replace(plan, schedule=schedule, keep_prompts=False)


def _last_point(point: SweepPoint, load: Load, error: BaseException) -> SweepPoint:
    """Return the last point of a sweep that an error or Ctrl-C has ended, with a warning."""
    is_interrupt = isinstance(error, KeyboardInterrupt)
    failure = f"The sweep ended before {load}: {type(error).__name__}: {error}"
    results = point.results
    *runs, last = results.runs
    ended = replace(
        results,
        runs=[*runs, replace(last, interrupted=last.interrupted or is_interrupt)],
        warnings=[*results.warnings, f"Interrupted before {load}" if is_interrupt else failure],
    )
    return replace(point, results=ended)
