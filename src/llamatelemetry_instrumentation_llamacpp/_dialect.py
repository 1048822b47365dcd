"""What the plugin wants of an HTTP library, whatever that library calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llamatelemetry.genai import Instrumenter, Observer
    from llamatelemetry_instrumentation_llamacpp._exchange import Exchange


class Dialect(Protocol):
    """What an HTTP library calls the things that are wanted of it."""

    def request_body(self, request: Any, /) -> bytes | str | None:
        """Give the body if it is in memory; one that is streamed is left alone."""
        ...

    def propagate(self, instrumenter: Instrumenter, client: Any, request: Any, /) -> Any:
        """Write the trace's headers into a copy of the request's; give what `restore` takes."""
        ...

    def restore(self, request: Any, headers: Any, /) -> None:
        """Give the request back the headers it had."""
        ...

    def is_part_of(self, client: Any, request: Any, outer: Exchange, /) -> bool:
        """Say whether this request is sent on behalf of an outer one: a redirect, a cache."""
        ...

    def content(self, response: Any, /) -> bytes | None:
        """Give the decoded body if it has been read."""
        ...

    def headers_ns(self, response: Any, sent_ns: int, /) -> int | None:
        """Give when the headers came, where the library knows; ``None`` is now."""
        ...

    def redirected_s(self, response: Any, /) -> float:
        """Give the seconds that were spent on being redirected before the last request."""
        ...

    def is_networked(self, response: Any, /) -> bool:
        """Say whether the reply came over the network, as it does not in tests of applications."""
        ...

    def tap(self, response: Any, watch: Observer, encoding: str, /) -> None:
        """Have the bytes of the body told to the watch as the application reads them."""
        ...

    @property
    def tells_decoded(self) -> bool:
        """Whether what `tap` tells is decoded, or as it came over the network."""
        ...
