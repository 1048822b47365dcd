"""Scrape one server: find out which engine it is, and read its metrics as that engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llamatelemetry._limits import Limit
from llamatelemetry.server_metrics.engines import ENGINES
from llamatelemetry.server_metrics.exposition import find_engine, read_figures, read_process_start
from llamatelemetry.server_metrics.llama_cpp import LlamaCppReader
from llamatelemetry.server_metrics.scrape import ModelScrape, ScrapeError, ServerScrape, get

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamatelemetry.server_metrics.target import ScrapeTarget

_METRICS: Final = "/metrics"
_ENDED: Final = Limit("ended_servers", 64, "Ended processes of a scraped server")
# Scrapes that one process must answer after another one did: a minute or less. A rolling update
# ends so, while servers behind a load balancer go on to answer in turn.
_SETTLED: Final = 20


class ServerReader:
    """Scraper of one server.

    A llama.cpp server is recognized by `/props`, which is requested first, because `/metrics` may
    keep its model from falling asleep. All other servers are recognized by the names of their
    metrics at each scrape. The API key is sent only to a server that rejects requests without it.
    After a failure, another server may answer.
    """

    def __init__(self, target: ScrapeTarget) -> None:
        self._given = target
        self._use(target)
        self._process_starts: dict[str | None, str | None] = {}
        self._ended: dict[tuple[str | None, str | None], None] = {}
        self._unsettled = 0

    def scrape(self) -> ServerScrape:
        """Scrape the server once.

        Raises:
            ScrapeError: The server cannot be scraped, for example while it loads a model.
        """
        try:
            return self._scrape()
        except ScrapeError as error:
            if error.status == 401 and self._target.api_key is not None:
                self._use(self._target.with_key())
                return self.scrape()
            self._use(self._given)
            raise

    def _use(self, target: ScrapeTarget) -> None:
        """Continue with this target, whose server is not known."""
        self._target = target
        self._llama_cpp = LlamaCppReader(target)
        self._is_llama_cpp: bool | None = None

    def _scrape(self) -> ServerScrape:
        if self._is_llama_cpp is False:
            return self._scrape_other()
        return self._scrape_unknown()

    def _scrape_unknown(self) -> ServerScrape:
        try:
            props = self._llama_cpp.props()
        except ScrapeError as error:
            if not error.needs_action or self._is_llama_cpp:
                raise
            scrape = self._scrape_other(error)
            self._is_llama_cpp = False
            return scrape
        self._is_llama_cpp = True
        scrape = self._llama_cpp.scrape(props)
        # The models of a router have a process each.
        self._check_processes({each.group.model: each.process_start for each in scrape.awake})
        return scrape

    def _scrape_other(self, props_error: ScrapeError | None = None) -> ServerScrape:
        try:
            text = get(self._target, _METRICS)[0].decode(errors="replace")
        except ScrapeError as error:
            if props_error is not None and props_error.status == 401:
                raise props_error from None
            raise error
        engine = find_engine(text)
        if engine is None:
            known = ", ".join(each.title for each in ENGINES)
            reason = f"{_METRICS} has no metrics of a known engine ({known})"
            raise ScrapeError(reason, needs_action=True)
        start = read_process_start(text)
        self._check_processes({None: start})
        scrapes = (
            ModelScrape(group, start, values.counters, values.gauges)
            for group, values in read_figures(engine, text).items()
        )
        return ServerScrape(tuple(scrapes), engine)

    def _check_processes(self, starts: Mapping[str | None, str | None]) -> None:
        """Raise if several processes answer in turn: their counters have no common total.

        Args:
            starts: Process start of each model, or of the whole server under `None`.
        """
        if self._ended.keys() & starts.items():
            self._unsettled = _SETTLED
        else:
            for model, start in starts.items():
                last = self._process_starts.get(model, start)
                if last is not None and last != start:
                    self._ended[model, last] = None
                    _ENDED.trim(self._ended)
            self._process_starts = {**starts}
            self._unsettled = max(self._unsettled - 1, 0)
        if self._unsettled:
            reason = "several servers answer in turn: give the URL of each one"
            raise ScrapeError(reason, needs_action=True)
