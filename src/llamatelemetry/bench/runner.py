"""The benchmark: warm up, send, watch, and put together what came of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from llamatelemetry import __version__
from llamatelemetry.bench import _environment as environment
from llamatelemetry.bench._doubts import doubts
from llamatelemetry.bench._driver import Plan, Talk
from llamatelemetry.bench._gpu import GpuMeter
from llamatelemetry.bench._loop import LoopThread
from llamatelemetry.bench._progress import progress_bar
from llamatelemetry.bench._series import Series
from llamatelemetry.bench._session import BenchmarkError, Session
from llamatelemetry.bench._targets import make_target
from llamatelemetry.bench.load import Arrival, Load, Ramp, arrival_times
from llamatelemetry.bench.profile import BenchmarkProfile
from llamatelemetry.bench.prompts import Conversation, Prompt, as_conversations, in_turn
from llamatelemetry.bench.records import RequestRecord
from llamatelemetry.bench.results import PAIR, BenchmarkResults
from llamatelemetry.bench.slo import read_slo
from llamatelemetry.genai import ConfiguredInstrumenter

if TYPE_CHECKING:
    from llamatelemetry.bench._targets import ServerFacts, Target
    from llamatelemetry.bench.sweep import SweepResults

__all__ = ["BenchmarkError", "BenchmarkRunner"]

_SCOPE: Final = "llamatelemetry.bench"


class _Opened(NamedTuple):
    """A benchmark that is under way, and the conditions it is made under."""

    model: str
    conversations: Sequence[Conversation]
    load: Load
    facts: ServerFacts
    gpus: Sequence[str]
    series: Series


class BenchmarkRunner:
    """Measures an inference engine, as its caller and, where it tells, from inside.

        runner = BenchmarkRunner(LlamaCppClient(), BenchmarkProfile.QUICK)
        print(runner.run("my-model", ["Why is the sky blue?"]).summary())

    Args:
        client: a ``LlamaCppClient``, a client of the openai library, or any inference engine.
        profile: how many requests.
        concurrency: how many are always under way; with ``rate``, the most that may be, where 1
            is no limit.
        rate: arrivals per second, whatever the answers take; or a `Ramp` of them. Latencies
            count from the scheduled times then.
        arrival: ``poisson`` or ``constant``.
        max_tokens: length of each reply; exact where the server can be told to go on.
        cache: ``cold`` keeps the prompt cache out of it; ``warm`` has every prompt in it.
        seed: of the arrivals, the sampling and the statistics.
        slo: objectives, as ``"ttft=500ms,tpot=50ms"`` or ``{"ttft": 0.5}``, for the goodput.
        progress: show a progress bar, where there is a terminal.
        record_prompts: keep the prompts in the results. Off, as everywhere.

    Raises:
        TypeError: ``client`` is nothing that can be asked.
        ValueError: one of the others is not possible.
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
        make_target(client)  # refuses what cannot be asked
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens!r}")
        if cache not in {"cold", "warm"}:
            raise ValueError(f"cache must be 'cold' or 'warm', not {cache!r}")
        self._client = client
        self._profile = profile
        self._load = Load(concurrency, rate, arrival)
        self._max_tokens = max_tokens
        self._is_cold = cache == "cold"
        self._seed = seed
        self._slo = read_slo(slo)
        self._progress = progress
        self._record_prompts = record_prompts
        self._instrumenter = ConfiguredInstrumenter(_SCOPE, __version__)

    def run(
        self, model_name: str, prompts: Iterable[Prompt] | str, *, repeats: int = 1
    ) -> BenchmarkResults:
        """Measure; Ctrl-C ends it early and keeps what was measured by then.

        Args:
            model_name: the model to ask for.
            prompts: texts, lists of messages or conversations, taken in turn.
            repeats: how many runs; three or more tell how far one run is from the next.

        Raises:
            BenchmarkError: not one warm-up request was answered.
        """
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, not {repeats!r}")
        return self._measure(model_name, as_conversations(prompts), repeats, self._load)

    def run_beside(
        self,
        other: BenchmarkRunner,
        model_name: str,
        prompts: Iterable[Prompt] | str,
        *,
        repeats: int = 6,
        other_model_name: str | None = None,
    ) -> tuple[BenchmarkResults, BenchmarkResults]:
        """Measure in turns with another runner, so that a machine that drifts does so for both.

        The runs go A B, B A, A B, ... Comparing the two results then compares each run with
        the one beside it:

            candidate, baseline = new.run_beside(old, "my-model", prompts)
            print(candidate.compare(baseline))

        Args:
            other: measures the other target, or the same one in another way.
            model_name: the model to ask for.
            prompts: as for `run`, of both.
            repeats: how many runs of each; fewer than four show only large differences.
            other_model_name: the model to ask the other for, where that has another name.

        Returns:
            The results of this runner, and those of the other.

        Raises:
            BenchmarkError: one of the two answered not one warm-up request.
        """
        if repeats < 2:
            raise ValueError(f"repeats must be at least 2, not {repeats!r}")
        conversations = as_conversations(prompts)
        total = (self._profile.runs + other._profile.runs) * repeats
        pair = secrets.token_hex(8)
        with (
            progress_bar(model_name, total, shown=self._progress) as advance,
            self._opened(model_name, conversations, self._load, advance) as own,
            other._opened(
                other_model_name or model_name, conversations, other._load, advance
            ) as beside,
        ):
            for number in range(repeats):
                turns = (own, beside) if number % 2 == 0 else (beside, own)
                if not all(each.series.make(number) for each in turns):
                    break
            if not (own.series.runs and beside.series.runs):
                raise KeyboardInterrupt
            return self._results(own, pair), other._results(beside, pair)

    def sweep(
        self,
        model_name: str,
        prompts: Iterable[Prompt] | str,
        *,
        concurrencies: Sequence[int] = (),
        rates: Sequence[float] = (),
    ) -> SweepResults:
        """Measure at one load after the other, to find where more load brings no more throughput.

        Args:
            model_name: the model to ask for.
            prompts: as for `run`.
            concurrencies: how many requests are always under way; or
            rates: arrivals per second.

        Raises:
            BenchmarkError: not one warm-up request was answered.
        """
        from llamatelemetry.bench.sweep import SweepPoint, SweepResults

        if bool(concurrencies) == bool(rates):
            raise ValueError("a sweep needs either concurrencies or rates")
        conversations = as_conversations(prompts)
        arrival = self._load.arrival
        loads = [Load(each) for each in concurrencies] or [
            Load(self._load.concurrency, each, arrival) for each in rates
        ]
        points: list[SweepPoint] = []
        for load, level in zip(loads, [*concurrencies, *rates], strict=True):
            results = self._measure(model_name, conversations, 1, load)
            points.append(SweepPoint(float(level), results))
            if results.runs[-1].interrupted:
                break
        return SweepResults("rate" if rates else "concurrency", tuple(points))

    def _measure(
        self, model: str, conversations: list[Conversation], repeats: int, load: Load
    ) -> BenchmarkResults:
        total = self._profile.runs * repeats
        with (
            progress_bar(model, total, shown=self._progress) as advance,
            self._opened(model, conversations, load, advance) as opened,
        ):
            for run in range(repeats):
                if not opened.series.make(run):
                    break
            return self._results(opened)

    @contextmanager
    def _opened(
        self,
        model: str,
        conversations: list[Conversation],
        load: Load,
        advance: Callable[[RequestRecord], None],
    ) -> Generator[_Opened]:
        """Open the target and warm it up."""
        target = make_target(self._client)
        with LoopThread() as loop, GpuMeter(target.server) as gpus:
            try:
                session = Session(loop, target, self._instrumenter.get(), advance, gpus)
                warnings = environment.warnings_before(target.facts, load)
                session.warm_up(self._warm_up_plan(target, model, conversations, load))
                plan = partial(self._plan, model, conversations, load)
                series = Series(session, plan, warnings)
                yield _Opened(model, conversations, load, target.facts, gpus.names, series)
            finally:
                loop.do(target.close())

    def _results(self, opened: _Opened, pair: str | None = None) -> BenchmarkResults:
        series, load, facts = opened.series, opened.load, opened.facts
        exact = facts.ignores_eos
        found = doubts(series.records, load, is_cold=self._is_cold, wants_exact=not exact)
        return BenchmarkResults(
            model=opened.model,
            settings=self._settings(load, exact) | ({} if pair is None else {PAIR: pair}),
            fingerprint=environment.fingerprint(
                facts, opened.conversations, load, opened.gpus, self._conditions(opened.model)
            ),
            environment=environment.machine(),
            requests=sorted(series.records, key=lambda record: (record.run, record.index)),
            runs=series.runs,
            slo=self._slo,
            warnings=list(dict.fromkeys([*series.warnings, *found])),
        )

    def _plan(
        self, model: str, conversations: Sequence[Conversation], load: Load, run: int
    ) -> Plan:
        planned = list(in_turn(conversations, self._profile.runs))
        due = arrival_times(load, len(planned), self._seed + run)
        talks: list[Talk] = []
        index = 0
        for (prompt, turns), due_s in zip(planned, due, strict=True):
            talks.append(Talk(prompt, turns, due_s, index))
            index += turns
        return Plan(
            run=run,
            model=model,
            conversations=conversations,
            talks=talks,
            load=load,
            max_tokens=self._max_tokens,
            cold=self._is_cold,
            seed=self._seed,
            keep_prompts=self._record_prompts,
        )

    def _warm_up_plan(
        self, target: Target, model: str, conversations: Sequence[Conversation], load: Load
    ) -> Plan:
        """At least one request in each slot; of a warm cache, each prompt that will be asked."""
        slots = target.facts.slots or load.concurrency
        count = max(self._profile.warmup, slots)
        if not self._is_cold:
            count = max(count, min(len(conversations), self._profile.runs))
        talks = [Talk(number % len(conversations), 1, 0.0, number) for number in range(count)]
        plan = self._plan(model, conversations, Load(slots), -1)
        return replace(plan, talks=talks, keep_prompts=False)

    @property
    def _cache(self) -> str:
        return "cold" if self._is_cold else "warm"

    def _settings(self, load: Load, exact: bool) -> dict[str, Any]:
        return {
            "profile": self._profile.name,
            "warmup": self._profile.warmup,
            "runs": self._profile.runs,
            **load.describe(),
            "load_text": str(load),
            "max_tokens": self._max_tokens,
            "cache": self._cache,
            "seed": self._seed,
            "ignore_eos": exact,
        }

    def _conditions(self, model: str) -> dict[str, Any]:
        return {"model": model, "max_tokens": self._max_tokens, "cache": self._cache}
