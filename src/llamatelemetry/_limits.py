"""Limits on what this process keeps: each cache, map and queue has one, with a count of drops.

`docs/reference/limits.md` lists them.
"""

from __future__ import annotations

import os
import threading
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


class _Counting:
    """The lock of all counts and deques, held for single steps only.

    It is reentrant, because a signal handler or a finalizer can count in the middle of a count. A
    forked child has a new one, because a thread of the parent may have held it.
    """

    lock = threading.RLock()

    @classmethod
    def renew_lock(cls) -> None:
        cls.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Counting.renew_lock)


class Count:
    """A number that all threads add to, also without a global interpreter lock."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, number: int = 1) -> None:
        """Add a number."""
        with _Counting.lock:
            self.value += number

    def take(self) -> int:
        """Return the number, and start from zero."""
        with _Counting.lock:
            value, self.value = self.value, 0
        return value


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
        self._dropped = Count()
        self._caches: list[Cached[Any, Any]] = []
        LIMITS[name] = self

    @property
    def dropped(self) -> int:
        """Number of entries that were dropped, or not added, in this process."""
        infos = [each.cache_info() for each in self._caches]
        # Two threads may compute the same result, so a cache with room counts as without drops.
        full = [info for info in infos if info.currsize >= self.most]
        return self._dropped.value + sum(info.misses - info.currsize for info in full)

    def drop(self, count: int = 1) -> None:
        """Count dropped entries."""
        self._dropped.add(count)

    def trim(self, entries: MutableMapping[Any, Any]) -> None:
        """Drop the oldest entries beyond the limit. Call it when an entry was added."""
        while len(entries) > self.most:
            # Atomic steps instead of a lock, which the code that a signal handler or a finalizer
            # interrupts could hold. Another thread may drop the same entry.
            with suppress(KeyError, RuntimeError, StopIteration):
                del entries[next(iter(entries))]
                self._dropped.add()

    def empty(self, entries: MutableMapping[Any, Any]) -> None:
        """Drop all entries, one by one: another thread may add some at the same time."""
        with suppress(KeyError):
            while True:
                entries.popitem()
                self._dropped.add()

    def append(self, ring: deque[T], entry: T) -> None:
        """Append to a deque of this maximum length."""
        with _Counting.lock:
            if len(ring) >= self.most:
                self._dropped.add()
            ring.append(entry)

    def copy(self, ring: deque[T]) -> list[T]:
        """Return the entries of a deque that other threads may append to.

        In a free-threaded Python, not even `deque.copy` is atomic.
        """
        with _Counting.lock:
            return list(ring)

    def has_room(self, entries: Sized) -> bool:
        """Return whether an entry may be added. Count it as dropped otherwise."""
        if len(entries) < self.most:
            return True
        self._dropped.add()
        return False

    def cached(self, function: Callable[P, R]) -> Cached[P, R]:
        """Cache the results of a function. The rule is then `LEAST_USED`."""
        self.rule = LEAST_USED
        cached: Any = lru_cache(maxsize=self.most)(function)
        self._caches.append(cached)
        return cached


LIMITS: Final[dict[str, Limit]] = {}
"""The limits of all imported modules, by name."""
