"""Limits on what this process keeps: each cache, map and queue has one, with a count of drops.

`docs/reference/limits.md` lists them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableMapping, Sized
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

OLDEST: Final = "drops the oldest"
LEAST_USED: Final = "drops the least recently used"
EMPTIED: Final = "drops all"
REJECTS: Final = "does not add more"


class Cached(Protocol[P, R_co]):
    """A function with a cache of its results."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the result, from the cache if it is there."""
        ...

    def cache_clear(self) -> None:
        """Remove all results."""
        ...

    def cache_info(self) -> Any:
        """Return hits, misses, maximum size and current size."""
        ...


class Limit:
    """The limit of one kind of cache, map or queue.

    Args:
        name: Name in the metric `llamatelemetry.limit.dropped`.
        most: Number of entries that are kept.
        entries: Description of the entries, for the documentation.
        rule: What happens to an entry beyond the limit.
    """

    def __init__(self, name: str, most: int, entries: str, rule: str = OLDEST) -> None:
        self.name = name
        self.most = most
        self.entries = entries
        self.rule = rule
        self._dropped = 0
        self._caches: list[Cached[Any, Any]] = []
        LIMITS[name] = self

    @property
    def dropped(self) -> int:
        """Number of entries that were dropped, or not added, in this process."""
        infos = [each.cache_info() for each in self._caches]
        return self._dropped + sum(info.misses - info.currsize for info in infos)

    def drop(self, count: int = 1) -> None:
        """Count dropped entries. Without a lock, which a signal handler would wait for."""
        self._dropped += count

    def trim(self, entries: MutableMapping[Any, Any]) -> None:
        """Drop the oldest entries beyond the limit. Call it when an entry was added."""
        while len(entries) > self.most:
            # Atomic steps instead of a lock, which the code that a signal handler or a finalizer
            # interrupts could hold. Another thread may drop the same entry.
            with suppress(KeyError, RuntimeError, StopIteration):
                del entries[next(iter(entries))]
                self._dropped += 1

    def append(self, ring: deque[T], entry: T) -> None:
        """Append to a deque of this maximum length."""
        self._dropped += len(ring) >= self.most
        ring.append(entry)

    def has_room(self, entries: Sized) -> bool:
        """Return whether an entry may be added. Count it as dropped otherwise."""
        if len(entries) < self.most:
            return True
        self._dropped += 1
        return False

    def cached(self, function: Callable[P, R]) -> Cached[P, R]:
        """Cache the results of a function. The rule is then `LEAST_USED`."""
        self.rule = LEAST_USED
        cached: Any = lru_cache(maxsize=self.most)(function)
        self._caches.append(cached)
        return cached


LIMITS: Final[dict[str, Limit]] = {}
"""The limits of all imported modules, by name."""
