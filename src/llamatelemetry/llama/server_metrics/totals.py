"""Totals that never go back, whatever happens to the server that counts.

A server counts from 0 when it is started again. What it had counted in its earlier lives is
added, as far as it was seen: what happened between the last reading and the end of a life is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llamatelemetry.genai import as_dict, as_float, as_str

if TYPE_CHECKING:
    from collections.abc import Mapping

_COUNTER: Final = "_total"


class ModelTotals:
    """What the servers of one model have counted, at one address, in all their lives."""

    def __init__(self) -> None:
        self._life: str | None = None
        self._now: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def take(self, samples: Mapping[str, float], life: str | None, *, slept: bool = False) -> None:
        """Take in a reading.

        Args:
            samples: counters among other things, by name.
            life: differs between the lives of a server, where it is known. Not every build has
                the same counters, and a life that is long enough gets past an earlier one's.
            slept: the model has been unloaded and loaded since. Some builds call that a new
                life, and count on.
        """
        now = {name: value for name, value in samples.items() if _COUNTER in name}
        is_other = life is not None and self._life is not None and life != self._life
        went_back = any(now.get(name, value) < value for name, value in self._now.items())
        if went_back or (is_other and not slept):
            for name, value in self._now.items():
                self._before[name] = self._before.get(name, 0.0) + value
            self._now = {}
        self._now |= now
        self._life = life

    def totals(self) -> dict[str, float]:
        """Every counter's total, by the server's name for it."""
        names = self._before.keys() | self._now.keys()
        return {name: self._before.get(name, 0.0) + self._now.get(name, 0.0) for name in names}

    def to_json(self) -> dict[str, Any]:
        """As the process that comes after this one reads it."""
        return {"life": self._life, "now": self._now, "before": self._before}

    @classmethod
    def from_json(cls, data: Any) -> ModelTotals:
        """Read what a process before this one has left; anything else gives empty totals."""
        totals = cls()
        found = as_dict(data)
        totals._life = as_str(found.get("life"))
        totals._now = _numbers(found.get("now"))
        totals._before = _numbers(found.get("before"))
        return totals


def _numbers(data: Any) -> dict[str, float]:
    return {
        name: value
        for name, given in as_dict(data).items()
        if (value := as_float(given)) is not None and value >= 0
    }
