"""Facade objects that follow a replaceable source: what every stable provider is built on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class Facade(Protocol[S_contra]):
    """An object given to the application once, which works on whatever it follows last."""

    def follow(self, source: S_contra) -> None:
        """Works on what `source` makes from now on."""
        ...


F = TypeVar("F", bound=Facade[Any])


class Delegate:
    """What the facade itself does not have is looked up on the real object behind it."""

    def __getattr__(self, name: str) -> Any:
        real = vars(self).get("_real")
        # Copying and pickling ask for special methods that must not be the real object's.
        if real is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(real, name)


class Followers(Generic[S, F]):
    """The facades of one source, by key: each is made once and bound anew with the source.

    The lock is never held while the SDK is called. The SDK holds its own locks while it runs
    the callbacks of observable instruments, and a callback may ask for a tracer or an
    instrument: holding both would invite a deadlock.
    """

    def __init__(self, source: S) -> None:
        self.source = source
        self._kept: dict[Hashable, F] = {}
        self._weak: WeakValueDictionary[Hashable, F] = WeakValueDictionary()

    def get(self, key: Hashable, make: Callable[[S], F], *, keep: bool) -> F:
        """The facade of the key, made and bound if it is new.

        Args:
            key: what tells facades apart.
            make: makes the facade; what it raises goes to the caller.
            keep: whether the facade lives on when nobody refers to it any more.
        """
        items: MutableMapping[Hashable, F] = self._kept if keep else self._weak
        with _lock.held():
            found = items.get(key)
        if found is not None:
            return found
        source = self.source
        made = make(source)
        with _lock.held():
            facade = items.setdefault(key, made)
        if facade is made and self.source is not source:
            self._bind(facade)
        return facade

    def follow(self, source: S) -> S:
        """Binds every facade to `source`; returns the source before."""
        with _lock.held():
            before, self.source = self.source, source
            facades = [*self._kept.values(), *self._weak.values()]
        for facade in facades:
            self._bind(facade)
        return before

    def _bind(self, facade: F) -> None:
        # Two threads may bind the same facade to two sources. Whoever bound it last looks
        # again, so that the facade never stays with the older one.
        source = None
        while source is not self.source:
            source = self.source
            facade.follow(source)


class _ForkSafeLock:
    """A lock that a forked child gets unlocked, whichever thread held it in the parent."""

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def held(self) -> threading.Lock:
        """The lock, to be used in a `with` statement."""
        return self._lock


_lock = _ForkSafeLock()
