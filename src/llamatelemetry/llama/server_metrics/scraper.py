"""Reading servers once a second, from one process of a host, for whoever collects metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from contextlib import ExitStack
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.instrumentation.utils import (
    suppress_http_instrumentation,
    suppress_instrumentation,
)

from llamatelemetry.genai import as_dict, internal_errors
from llamatelemetry.otel.deadline import Deadline
from llamatelemetry.otel.host_election import HostElection
from llamatelemetry.semconv import attributes as names

from .instruments import Figures, sources
from .reader import NotReadError, Reading, Readings, ServerReader
from .target import api_key_from_environment, target_of
from .totals import ModelTotals

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from opentelemetry.metrics import MeterProvider

    from .target import Target

_logger = logging.getLogger("llamatelemetry.llama")

_INTERVAL_S: Final = 1.0
_LONGEST_INTERVAL_S: Final = 3.0  # between two attempts at a server that is down
_FRESH_S: Final = 15.0
_SUCCESSION_S: Final = 30.0  # within which a process takes over the totals of another
_MODELS_AT_MOST: Final = 256


class ServerMetrics:
    """Reports what servers count, from `start()` to `stop()`.

    The instruments are of OpenTelemetry's API, so they work with any SDK. Each server is read by
    a thread of its own, in the one process that is elected among those of this service; in the
    others the thread waits for its turn. A forked child starts threads of its own.

    Args:
        urls: of the servers' `/metrics`.
        service: whose processes elect one; the resource's `service.name`.
        meter_provider: OpenTelemetry's global one when None.
        directory: for the lock file and the totals; as of `HostElection`.
        is_delta: the increase since the last collection is what is exported. What the server
            has counted before this process came is then no increase of ours: it is left out.
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
        found = [target_of(url, key) for url in urls]
        targets = {f"{each.base_url} {each.model or ''}": each for each in found}
        # Processes with other servers do not stand for these.
        office = f"llamacpp-metrics-{_digest(*sorted(targets))}"
        self._election = HostElection(office, service, directory=directory)
        self._pollers = [Poller(each, self._election, is_delta) for each in targets.values()]
        self._provider = meter_provider
        _running_here.add(self)

    def start(self) -> None:
        """Read from now on. Returns at once; the first figures are there a moment later."""
        sources.add(self, self._provider or metrics.get_meter_provider())
        for poller in self._pollers:
            poller.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Report nothing any more, and let another process read. False when a thread still runs."""
        sources.remove(self)
        for poller in self._pollers:
            poller.end()
        deadline = Deadline(timeout_s)
        ended = [poller.join(deadline.remaining_s) for poller in self._pollers]
        self._election.resign()
        return all(ended)

    def figures(self) -> Iterable[Figures]:
        """What is known now of every model; nothing in a process that is not elected."""
        for poller in self._pollers:
            yield from poller.figures()

    def after_fork(self) -> None:
        """In a forked child: forgets what the parent has read, and starts threads anew."""
        for poller in self._pollers:
            poller.after_fork()


class Poller:
    """Reads one server in a thread, and keeps the totals of its models."""

    def __init__(self, target: Target, election: HostElection, is_delta: bool) -> None:
        self._target = target
        self._election = election
        self._is_delta = is_delta
        self._new()

    def _new(self) -> None:
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._forget()
        self._trouble: str | None = None

    def _forget(self) -> None:
        self._reader = ServerReader(self._target)
        self._totals: dict[str | None, ModelTotals] | None = None
        self._not_ours: Mapping[str | None, Mapping[str, float]] | None = None
        self._saved: str | None = None
        self._slept: set[str | None] = set()
        self._figures: tuple[Figures, ...] = ()
        self._read_at = 0.0
        self._pause_s = _INTERVAL_S

    def start(self) -> None:
        """Start the thread unless it runs."""
        if self._thread is None:
            name = "llamatelemetry-server-metrics"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the thread end; what it reads now is not reported any more."""
        self._end.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end. False when it has not: it waits for a server's answer."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
            if thread.is_alive():
                return False
        self._new()
        return True

    def after_fork(self) -> None:
        """Start anew in a forked child, if it ran in the parent."""
        ran = self._thread is not None and not self._end.is_set()
        self._new()
        if ran:
            self.start()

    def figures(self) -> tuple[Figures, ...]:
        """What was read last; nothing when that was some time ago."""
        if self._end.is_set() or monotonic() - self._read_at > _FRESH_S:
            return ()
        return self._figures

    def _run(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(suppress_instrumentation())
            stack.enter_context(suppress_http_instrumentation())
            while not self._end.is_set():
                self._turn()
                self._end.wait(self._pause_s)
        # Here too: it may have been elected after `stop()` had given up waiting.
        self._election.resign()

    def _turn(self) -> None:
        try:
            if not self._election.is_elected():
                self._forget()
                return
            if self._totals is None:
                self._totals = self._restored()
            readings = self._reader.read()
            self._pause_s = _INTERVAL_S
            self._tell(None)
            self._take(readings, self._totals)
        except NotReadError as error:
            self._not_read(str(error), is_refusal=error.is_refusal)
        except Exception as error:
            self._not_read("its answer could not be read", is_refusal=True)
            internal_errors.log_once("reading a server's metrics", error)

    def _take(self, readings: Readings, totals: dict[str | None, ModelTotals]) -> None:
        self._slept |= readings.asleep
        not_ours = {model: each.totals() for model, each in totals.items()}
        fresh = {reading.model: reading for reading in readings.awake}
        for model, reading in fresh.items():
            if model in totals or len(totals) < _MODELS_AT_MOST:
                counted = totals.setdefault(model, ModelTotals())
                counted.take(reading.samples, reading.life, slept=model in self._slept)
        self._slept -= fresh.keys()
        if self._not_ours is None:
            # What was counted before the first reading, unless a process has left its totals.
            before = {model: each.totals() for model, each in totals.items()} | not_ours
            self._not_ours = before if self._is_delta else {}
        # A model that is not there any more keeps its totals, or their sum would go back.
        self._figures = tuple(
            self._figures_of(model, counted, fresh.get(model)) for model, counted in totals.items()
        )
        self._read_at = monotonic()
        self._save(totals)

    def _figures_of(
        self, model: str | None, totals: ModelTotals, reading: Reading | None
    ) -> Figures:
        attributes = dict(self._target.attributes)
        if model is not None:
            attributes[names.GEN_AI_RESPONSE_MODEL] = model
        before = (self._not_ours or {}).get(model, {})
        ours = {name: value - before.get(name, 0.0) for name, value in totals.totals().items()}
        if reading is None:
            return Figures(attributes, ours)
        return Figures(attributes, ours, reading.samples, reading.slots)

    def _not_read(self, reason: str, *, is_refusal: bool) -> None:
        self._figures = ()
        self._pause_s = min(self._pause_s * 2, _LONGEST_INTERVAL_S)
        self._tell(reason, is_refusal=is_refusal)

    def _tell(self, trouble: str | None, *, is_refusal: bool = False) -> None:
        """One line when it changes whether the server can be read, or why not."""
        before, self._trouble = self._trouble, trouble
        if trouble == before or self._end.is_set():
            return
        url = self._target.base_url
        if trouble is None:
            _logger.info("The metrics of the llama.cpp server at %s are read again", url)
        else:
            level = logging.WARNING if is_refusal else logging.INFO
            text = "The metrics of the llama.cpp server at %s are not read for now (%s)"
            _logger.log(level, text, url, trouble)

    @property
    def _file(self) -> Path | None:
        """Where the totals are, for the process that comes after this one."""
        lock = self._election.path
        if lock is None:
            return None
        target = _digest(self._target.base_url, self._target.model or "")
        return lock.with_name(f"{lock.stem}-{target}.json")

    def _restored(self) -> dict[str | None, ModelTotals]:
        """What the process before this one has left a moment ago: older totals are not ours."""
        file = self._file
        try:
            if file is None or time() - file.stat().st_mtime > _SUCCESSION_S:
                return {}
            found: Any = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return {
            model or None: ModelTotals.from_json(data) for model, data in as_dict(found).items()
        }

    def _save(self, totals: dict[str | None, ModelTotals]) -> None:
        data = {model or "": each.to_json() for model, each in totals.items()}
        file, text = self._file, json.dumps(data)
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
        except OSError as error:  # the totals then begin anew in the next process
            self._saved = None
            _logger.debug("%s cannot be written: %s", file, error)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="backslashreplace")).hexdigest()[:12]


_running_here: Final[WeakSet[ServerMetrics]] = WeakSet()


def _after_fork_in_child() -> None:
    for each in list(_running_here):
        each.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
