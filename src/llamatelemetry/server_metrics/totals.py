"""Monotonic totals over the restarts of a server.

A server counts from 0 after a restart. The counts of its earlier processes are added, as far as
they were scraped. Counts between the last scrape and the end of a process are lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llamatelemetry.genai import as_dict, as_float, as_list, as_str
from llamatelemetry.server_metrics.exposition import Group

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModelTotals:
    """The totals of one model or replica at one address, over all server processes."""

    def __init__(self) -> None:
        self._process_start: str | None = None
        self._current: dict[str, float] = {}
        self._earlier: dict[str, float] = {}

    def update(
        self, counters: Mapping[str, float], process_start: str | None, *, slept: bool = False
    ) -> None:
        """Update the totals from a scrape.

        Args:
            counters: Counters by name.
            process_start: Opaque value that differs between server processes; `None` if unknown.
                Decreasing counters alone do not prove a restart: builds differ in their counters,
                and a new process may count past the earlier one.
            slept: Whether the model was unloaded and loaded again. Some builds then report a new
                process start but continue counting.
        """
        is_new_process = None not in (process_start, self._process_start) and (
            process_start != self._process_start
        )
        has_decreased = any(
            counters.get(name, value) < value for name, value in self._current.items()
        )
        if has_decreased or (is_new_process and not slept):
            for name, value in self._current.items():
                self._earlier[name] = self._earlier.get(name, 0.0) + value
            self._current = {}
        self._current |= counters
        self._process_start = process_start

    def totals(self) -> dict[str, float]:
        """Return the total of each counter."""
        names = self._earlier.keys() | self._current.keys()
        return {name: self._earlier.get(name, 0.0) + self._current.get(name, 0.0) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Return the state for the process that takes over the scraping."""
        return {
            "process_start": self._process_start,
            "current": self._current,
            "earlier": self._earlier,
        }

    @classmethod
    def from_json(cls, data: Any) -> ModelTotals:
        """Restore the state that another process saved. Invalid data yields empty totals."""
        totals = cls()
        state = as_dict(data)
        totals._process_start = as_str(state.get("process_start"))
        totals._current = _parse_counters(state.get("current"))
        totals._earlier = _parse_counters(state.get("earlier"))
        return totals


def _parse_counters(data: Any) -> dict[str, float]:
    return {
        name: value
        for name, given in as_dict(data).items()
        if (value := as_float(given)) is not None and value >= 0
    }


def totals_to_json(totals: Mapping[Group, ModelTotals]) -> list[Any]:
    """Return the state of all models and replicas for the process that takes over the scraping."""
    return [[*group, each.to_json()] for group, each in totals.items()]


def totals_from_json(data: Any) -> dict[Group, ModelTotals]:
    """Restore the state that another process saved. Invalid entries are ignored."""
    entries = [as_list(entry) for entry in as_list(data)]
    return {
        Group(provider, as_str(model), as_str(replica) or ""): ModelTotals.from_json(state)
        for provider, model, replica, state in (each for each in entries if len(each) == 4)
        if isinstance(provider, str)
    }
