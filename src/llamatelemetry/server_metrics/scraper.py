"""Scrape servers once a second, in one process per host and service."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import defaultdict
from contextlib import ExitStack
from time import monotonic, thread_time, time
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)

from llamatelemetry.genai import internal_errors
from llamatelemetry.otel.process.deadline import Deadline
from llamatelemetry.otel.process.leader_election import LeaderElection
from llamatelemetry.semconv import attributes as names
from llamatelemetry.server_metrics.instruments import ModelSample, sources
from llamatelemetry.server_metrics.reader import ServerReader
from llamatelemetry.server_metrics.scrape import ModelScrape, ScrapeError, ServerScrape
from llamatelemetry.server_metrics.target import api_key_from_environment, parse_target
from llamatelemetry.server_metrics.totals import ModelTotals, totals_from_json, totals_to_json
from llamatelemetry.server_metrics.vocabulary import FIGURES, key_of, split_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.util.types import AttributeValue

    from llamatelemetry.server_metrics.exposition import Group
    from llamatelemetry.server_metrics.target import ScrapeTarget

_logger = logging.getLogger("llamatelemetry.server_metrics")

_INTERVAL_S: Final = 1.0
# Servers with many engines have metrics of several megabytes, whose parsing takes the interpreter's
# lock. Such servers are scraped less often.
_MAX_CPU_SHARE: Final = 0.02
_LONGEST_INTERVAL_S: Final = 10.0
# The longest pause between attempts while a server cannot be scraped.
_MAX_INTERVAL_S: Final = 3.0
# Older samples are not reported.
_FRESH_S: Final = 15.0
# Totals that another process saved are taken over within this time.
_TAKEOVER_S: Final = 30.0
_MAX_GROUPS: Final = 256
_KV_CACHE_USAGE: Final = "kv_cache_usage"
_FIGURES: Final = frozenset(figure.name for figure in FIGURES)


class ServerMetrics:
    """Report the metrics of servers, from `start()` to `stop()`.

    The instruments belong to OpenTelemetry's API, so they work with any SDK. Each server has its
    own thread. It scrapes only in the leader among the service's processes, and waits in the
    others. A forked child starts its own threads.

    The lock file of the election and the saved totals are in `directory`. `is_delta` means that the
    exporter uses delta temporality. Counts from before the first scrape are then left out, because
    they are not an increase.
    """

    def __init__(
        self,
        urls: Sequence[str],
        service: str,
        *,
        meter_provider: MeterProvider | None = None,
        directory: Path | None = None,
        is_delta: bool = False,
    ) -> None:
        key = api_key_from_environment()
        found = [parse_target(url, key) for url in urls]
        targets = {f"{each.base_url} {each.model or ''}": each for each in found}
        # Processes with other servers have an election of their own.
        election = f"server-metrics-{_digest(*sorted(targets))}"
        self._election = LeaderElection(election, service, directory=directory)
        self._pollers = [Poller(each, self._election, is_delta) for each in targets.values()]
        self._provider = meter_provider
        _instances.add(self)

    def start(self) -> None:
        """Start the threads. The first samples are available a moment later."""
        sources.add(self, self._provider or metrics.get_meter_provider())
        for poller in self._pollers:
            poller.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Stop reporting and give up the leadership. Return `False` if a thread is still running."""
        sources.remove(self)
        for poller in self._pollers:
            poller.request_stop()
        deadline = Deadline(timeout_s)
        ended = [poller.join(deadline.remaining_s) for poller in self._pollers]
        self._election.release()
        return all(ended)

    def model_samples(self) -> Iterable[ModelSample]:
        """Yield the current samples of every model; none in a process that is not the leader."""
        for poller in self._pollers:
            yield from poller.model_samples()

    def servers(self) -> Iterable[tuple[Mapping[str, AttributeValue], bool]]:
        """Yield the attributes of each server, and whether its last scrape succeeded."""
        for poller in self._pollers:
            if poller.is_up is not None:
                yield poller.attributes, poller.is_up

    def after_fork(self) -> None:
        """Discard the parent's state in a forked child, and start new threads."""
        for poller in self._pollers:
            poller.after_fork()


class Poller:
    """A thread that scrapes one server, and the totals of its models."""

    def __init__(self, target: ScrapeTarget, election: LeaderElection, is_delta: bool) -> None:
        self._target = target
        self._election = election
        self._is_delta = is_delta
        self._initialize()

    def _initialize(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reset()
        self._problem: str | None = None

    def _reset(self) -> None:
        self._reader = ServerReader(self._target)
        self._totals: dict[Group, ModelTotals] | None = None
        self._baseline: dict[Group, dict[str, float]] | None = None
        self._provider: str | None = None
        self._is_up: bool | None = None
        self._saved: str | None = None
        self._slept: set[str | None] = set()
        self._samples: tuple[ModelSample, ...] = ()
        self._scraped_at = 0.0
        self._pause_s = _INTERVAL_S

    @property
    def is_up(self) -> bool | None:
        """Whether the last scrape succeeded; `None` in a process that does not scrape."""
        is_fresh = monotonic() - self._scraped_at <= _FRESH_S
        return None if self._is_up is None or self._stop.is_set() else self._is_up and is_fresh

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """Attributes of the server. The provider is known after the first scrape."""
        provider = {} if self._provider is None else {names.GEN_AI_PROVIDER_NAME: self._provider}
        return {**self._target.attributes, **provider}

    def start(self) -> None:
        """Start the thread unless it is running."""
        if self._thread is None:
            name = "llamatelemetry-server-metrics"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # Out of threads, or the interpreter is shutting down.
                _logger.warning("Cannot scrape metrics from %s: %s", self._target.base_url, error)
            else:
                self._thread = thread

    def request_stop(self) -> None:
        """Make the thread end. The result of a running scrape is not reported."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread. Return `False` if it is still waiting for a response of the server."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                return False
        self._initialize()
        return True

    def after_fork(self) -> None:
        """Start a new thread in a forked child, if one ran in the parent."""
        ran = self._thread is not None and not self._stop.is_set()
        self._initialize()
        if ran:
            self.start()

    def model_samples(self) -> tuple[ModelSample, ...]:
        """Return the samples of the last scrape; none if it is too old."""
        if self._stop.is_set() or monotonic() - self._scraped_at > _FRESH_S:
            return ()
        return self._samples

    def _run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(suppress_instrumentation())
            stack.enter_context(suppress_http_instrumentation())
            while not self._stop.is_set():
                self._scrape_once()
                self._stop.wait(self._pause_s)
        # Needed in addition to `stop()`, which may return before the thread gets elected.
        self._election.release()

    def _scrape_once(self) -> None:
        try:
            if not self._election.is_leader():
                self._reset()
                return
            if self._totals is None:
                self._totals = self._load_totals()
            started = thread_time()
            scrape = self._reader.scrape()
            cpu_s = thread_time() - started
            self._pause_s = min(max(_INTERVAL_S, cpu_s / _MAX_CPU_SHARE), _LONGEST_INTERVAL_S)
            self._log_problem(None)
            self._update(scrape, self._totals)
        except ScrapeError as error:
            self._scrape_failed(str(error), needs_action=error.needs_action)
        except Exception as error:
            self._scrape_failed("cannot parse its response", needs_action=True)
            internal_errors.log_once("scraping a server's metrics", error)

    def _update(self, scrape: ServerScrape, totals: dict[Group, ModelTotals]) -> None:
        self._slept |= scrape.asleep
        loaded = {group: each.totals() for group, each in totals.items()}
        fresh = {each.group: each for each in scrape.awake}
        for group, each in fresh.items():
            if group in totals or len(totals) < _MAX_GROUPS:
                slept = group.model in self._slept
                is_new = group not in totals
                group_totals = totals.setdefault(group, ModelTotals())
                group_totals.update(each.counters, each.process_start, slept=slept)
                if is_new and slept and self._baseline is not None and self._is_delta:
                    # It was asleep at the first scrape, which its counts are from before.
                    self._baseline[group] = group_totals.totals()
        self._slept -= {group.model for group in fresh}
        if self._baseline is None:
            # The counts before the first scrape, or the totals that another process saved.
            baseline = {group: each.totals() for group, each in totals.items()} | loaded
            self._baseline = baseline if self._is_delta else {}
        self._provider, self._is_up = scrape.engine.provider, True
        # A removed model keeps its totals, because the sum over all models must not decrease.
        models = dict.fromkeys(group._replace(replica="") for group in totals)
        self._samples = tuple(self._sample_of(model, totals, fresh) for model in models)
        self._scraped_at = monotonic()
        self._save(totals)

    def _sample_of(
        self,
        model: Group,
        totals: Mapping[Group, ModelTotals],
        fresh: Mapping[Group, ModelScrape],
    ) -> ModelSample:
        """Return the sample of one model over all its replicas."""
        replicas = [group for group in totals if group._replace(replica="") == model]
        counters: dict[str, float] = defaultdict(float)
        for group in replicas:
            baseline = (self._baseline or {}).get(group, {})
            for name, value in totals[group].totals().items():
                counters[name] += value - baseline.get(name, 0.0)
        scrapes = [fresh[group] for group in replicas if group in fresh]
        gauges = _merge_gauges(scrapes)
        figures: dict[str, list[tuple[float, str]]] = defaultdict(list)
        for key, value in (counters | gauges).items():
            figure, detail = split_key(key)
            if figure in _FIGURES:
                figures[figure].append((value, detail))
        slots = scrapes[0].slots if scrapes else None
        attributes = {**self._target.attributes, names.GEN_AI_PROVIDER_NAME: model.provider}
        return ModelSample(attributes, model.model, counters, gauges, slots, figures)

    def _scrape_failed(self, reason: str, *, needs_action: bool) -> None:
        self._is_up, self._samples = False, ()
        self._pause_s = min(self._pause_s * 2, _MAX_INTERVAL_S)
        self._log_problem(reason, needs_action=needs_action)

    def _log_problem(self, problem: str | None, *, needs_action: bool = False) -> None:
        """Log one line if the problem has changed; `None` means that scraping works."""
        last, self._problem = self._problem, problem
        if problem == last or self._stop.is_set():
            return
        url = self._target.base_url
        if problem is None:
            _logger.info("Scraping metrics from %s again", url)
        else:
            # The first failure of an outage is a warning, because no metrics arrive during it.
            is_warning = needs_action or last is None
            level = logging.WARNING if is_warning else logging.INFO
            text = "Cannot scrape metrics from %s (%s); retrying"
            _logger.log(level, text, url, problem)

    @property
    def _file(self) -> Path | None:
        """File with the totals for the process that takes over."""
        lock = self._election.path
        if lock is None:
            return None
        target = _digest(self._target.base_url, self._target.model or "")
        return lock.with_name(f"{lock.stem}-{target}.json")

    def _load_totals(self) -> dict[Group, ModelTotals]:
        """Return the totals that another process saved, unless they are too old to continue."""
        file = self._file
        try:
            if file is None or time() - file.stat().st_mtime > _TAKEOVER_S:
                return {}
            return totals_from_json(json.loads(file.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return {}

    def _save(self, totals: Mapping[Group, ModelTotals]) -> None:
        file, text = self._file, json.dumps(totals_to_json(totals))
        if file is None:
            return
        try:
            if text == self._saved:
                os.utime(file)
                return
            new = file.with_suffix(".new")
            new.write_text(text)
            new.replace(file)
            self._saved = text
        except OSError as error:
            self._saved = None
            _logger.debug(
                "Cannot write %s: %s. The next process starts with new totals", file, error
            )


def _merge_gauges(scrapes: Sequence[ModelScrape]) -> dict[str, float]:
    """Return the sums over the replicas of a model. Fractions are kept apart by replica."""
    gauges: dict[str, float] = defaultdict(float)
    fractions = [each for each in scrapes if _KV_CACHE_USAGE in each.gauges]
    for each in scrapes:
        for name, value in each.gauges.items():
            replica = each.group.replica if len(fractions) > 1 else ""
            gauges[key_of(name, replica) if name == _KV_CACHE_USAGE else name] += value
    return dict(gauges)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="backslashreplace")).hexdigest()[:12]


_instances: Final[WeakSet[ServerMetrics]] = WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_instances):
        each.after_fork()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
