"""What the stable providers of all signals do alike: hand on to the SDK provider behind them."""

from __future__ import annotations

import logging
from typing import Any, Generic, Protocol, TypeVar

from opentelemetry.sdk.resources import Resource

from ._followers import Delegate, F, Followers

_logger = logging.getLogger("llamatelemetry.otel.providers")


class SdkProvider(Protocol):
    """What an SDK provider of any signal is able to."""

    def force_flush(self, timeout_millis: int = ...) -> bool:
        """Hand on what is held."""
        ...

    def shutdown(self) -> None:
        """Flush, and work no more."""
        ...


S = TypeVar("S", bound=SdkProvider)


class StableProvider(Delegate, Generic[S, F]):
    """A provider that outlives the SDK provider behind it, and so do the facades it has given.

    Args:
        nothing: the API's provider that is followed while there is no SDK.
    """

    def __init__(self, nothing: Any) -> None:
        # Not the SDK's, which would make a resource and an atexit handler.
        self._real: S | None = None
        self._nothing = nothing
        self._followers = Followers[Any, F](nothing)

    @property
    def sdk(self) -> S | None:
        """The SDK provider behind this one, if any."""
        return self._real

    def attach(self, provider: S) -> None:
        """Puts an SDK provider behind this one and all that it has given."""
        self._real = provider
        self._followers.follow(provider)

    def detach(self) -> S | None:
        """Takes the SDK provider away, running; spans that are open still end on it."""
        real, self._real = self._real, None
        self._followers.follow(self._nothing)
        return real

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flushes the SDK behind; nothing behind, nothing to flush."""
        real = self._real
        return real.force_flush(timeout_millis) if real else True

    def shutdown(self) -> None:
        """Shuts the SDK behind down; `init()` can put another one here."""
        if real := self.detach():
            real.shutdown()

    def _sdk_for(self, added: object) -> S | None:
        """The SDK behind, which what is added goes with; without one, a warning that it is not."""
        real = self._real
        if real is None:
            _logger.warning("No SDK is set up: %r was not added", added)
        return real

    def _update_resource(self, resource: Resource) -> None:
        real: Any = self._real  # private in the SDK
        if real:
            real._update_resource(resource)
