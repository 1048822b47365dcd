"""Base of the delegating providers: objects whose underlying SDK object can be replaced."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from llamatelemetry.otel.process.forking import ForkSafeLock

_logger = logging.getLogger("llamatelemetry.otel.providers")

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)


class Delegating(Protocol[S_contra]):
    """An object that the application obtains once and that uses the most recent delegate."""

    def set_delegate(self, source: S_contra) -> None:
        """Use what `source` creates from now on."""
        ...


F = TypeVar("F", bound=Delegating[Any])


class Delegate:
    """Look up missing attributes on the underlying SDK object."""

    def __getattr__(self, name: str) -> Any:
        real = vars(self).get("_real")
        # Copying and pickling look for special methods, which must not be those of the SDK object.
        if real is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(real, name)


class DelegateRegistry(Generic[S, F]):
    """The delegating objects of one source, by key. Each is created once.

    The lock is never held while the SDK is called. The SDK holds its own locks while it runs
    the callbacks of observable instruments, and a callback may obtain a tracer or an
    instrument. Holding both locks could cause a deadlock.
    """

    def __init__(self, source: S) -> None:
        self.source = source
        self._kept: dict[Hashable, F] = {}
        self._weak: WeakValueDictionary[Hashable, F] = WeakValueDictionary()

    def get(self, key: Hashable, create: Callable[[S], F], *, keep: bool) -> F:
        """Return the delegating object of a key, or create it. Exceptions reach the caller.

        With `keep`, the object stays alive without other references to it.
        """
        items: MutableMapping[Hashable, F] = self._kept if keep else self._weak
        with _lock.held():
            found = items.get(key)
        if found is not None:
            return found
        source = self.source
        created = create(source)
        with _lock.held():
            registered = items.setdefault(key, created)
        if registered is created and self.source is not source:
            self._update(registered)
        return registered

    def set_delegate(self, source: S) -> S:
        """Move every delegating object to `source`. Return the previous source."""
        with _lock.held():
            before, self.source = self.source, source
            registered = [*self._kept.values(), *self._weak.values()]
        for each in registered:
            self._update(each)
        return before

    def _update(self, registered: F) -> None:
        # Two threads may update one object with two sources. The thread that updated it last
        # compares again, so that the object never keeps the older source.
        source = None
        while source is not self.source:
            source = self.source
            registered.set_delegate(source)


_lock = ForkSafeLock()


class SdkProvider(Protocol):
    """The methods that the SDK providers of all signals have in common."""

    def force_flush(self, timeout_millis: int = ...) -> bool:
        """Export buffered telemetry."""
        ...

    def shutdown(self) -> None:
        """Flush and stop."""
        ...


P = TypeVar("P", bound=SdkProvider)


class DelegatingProvider(Delegate, Generic[P, F]):
    """A provider that outlives its underlying SDK provider, as do the objects obtained from it.

    Without an SDK provider, it uses the API's no-op provider.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Forward the private methods of the SDK's class to the underlying SDK provider.

        OpenTelemetry's own packages call some of them on the global provider. Inherited, they
        would run on an object whose constructor was skipped.
        """
        super().__init_subclass__(**kwargs)
        inherited = [base for base in cls.__mro__ if base.__module__.startswith("opentelemetry.")]
        for base in inherited:
            for name, value in vars(base).items():
                if inspect.isfunction(value) and name.startswith("_") and name[:2] != "__":
                    setattr(cls, name, _forwarder(name))

    def __init__(self, no_op: Any) -> None:
        # Skips the SDK's constructor, which would create a resource and an atexit handler.
        self._real: P | None = None
        self._no_op = no_op
        self._registry = DelegateRegistry[Any, F](no_op)

    @property
    def sdk(self) -> P | None:
        """The underlying SDK provider, if any."""
        return self._real

    def attach(self, provider: P) -> None:
        """Delegate to an SDK provider from now on."""
        self._real = provider
        self._registry.set_delegate(provider)

    def detach(self) -> P | None:
        """Stop delegating. Return the SDK provider, still running: open spans end on it."""
        real, self._real = self._real, None
        self._registry.set_delegate(self._no_op)
        return real

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the underlying SDK provider. Return `True` if there is none."""
        real = self._real
        return real.force_flush(timeout_millis) if real else True

    def shutdown(self) -> None:
        """Shut the underlying SDK provider down. `init()` can attach another one."""
        if real := self.detach():
            real.shutdown()

    def _sdk_for(self, added: object) -> P | None:
        real = self._real
        if real is None:
            _logger.warning(
                "Cannot add %r: OpenTelemetry is not set up. Call llamatelemetry.init() first",
                added,
            )
        return real


def _forwarder(name: str) -> Callable[..., Any]:
    def forward(self: DelegatingProvider[Any, Any], *args: Any, **kwargs: Any) -> Any:
        real = self.sdk
        return None if real is None else getattr(real, name)(*args, **kwargs)

    forward.__name__ = name
    return forward
