"""What the wrappers need of the instrumentor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llamatelemetry.genai import Instrumenter
    from llamatelemetry_instrumentation_llamacpp._origins import Origins


class Owner(Protocol):
    """Holds what calls are made with; both change when it instruments anew."""

    @property
    def instrumenter(self) -> Instrumenter:
        """Makes the calls."""
        ...

    @property
    def origins(self) -> Origins:
        """Knows the servers."""
        ...
